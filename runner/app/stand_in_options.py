"""--algorithm, --pipeline and --datasource: what they name, checked before the run."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...sandbox.shared.entry import EntryError, Location, locate
from ..console.terminal import Output
from ..errors import EntryNotFound, InstallFailed, SettingsError
from ..io.loop import Loop
from ..prepare.prepare import prepare, with_python
from ..settings.descriptor_search import find, without_function
from ..settings.limit_options import beyond_container, limits_of
from ..settings.settings import CodeSource, Settings
from .install_progress import install_progress
from .other_algorithms import LocalAlgorithms

if TYPE_CHECKING:
    from ..settings.descriptor_schema import Descriptor


def algorithms_of(
    loop: Loop, settings: Settings, output: Output, on_problem: Callable[[str], None]
) -> LocalAlgorithms:
    """Return the algorithms with a complete catalog. Raises SettingsError, EntryNotFound."""
    stack = contextlib.ExitStack()
    ready = {
        name: ready_algorithm(path, settings, stack, shown=f"--algorithm {name}")
        for name, path in settings.local_run.algorithms.items()
    }
    algorithms = LocalAlgorithms(loop, output, ready, on_problem)
    algorithms.on_close = stack.close
    said: set[str] = set()

    def say_once(text: str) -> None:
        if text not in said:
            said.add(text)
            output.say(f"◌ {text}")

    algorithms.catalog = replace(
        algorithms.catalog,
        pipelines={
            name: read_pipeline(path, settings.code.cwd, shown=f"--pipeline {name}")
            for name, path in settings.local_run.pipelines.items()
        },
        sources={
            name: _folder(name, path, settings.code.cwd)
            for name, path in settings.local_run.data_sources.items()
        },
        on_missing=say_once,
        on_retry=say_once,
    )
    for name, (own, _) in ready.items():
        for note in own.console.notes:
            say_once(f"{name}: {note}")
        # The replicas of a stream pipeline are counted together.
        beyond = None if settings.local_run.stream_pipeline else beyond_container(own.limits)
        if beyond is not None:
            say_once(f"{name}: {beyond}")
    return algorithms


def ready_algorithm(
    path: str,
    settings: Settings,
    stack: contextlib.ExitStack,
    *,
    shown: str,
    runs: bool = True,
) -> tuple[Settings, Location]:
    """Return the settings of an algorithm, and its code.

    `shown`: what errors begin with. `runs`: whether tasks will run; nothing is installed otherwise.

    Raises SettingsError, EntryNotFound, InstallFailed.

    Its limits and variables come from its own descriptor, as in the cluster; without one, or where that does
    not set a limit, from the options of the run.
    """
    progress = install_progress(settings) if runs else None
    asked = settings.code.base_python or settings.code.python
    common = settings._replace(
        code=settings.code._replace(path=None, command=None, argv=(), python=asked, base_python=None),
        serving=settings.serving._replace(encoding="json", spare=False, redirect_logs=False),
        local_run=settings.local_run._replace(is_local=True, in_process=False),
        console=settings.console._replace(notes=()),
    )
    try:
        descriptor = _descriptor(path, settings)
        if descriptor is not None:
            return prepare(_with(descriptor, path, common), os.environ, stack, runs=runs, progress=progress)
        where = locate(path, None, settings.code.cwd)
        own = common._replace(code=_code(settings, common, where))
        if settings.code.install:
            own = with_python(own, where, os.environ, stack, progress)
    except (SettingsError, EntryNotFound, InstallFailed) as error:
        raise type(error)(f"{shown}: {error}") from None
    except EntryError as error:
        raise EntryNotFound(f"{shown}: {error.code}: {error}") from None
    return own, where


def _code(settings: Settings, common: Settings, where: Location) -> CodeSource:
    """Return the code of an algorithm without a descriptor, with the variables of the options only."""
    code = settings.code
    others = code.descriptor.variables if code.descriptor is not None else {}
    env = {key: value for key, value in code.variables.items() if others.get(key) != value}
    if code.base_python is not None and env.pop("VIRTUAL_ENV", None) is not None:
        # What activates the environment of the run's own algorithm.
        env["PATH"] = env["PATH"].removeprefix(os.path.dirname(code.python)).removeprefix(os.pathsep)
    return common.code._replace(entry=where.file or where.module, descriptor=None, variables=env)


def _descriptor(path: str, settings: Settings) -> Descriptor | None:
    """Return the descriptor of this algorithm: the file itself, or one in its folder that belongs to it."""
    from ..settings.descriptor import read  # late: a run without other algorithms reads no descriptor

    place = os.path.join(settings.code.cwd, os.path.expanduser(path))
    if path.endswith((".yml", ".yaml", ".json")):
        return read(place)
    file = find(place, None, os.path.dirname(place))
    if file is None:
        return None
    found = read(file)
    if os.path.isdir(place):
        return found
    # With several algorithms in one folder, a descriptor belongs to the one that its entry point names.
    code = without_function(place)
    named = os.path.join(found.code_path or found.folder, without_function(found.entry or ""))
    stem = os.path.splitext(os.path.basename(file))[0] == os.path.splitext(os.path.basename(code))[0]
    is_its = found.entry is not None and os.path.splitext(named)[0] == os.path.splitext(code)[0]
    is_runs = settings.code.descriptor is not None and settings.code.descriptor.file == found.file
    return found if is_its or stem or (found.entry is None and not is_runs) else None


def _with(descriptor: Descriptor, path: str, common: Settings) -> Settings:
    given = {name: value for name, value in common.records.options.items() if name not in ("cpu", "mem")}
    for name in ("cpu", "mem"):
        if getattr(descriptor, name) is None and name in common.records.options:
            given[name] = common.records.options[name]
    limits, limits_from = limits_of(given, {}, descriptor)
    is_file = path.endswith((".yml", ".yaml", ".json"))
    entry: str | None = path
    if descriptor.env != "python":
        # The entry of a program is a file in the folder of its code, which the descriptor names.
        entry = os.path.abspath(os.path.join(common.code.cwd, os.path.expanduser(path)))
        entry = None if os.path.isdir(entry) else entry
    code = common.code._replace(
        entry=None if is_file else entry,
        is_descriptor_named=is_file,
        descriptor=descriptor,
        variables=dict(descriptor.variables),
    )
    return common._replace(
        code=code,
        console=common.console._replace(notes=descriptor.notes),
        limits=limits,
        limits_from=limits_from,
        gpus=common.gpus._replace(number=descriptor.gpus, set_by=f"gpu: in {descriptor.shown}"),
    )


def _folder(name: str, path: str, cwd: str) -> str:
    folder = os.path.abspath(os.path.join(cwd, os.path.expanduser(path)))
    if not os.path.isdir(folder):
        raise SettingsError(f"--datasource {name}: no such folder: {folder}")
    return folder


def read_pipeline(path: str, cwd: str, *, shown: str) -> dict[str, Any]:
    """Return the document of a pipeline. `shown`: what errors begin with. Raises SettingsError."""
    place = os.path.join(cwd, os.path.expanduser(path))
    try:
        with open(place, encoding="utf-8-sig") as file:
            text = file.read()
    except OSError as error:
        raise SettingsError(f"{shown}: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{shown}: {path} is not valid: {error}") from None
    try:
        value = _yaml(text, path) if place.endswith((".yml", ".yaml")) else json.loads(text)
        # Refused here: halves of characters, and numbers that are too long to be shown.
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise SettingsError(f"{shown}: {path} is not valid: nested too deeply") from None
    except SettingsError as error:
        raise SettingsError(f"{shown}: {error}") from None
    except ValueError as error:
        raise SettingsError(f"{shown}: {path} is not valid: {error}") from None
    if not isinstance(value, dict):
        raise SettingsError(f"{shown}: {path} must hold an object with nodes")
    return value


def _yaml(text: str, path: str) -> Any:
    from ..settings.descriptor_parser import parse_yaml  # late: a pipeline in JSON needs no YAML

    value, _ = parse_yaml(text, path)
    return value
