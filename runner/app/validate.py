"""What a run would use, without running a task: code, descriptor, methods, Python, missing imports.

The code is imported as for a run, in a child with its warden and limits, which is then asked to end.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...sandbox.child import requirements
from ...sandbox.parent.child_handle import Child
from ...sandbox.shared.entry import METHODS, Location
from ...sandbox.shared.message_format import Memfd, ProcessMessage
from ...sandbox.shared.messages import ApiCall, Done, Loaded, LoadFailed, Sample
from ...sandbox.shared.outcome import Cause, Exit, report
from ..errors import EntryUnusable, HkrunnerError, SettingsError
from ..io.loop import Loop
from ..io.signals import STOP_SIGNALS
from ..prepare.installation import install_line, installation_for
from ..prepare.missing_imports import Import, imports_of, missing, unmet
from ..prepare.prepare import prepare
from ..prepare.requirement_sources import Requirements, find_requirements
from ..serving.child_pool import ChildPool
from ..settings.settings import Settings
from .install_progress import install_progress


@dataclass
class Validation:
    """What was found; `status` is the exit status, 0 if a task could be run."""

    status: int = 0
    entry: str | None = None
    folder: str | None = None
    python: dict[str, Any] = field(default_factory=dict)
    install: dict[str, Any] | None = None
    command: list[str] | None = None  #: of a program that is the algorithm, instead of Python code
    descriptor: dict[str, Any] | None = None
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def fail(self, status: int, problem: str) -> None:
        """Add a problem, and raise the exit status."""
        self.status = max(self.status, status)
        self.problems.append(problem)

    def facts(self) -> dict[str, Any]:
        """Return everything for --json."""
        return {"ok": self.status == 0, **vars(self)}


class LoadTest:
    """One child that loads the code and ends."""

    def __init__(self, settings: Settings, where: Location) -> None:
        self.loaded: Loaded | None = None
        self.failure: str | None = None
        self.interrupted = 0
        self._loop = Loop()
        self._pool = ChildPool(self._loop, settings, where, {})
        self._pool.listen(self)

    def run(self) -> None:
        """Load the code; on return the child has ended."""
        try:
            for number in STOP_SIGNALS:
                self._loop.on_signal(number, lambda number=number: self._interrupt(number))  # type: ignore[misc]
            ready = self._pool.ready()
            if isinstance(ready, Exit):
                self.failure = report(ready)
                return
            self._pool.on_empty = self._loop.stop
            self._loop.run()
        finally:
            self._loop.close()

    def _interrupt(self, number: int) -> None:
        self.interrupted = 128 + number
        self._pool.abandon(Cause.INTERRUPTED)

    def on_message(self, child: Child, task: int, message: ProcessMessage) -> None:
        """Note Loaded and LoadFailed; ignore other messages."""
        if isinstance(message, (Done, ApiCall)) and isinstance(message.wire, Memfd):
            os.close(message.wire.fd)
        elif isinstance(message, (Loaded, LoadFailed)) and child is self._pool.child:
            if isinstance(message, Loaded):
                self.loaded = message
            else:
                self.failure = message.message
            self._pool.release(ask=True)

    def on_output(self, child: Child, stream: str, data: bytes) -> None:
        """Write it to stderr: stdout carries the report."""
        with contextlib.suppress(OSError):
            os.write(2, data)

    def on_sample(self, child: Child, sample: Sample) -> None:
        """Ignore it."""

    def on_ending(self, child: Child) -> None:
        """Ignore it."""

    def on_exit(self, child: Child, exit: Exit) -> None:
        """Note an end before the code was loaded."""
        if self.loaded is None and self.failure is None:
            self.failure = report(exit, during="during import")
        self._pool.gone(child, exit)
        self._loop.stop()


def validate(settings: Settings, environ: Mapping[str, str]) -> Validation:
    """Return what was found; problems of the code are part of it, not raised."""
    found = Validation(notes=list(settings.console.notes))
    descriptor = settings.code.descriptor
    if descriptor is not None:
        found.descriptor = {
            "file": descriptor.file,
            "fields": dict(descriptor.fields),
            "entryPoint": descriptor.entry,
            "codePath": descriptor.code_path,
        }
    with contextlib.ExitStack() as stack:
        try:
            settings, where = prepare(settings, environ, stack, progress=install_progress(settings))
            found.notes = list(settings.console.notes)
        except HkrunnerError as error:
            found.fail(error.exit_status, str(error))
            return found
        found.entry, found.folder = where.shown, where.folder
        if settings.code.argv:
            found.command = list(settings.code.argv)
            _load(found, settings, where)
            return found
        try:
            found.install = _install(settings, where, environ)
        except SettingsError as error:  # --install was not given, and without it these files are not used
            found.notes.append(f"--install: {error}")
        found.python = {"path": settings.code.python, "version": None}
        _load(found, settings, where)
        env = {**environ, **settings.code.variables}
        if where.file:
            imports = imports_of(where.file, where.folder)
            for one in missing(imports, python=settings.code.python, folder=where.folder, environ=env):
                _note_missing(found, one, settings.code.python, where.file)
        with contextlib.suppress(SettingsError):  # noted above
            if (required := find_requirements(where, settings.code.cwd)) is not None:
                _check_requirements(found, required, settings.code.python, env)
    return found


def _install(settings: Settings, where: Location, environ: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what --install has installed, or would; None if nothing says what the code requires."""
    found = installation_for(settings.code, where, settings.task_encoding, environ)
    return None if found is None else found.facts(environ)


def _load(found: Validation, settings: Settings, where: Location) -> None:
    load = LoadTest(settings, where)
    load.run()
    if load.interrupted:
        found.fail(load.interrupted, "interrupted")
        return
    if load.failure is not None:
        found.fail(EntryUnusable.exit_status, load.failure)
    if load.loaded is not None and found.command is None:
        found.python["version"] = load.loaded.python
        found.methods = load.loaded.calls
        for told in found.methods.values():
            if "problem" in told:
                found.fail(EntryUnusable.exit_status, f"ENTRY_INVALID: {told['problem']}")


def _note_missing(found: Validation, one: Import, python: str, entry: str) -> None:
    assert found.folder is not None, "its code was found"
    at = f"{os.path.relpath(one.file, os.path.realpath(found.folder))}:{one.line}"
    hint = requirements.hint(one.module, found.folder, python, entry).removeprefix("; ")
    found.missing.append({"module": one.module, "at": at, "optional": one.optional, "hint": hint})
    if not one.optional:
        found.status = max(found.status, EntryUnusable.exit_status)


def _check_requirements(
    found: Validation, required: Requirements, python: str, environ: Mapping[str, str]
) -> None:
    assert found.folder is not None, "its code was found"
    for name in required.absent_lists:
        found.fail(EntryUnusable.exit_status, f"{required.source}: {name}, which it names, is not there")
    absent = unmet(required.marked, python=python, folder=found.folder, environ=environ)
    if not absent:
        return
    remedy = "give --install"
    if required.lines is None:
        remedy += f", or install: {requirements.install_command(required.folder, python)}"
    found.fail(EntryUnusable.exit_status, f"{required.source}: not installed: {', '.join(absent)}; {remedy}")


# ---- text


def lines(found: Validation) -> list[str]:
    """Return what was found, one line each."""
    shown: list[str] = []
    if found.entry is not None:
        shown.append(f"✔ code: {found.entry} in {found.folder}")
    if found.descriptor is not None:
        shown.append(f"✔ descriptor: {os.path.basename(found.descriptor['file'])}{_of(found.descriptor)}")
    elif found.entry is not None:
        shown.append("◌ descriptor: none (algorithm.yml in the folder of the code; hkrunner init writes one)")
    if found.command is not None:
        connected = "connected" if found.status == 0 else "not connected"
        shown.append(f"{'✔' if found.status == 0 else '✘'} program: {shlex.join(found.command)}: {connected}")
    if found.python:
        version = f"{found.python['version']}, " if found.python["version"] else ""
        shown.append(f"✔ python: {version}{found.python['path']}")
    if found.install is not None:
        shown.append(f"◌ --install: {install_line(found.install)}")
    for told in found.methods.values():
        if "given" in told:
            parameters = "…" if told["parameters"] is None else told["parameters"]
            given = ", ".join(told["given"])
            shown.append(f"✔ {told['function']}({parameters}): called with ({given})")
    lacks = [name for name in METHODS if name not in found.methods]
    if found.methods and lacks:
        shown.append(f"◌ optional functions that it does not have: {', '.join(lacks)}")
    for one in found.missing:
        mark, maybe = ("◌", "; the code may work without it") if one["optional"] else ("✘", "")
        hint = f"; {one['hint']}" if one["hint"] else ""
        shown.append(f"{mark} import {one['module']} ({one['at']}): not installed{hint}{maybe}")
    shown += [f"◌ {note}" for note in found.notes]
    shown += [f"✘ {problem}" for problem in found.problems]
    return shown


def _of(descriptor: Mapping[str, Any]) -> str:
    fields = descriptor["fields"]
    names = ("name", "env", "cpu", "gpu", "mem", "reservedMemory")
    told = [f"{name} {fields[name]}" for name in names if fields.get(name) is not None]
    if descriptor["entryPoint"]:
        told.append(f"entry point {descriptor['entryPoint']}")
    if fields.get("algorithmEnv"):
        told.append(f"variables {', '.join(fields['algorithmEnv'])}")
    return f": {', '.join(told)}" if told else ""


def refused(error: HkrunnerError) -> Validation:
    """Return the result for options or a descriptor that cannot be read."""
    found = Validation()
    found.fail(error.exit_status, str(error))
    return found
