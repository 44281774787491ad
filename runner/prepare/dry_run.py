"""hkrunner run --dry-run: reports what the run would do, and starts and writes nothing.

One exception: the Python of --python or --install is started once to learn its version.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any

from ...sandbox.parent.thread_variables import thread_variables
from ...sandbox.shared.entry import Location
from ...sandbox.shared.limits import Limits, declared_limits, set_by
from ..settings.settings import Settings
from ..settings.worker_url import without_login
from .prepare import prepare


def describe_run(settings: Settings, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return what the run would do. Raises the HkrunnerError that the run would raise before its start."""
    with contextlib.ExitStack() as stack:
        ready, where = prepare(without_records(settings), environ, stack, runs=False)
        tasks = _count_tasks(settings) if settings.local_run.is_local else None
        return {
            "local": settings.local_run.is_local,
            "inProcess": settings.local_run.in_process,
            "tasks": tasks,
            "processes": _processes(settings, tasks),
            "url": None if settings.local_run.is_local else without_login(settings.serving.url),
            "encoding": settings.serving.encoding,
            **describe_surroundings(settings),
            **describe_algorithm(ready._replace(records=settings.records), where, environ),
            "board": settings.boards.board,
            "apiPort": settings.boards.api_port,
        }


def without_records(settings: Settings) -> Settings:
    """Return settings with which an archive is unpacked into a temporary folder, not the state folder."""
    return settings._replace(records=settings.records._replace(state_dir=None))


def describe_surroundings(settings: Settings) -> dict[str, Any]:
    """Return what holds for all processes of a run."""
    return {
        "outputFile": settings.console.output_file,
        "graceS": settings.serving.grace_s,
        "stateDir": settings.records.state_dir,
    }


def describe_algorithm(ready: Settings, where: Location, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return how an algorithm would run. `ready`: its settings, as prepare() has returned them."""
    descriptor = ready.code.descriptor
    return {
        "entry": where.shown,
        "function": where.function,
        "folder": _folder(ready, where),
        "python": None if ready.code.argv else ready.code.python,
        "install": _install(ready, where, environ),
        "command": list(ready.code.argv) or None,
        "descriptor": None if descriptor is None else descriptor.file,
        "limits": _limits(ready.limits),
        "limitsEnforced": ready.limits.enforced,
        "env": _variables(ready, ready.records.state_dir, environ),
        "sandbox": _sandbox(ready, where, environ),
        "notes": list(ready.console.notes),
    }


def _install(settings: Settings, where: Location, environ: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what --install does; None if there is nothing to install, or it was not given."""
    if not settings.code.install:
        return None
    from .installation import installation_for  # late: it is rarely asked for

    code = settings.code
    asked = code._replace(python=code.base_python or code.python, base_python=None)
    found = installation_for(asked, where, settings.task_encoding, environ)
    return None if found is None else found.facts(environ)


def _count_tasks(settings: Settings) -> int | None:
    """Return the number of inputs, which are checked; None when some come from stdin, which is not read."""
    from .inputs import read_inputs

    if "-" in settings.local_run.inputs or settings.local_run.tasks == "-":
        return None
    return sum(1 for _ in read_inputs(settings.local_run.inputs, settings.local_run.tasks, settings.code.cwd))


def _processes(settings: Settings, tasks: int | None) -> int:
    most = settings.local_run.parallel or 1
    return most if tasks is None else settings.local_run.processes(tasks)


def _folder(settings: Settings, where: Location) -> str:
    """Return the working folder; for packed code, the archive that the run would unpack."""
    descriptor = settings.code.descriptor
    temporary = os.path.join(tempfile.gettempdir(), "hkrunner-code-")
    if descriptor is not None and descriptor.code_path and where.folder.startswith(temporary):
        return descriptor.code_path
    return where.folder


def _limits(limits: Limits) -> list[dict[str, Any]]:
    return [
        {
            "name": limit.label,
            "value": value,
            "shown": limit.unit.show(value),
            "from": set_by(field, limits.origins),
        }
        for field, limit in declared_limits().items()
        if (value := getattr(limits, field)) is not None
    ]


def _sandbox(settings: Settings, where: Location, environ: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what the algorithm may read, write and reach; None without --sandbox strict."""
    if settings.sandbox is None:
        return None
    from .sandbox_policy import environment_of, isolation_of

    isolation = isolation_of(settings, where, {**environment_of(environ), **settings.code.variables})
    return {
        "level": settings.sandbox.least,
        "read": isolation.readable,
        "write": [*isolation.writable, "/tmp (its own)", "/dev/shm (its own)"],
        "hidden": isolation.hidden,
        "network": ["all"] if isolation.network else isolation.targets,
        "inherited": sorted(environment_of(environ)),
    }


def _variables(settings: Settings, state_dir: str | None, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that are set for the algorithm in addition to the inherited environment."""
    metrics = None if settings.local_run.is_local else settings.records.metrics_dir
    own = {"ALGO_METRICS_DIR": metrics or f"{state_dir}/…"} if state_dir is not None else {}
    limits = settings.limits
    cores = limits.cpu_cores if limits.enforced else None
    return {
        **own,
        **settings.code.variables,
        **thread_variables(cores, {**environ, **settings.code.variables}),
    }


def _rows_of_sandbox(sandbox: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("sandbox", f"strict, level {sandbox['level']} or stronger"),
        *(("may read", path) for path in sandbox["read"]),
        *(("hidden", path) for path in sandbox["hidden"]),
        *(("may write", path) for path in sandbox["write"]),
        ("network", ", ".join(sandbox["network"]) or "none"),
        ("inherits", " ".join(sandbox["inherited"])),
    ]


def lines_of_rows(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Return rows of a name and a text as indented lines."""
    return [f"  {name:<10} {text}" for name, text in rows]


def rows_of_surroundings(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what describe_surroundings() has returned as names and texts."""
    rows = [
        ("grace", f"{run['graceS']:g} s between stop and kill"),
        ("state", run["stateDir"] or "no records (--no-state)"),
    ]
    if run["outputFile"] is not None:
        rows.append(("results", run["outputFile"]))
    return rows


def rows_of_algorithm(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what describe_algorithm() has returned as names and texts."""
    function = "" if run["function"] == "start" else f":{run['function']}"
    rows = [
        ("entry", run["entry"] + function),
        ("folder", run["folder"]),
        ("python", run["python"]) if run["command"] is None else ("command", shlex.join(run["command"])),
        ("descriptor", run["descriptor"] or "none"),
    ]
    if run["install"] is not None:
        from .installation import install_line

        rows.append(("install", install_line(run["install"])))
    off = "" if run["limitsEnforced"] else ", measured only (--no-limits)"
    rows += [("limit", f"{one['name']} {one['shown']} ({one['from']}){off}") for one in run["limits"]]
    if not run["limits"]:
        rows.append(("limit", f"none{off}"))
    rows += [("variable", f"{name}={value}") for name, value in sorted(run["env"].items())]
    if run["sandbox"] is not None:
        rows += _rows_of_sandbox(run["sandbox"])
    return rows


def lines_of(run: Mapping[str, Any]) -> list[str]:
    """Return what describe_run() has returned as lines of text."""
    if run["local"]:
        count = run["tasks"]
        what = "the tasks from stdin" if count is None else f"{count} task{'s' if count != 1 else ''}"
        count = run["processes"]
        several = f" in {count} processes" if count > 1 else ""
        shown = [f"would run {what} locally{several}, and end"]
    else:
        shown = [f"would serve the worker at {run['url']} until stopped"]
    rows = [*rows_of_algorithm(run), *rows_of_surroundings(run)]
    if run["inProcess"]:
        rows.append(("process", "this one, without limits (--in-process)"))
    if run["board"]:
        rows.append(("board", "of the runs of this algorithm"))
    if run["apiPort"] is not None:
        rows.append(("routes", f"HKube's board routes on port {run['apiPort']} of 127.0.0.1"))
    shown += lines_of_rows(rows)
    return shown + [f"◌ {note}" for note in run["notes"]]
