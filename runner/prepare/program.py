"""Which program is the algorithm instead of Python code: that of --command, or of the descriptor's `env`."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping
from typing import NamedTuple

from ...sandbox.shared.entry import Location
from ..errors import EntryNotFound, SettingsError
from ..settings.settings import Settings

#: HKube's wrapper for Node.
NODE_WRAPPER = "@hkube/nodejs-wrapper"
#: Changes it as it is loaded, in whatever program of Node's.
NODE_PRELOAD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "hkube_wrapper.js")
#: A longer timer of Node's ends at once.
NODE_TIMER_MAX_MS = 2**31 - 1
#: The entry point that the wrapper runs by default.
NODE_ENTRY = "index.js"
#: The part of a memory limit that a JVM may use for its heap; the rest is for its code, threads and buffers.
HEAP_PERCENT = 70


class Program(NamedTuple):
    """A command to be executed, and where the program is."""

    argv: tuple[str, ...]
    where: Location
    variables: Mapping[str, str] = {}  #: those that it needs
    takes_any_encoding: bool = False  #: see CodeSource


def of_command(command: str, path: str | None, settings: Settings, environ: Mapping[str, str]) -> Program:
    """Return the program of --command; `path`: its working folder. Raises HkrunnerError."""
    cwd = settings.code.cwd
    if settings.code.install:
        raise SettingsError("--install is for code in Python: leave it out with --command")
    folder = os.path.abspath(os.path.join(cwd, os.path.expanduser(path))) if path else cwd
    if not os.path.isdir(folder):
        raise EntryNotFound(f"ENTRY_NOT_FOUND: no folder {path} in {cwd} (--path)")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise SettingsError(f"--command {command!r}: {error}") from None
    if not words:
        raise SettingsError("--command names no program")
    found = _executable(os.path.expanduser(words[0]), folder, settings, environ)
    if found is None:
        if os.path.isfile(os.path.join(folder, words[0])):
            raise EntryNotFound(
                f"ENTRY_NOT_FOUND: {words[0]} in {folder} is no program (--command): name the one that runs"
                f" it (--command 'python3 {words[0]}'), or make it one: chmod +x, and ./ before its name"
            )
        raise EntryNotFound(f"ENTRY_NOT_FOUND: no program {words[0]} in {folder} or on PATH (--command)")
    where = _location(folder, words)
    if os.path.basename(found) in ("node", "nodejs"):
        return Program((found, "--require", NODE_PRELOAD, *words[1:]), where, _node_variables(settings))
    return Program((found, *words[1:]), where)


def of_descriptor(
    kind: str, at: str, folder: str, entry: str | None, settings: Settings, environ: Mapping[str, str]
) -> Program:
    """Return the program of a descriptor with `env: nodejs` or `env: java`. Raises HkrunnerError.

    `at`: the place of `env`, for messages. `folder` and `entry`: of the code.
    """
    if settings.local_run.in_process or settings.code.install:
        raise SettingsError(f"{at}: env is {kind}; --in-process, --pdb and --install are for Python only")
    if entry is not None:
        entry = os.path.relpath(os.path.join(folder, entry), folder)
    make = _node if kind == "nodejs" else _java
    words, variables = make(f"{at}: env is {kind}", folder, entry, settings)
    found = _executable(words[0], folder, settings, environ)
    if found is None:
        raise EntryNotFound(f"ENTRY_NOT_FOUND: {at}: env is {kind}, and there is no {words[0]} on PATH")
    location = _location(folder, [words[0], entry or NODE_ENTRY])
    return Program((found, *words[1:]), location, variables, takes_any_encoding=kind == "nodejs")


def _node(start: str, folder: str, entry: str | None, settings: Settings) -> tuple[list[str], dict[str, str]]:
    """Return the command that starts HKube's wrapper with this entry, as HKube's image does."""
    entry = entry or NODE_ENTRY
    _need_file(start, folder, entry)
    places = [os.path.join(one, "node_modules") for one in _upwards(folder)]
    places += settings.code.variables.get("NODE_PATH", os.environ.get("NODE_PATH", "")).split(os.pathsep)
    if not any(os.path.isdir(os.path.join(place, NODE_WRAPPER)) for place in places if place):
        raise EntryNotFound(
            f"ENTRY_NOT_FOUND: {start}, and {NODE_WRAPPER} is not in the node_modules of {folder}:"
            f" npm install {NODE_WRAPPER}; a program that speaks HKube's protocol itself needs no wrapper:"
            f" --command 'node {entry}'"
        )
    # The wrapper reads it.
    _need_file(start, folder, "package.json")
    code = f'require("{NODE_WRAPPER}").run()'
    variables = {"ALGORITHM_PATH": ".", "ALGORITHM_ENTRY_POINT": entry, **_node_variables(settings)}
    return ["node", "--require", NODE_PRELOAD, "-e", code], variables


def _node_variables(settings: Settings) -> dict[str, str]:
    """Return what NODE_PRELOAD reads."""
    limits = settings.limits
    if not limits.enforced or limits.task_timeout_s is None:
        return {}
    return {"HKRUNNER_MESSAGE_MS": str(int(min(limits.task_timeout_s * 1000, NODE_TIMER_MAX_MS)))}


def _java(start: str, folder: str, entry: str | None, settings: Settings) -> tuple[list[str], dict[str, str]]:
    if entry is None or not entry.endswith((".jar", ".java")):
        raise SettingsError(f"{start}: the entry point must be a file .jar or .java, not {entry or 'none'}")
    _need_file(start, folder, entry)
    words = ["java"]
    limits = settings.limits
    if limits.enforced and limits.memory_bytes is not None:
        # A JVM takes its heap's size from the machine's memory.
        words += [f"-XX:MaxRAM={limits.memory_bytes}", f"-XX:MaxRAMPercentage={HEAP_PERCENT}"]
    return [*words, *(("-jar",) if entry.endswith(".jar") else ()), entry], {}


def _need_file(start: str, folder: str, entry: str) -> None:
    if not os.path.isfile(os.path.join(folder, entry)):
        raise EntryNotFound(f"ENTRY_NOT_FOUND: {start}, and there is no file {entry} in {folder}")


def _upwards(folder: str) -> list[str]:
    found = [folder]
    while os.path.dirname(found[-1]) != found[-1]:
        found.append(os.path.dirname(found[-1]))
    return found


def _executable(name: str, folder: str, settings: Settings, environ: Mapping[str, str]) -> str | None:
    """Return the path of a program: relative to the folder if its name has a slash, else on the PATH."""
    if os.sep in name:
        path = os.path.join(folder, name)
        return os.path.abspath(path) if os.path.isfile(path) and os.access(path, os.X_OK) else None
    return shutil.which(name, path=settings.code.variables.get("PATH", environ.get("PATH")))


def _location(folder: str, words: list[str]) -> Location:
    """Return the location of the first word that is a file of the folder, else of the program's own name."""
    for word in (*words[1:], words[0]):
        file = os.path.join(folder, word)
        if os.path.isfile(file):
            return Location(folder, "", "start", os.path.abspath(file))
    return Location(folder, os.path.basename(words[0]), "start", "")
