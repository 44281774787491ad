"""The frozen Settings of one run, made of the options' values and the descriptor."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, quote, urlsplit

from ...sandbox.shared.limits import (
    Limits,
    child_memory_bytes,
    container_memory_bytes,
    format_bytes,
    parse_cpu,
    parse_memory,
    parse_size,
)
from ..errors import SettingsError
from .options import DEFAULT_URL, OPTIONS

if TYPE_CHECKING:
    from .descriptor import Descriptor

__all__ = [
    "DEFAULT_URL",
    "NO_LIMITS",
    "OPTIONS",
    "Settings",
    "WorkerSettings",
    "limits_of",
    "settings_of",
    "worker_settings_of",
    "worker_url",
]

NO_LIMITS = Limits()

#: One that serves for weeks must not fill its disk: what is larger, HKube's storage has, and what is older.
KEEP_SERVING = 1000
KEEP_VALUES_SERVING = 256 * 1024


@dataclass(frozen=True)
class Settings:
    """What one run of hkrunner was asked to do."""

    entry: str | None
    path: str | None
    cwd: str
    url: str
    encoding: str
    grace_s: float
    connect_timeout_s: float | None
    state_dir: str | None  #: None: no records
    json: bool
    quiet: bool
    verbose: bool
    local: bool
    inputs: tuple[str, ...] = ()
    tasks: str | None = None
    python: str = sys.executable
    child_env: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = NO_LIMITS
    limits_from: str = ""  #: where limits come from that no option or variable named; "" otherwise
    descriptor: Descriptor | None = None
    file_given: bool = False  #: the descriptor was named, not found
    gpus: int = 0
    gpus_from: str = "--gpu"
    no_gpu: bool = False
    notes: tuple[str, ...] = ()  #: what the user is told before anything begins
    spare: bool = False
    recycle_after: int | None = None
    end_children: bool = False
    api_errors: str = "raise"
    redirect_logs: bool = False
    events: bool = False  #: every event goes to stdout, a JSON object a line
    output_file: str | None = None  #: what would go to stdout goes there
    full_trace: bool = False
    color: str = "auto"  #: auto, always or never
    metrics_dir: str | None = None  #: what ALGO_METRICS_DIR is for every task; None: one of its own
    env_files: tuple[str, ...] = ()
    watch: bool = False
    #: With --watch: these settings once more, with the files that they come from read again.
    read_again: Callable[[], Settings] | None = None
    in_process: bool = False
    pdb: bool = False
    board: bool = False
    open: bool = False
    board_port: int = 0
    api_port: int | None = None
    keep: int | None = None  #: records of that many tasks, whoever made them; None: all
    keep_own: int | None = None  #: records of that many tasks of this process; None: all
    keep_values_bytes: int | None = None  #: inputs and results up to this size; None: all
    #: The option values of this run, as `runs again` gives them once more; prepare() adds where the code is.
    given: Mapping[str, object] = field(default_factory=dict)
    algorithms: Mapping[str, str] = field(default_factory=dict)  #: name -> file, as written
    pipelines: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str | None:
        """What the descriptor calls the algorithm."""
        return None if self.descriptor is None else self.descriptor.name

    @property
    def local_command(self) -> str:
        """The command that runs this code at once, without a worker."""
        import shlex  # a word for people, once

        words = ["hkrunner"]
        if self.entry is not None:
            words += ["--entry", self.entry]
        if self.path is not None:
            words += ["--path", self.path]
        if self.file_given and self.descriptor is not None:
            words += ["--file", os.path.relpath(self.descriptor.file, self.cwd)]
        return f"{shlex.join(words)} --input '[1, 2, 3]'"


@dataclass(frozen=True)
class WorkerSettings:
    """What `hkrunner worker` was asked to do; `settings` holds for the algorithms it runs for others."""

    settings: Settings
    host: str
    port: int
    once: bool


def worker_settings_of(values: Mapping[str, Any]) -> WorkerSettings:
    """Return the settings of `hkrunner worker`; raises SettingsError with one sentence."""
    missing = {option.name: option.default for option in OPTIONS if option.name not in values}
    settings = settings_of({**missing, **values, "url": DEFAULT_URL}, {})
    port = str(values["port"])
    if not port.isdecimal() or int(port) > 65535:
        raise SettingsError(f"--port wants a number from 0 (any free one) to 65535, not {port!r}")
    settings = replace(settings, local=True, keep_own=None, keep_values_bytes=None)
    return WorkerSettings(settings, str(values["host"]), int(port), bool(values["once"]))


def settings_of(values: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """Return the settings for these option values; raises SettingsError with one sentence."""
    grace_s = _seconds(values, "grace_s", "--grace", least=0.0)
    connect_timeout_s = _seconds(values, "connect_timeout_s", "--connect-timeout", least=0.0)
    inputs = tuple(values.get("input") or ())
    tasks = values.get("tasks")
    assert grace_s is not None, "--grace has a default"
    if values.get("watch") and not inputs and tasks is None:
        raise SettingsError("--watch runs inputs again when the code has changed: give --input or --tasks")
    descriptor = _descriptor(values)
    limits, limits_from = limits_of(values, environ, descriptor)
    in_process = bool(values.get("in_process") or values.get("pdb"))
    notes: tuple[str, ...] = ()
    if in_process:
        limits, notes = _in_process(values, limits)
    gpus, gpus_from = _gpus(values, descriptor)
    child_env, env_files = _own_variables(values)
    as_json, events = _format(values, environ)
    quiet, verbose, level_note = _loudness(values, environ)
    metrics_dir = values.get("metrics_dir")
    metrics_dir = os.path.abspath(os.path.expanduser(metrics_dir)) if metrics_dir else None
    if metrics_dir is not None and values.get("no_state"):
        child_env = {"ALGO_METRICS_DIR": metrics_dir, **child_env}  # nobody else tells the algorithm
    local = bool(inputs) or tasks is not None
    return Settings(
        entry=values.get("entry"),
        path=values.get("path"),
        cwd=os.getcwd(),
        url=worker_url(
            values.get("url"), environ, values["encoding"], hostname=bool(values.get("redirect_logs"))
        ),
        encoding=values["encoding"],
        grace_s=grace_s,
        connect_timeout_s=connect_timeout_s,
        state_dir=None if values.get("no_state") else os.path.abspath(values["state_dir"]),
        json=as_json,
        quiet=quiet,
        verbose=verbose,
        local=local,
        inputs=inputs,
        tasks=tasks,
        python=values.get("python") or sys.executable,
        # What the file says is the algorithm's own environment and goes before the shell's, as in the
        # cluster, where it goes before the image's.
        child_env=child_env if descriptor is None else {**descriptor.variables, **child_env},
        limits=limits,
        limits_from=limits_from,
        descriptor=descriptor,
        file_given=values.get("file") is not None,
        gpus=gpus,
        gpus_from=gpus_from,
        no_gpu=bool(values.get("no_gpu")),
        notes=(*(() if descriptor is None else _notes(descriptor, child_env)), *notes, *level_note),
        spare=bool(values.get("spare")),
        recycle_after=_count(values, "recycle_after", "--recycle-after"),
        end_children=bool(values.get("end_children")),
        api_errors=values.get("api_errors") or "raise",
        events=events,
        output_file=values.get("output_file"),
        full_trace=bool(values.get("full_trace")),
        color=values.get("color") or "auto",
        metrics_dir=metrics_dir,
        env_files=env_files,
        watch=bool(values.get("watch")),
        read_again=partial(settings_of, values, environ) if values.get("watch") else None,
        in_process=in_process,
        pdb=bool(values.get("pdb")),
        board=bool(values.get("board")),
        open=bool(values.get("open")),
        board_port=_count(values, "board_port", "--board-port", least=0) or 0,
        api_port=_count(values, "api_port", "--api-port", least=0),
        keep=None if values.get("keep") == "all" else _count(values, "keep", "--keep", least=0),
        keep_own=KEEP_SERVING if not local and values.get("keep") is None else None,
        keep_values_bytes=_keep_values(values, local=local),
        given=_repeatable(values),
        redirect_logs=bool(values.get("redirect_logs")),
        algorithms=_named(values, "algorithm", "FILE"),
        pipelines=_named(values, "pipeline", "FILE"),
        sources=_named(values, "datasource", "DIR"),
    )


def _descriptor(values: Mapping[str, Any]) -> Descriptor | None:
    # Late: --help and --version have no descriptor.
    from . import descriptor as descriptors

    file = values.get("file")
    if file is None:
        file = descriptors.find(values.get("entry"), values.get("path"), os.getcwd())
    return None if file is None else descriptors.read(file)


#: What needs a process that hkrunner starts, and can replace.
_NOT_IN_PROCESS = ("watch", "spare", "recycle_after", "end_children", "redirect_logs", "python")


def _in_process(values: Mapping[str, Any], limits: Limits) -> tuple[Limits, tuple[str, ...]]:
    """Return the limits that hold with --in-process, none, and what to say of those that do not."""
    named = "--pdb" if values.get("pdb") else "--in-process"
    for name in _NOT_IN_PROCESS:
        if values.get(name):
            flag = next(option.flags[-1] for option in OPTIONS if option.name == name)
            raise SettingsError(f"{named} runs the code in this one process: leave {flag} out")
    if "-" in (values.get("input") or ()) or values.get("tasks") == "-":
        raise SettingsError(
            f"{named} leaves stdin to the code: give the inputs in a file (@FILE, --tasks FILE)"
        )
    if not limits.enforced or limits._replace(mem_mode=NO_LIMITS.mem_mode, origins=()) == NO_LIMITS:
        return NO_LIMITS, ()
    return NO_LIMITS, (f"{named}: no limit holds, a process at a breakpoint is not ended",)


def _notes(descriptor: Descriptor, given: Mapping[str, str]) -> tuple[str, ...]:
    missing = [name for name in descriptor.references if name not in given]
    if not missing:
        return descriptor.notes
    at = descriptor.at(f"/algorithmEnv/{missing[0]}", "/algorithmEnv")
    told = f"{at}: only the cluster knows the value of {', '.join(missing)}: left out"
    return (*descriptor.notes, f"{told} (--env {missing[0]}=… sets it)")


def _gpus(values: Mapping[str, Any], descriptor: Descriptor | None) -> tuple[int, str]:
    count = _count(values, "gpu", "--gpu", least=0)
    if count is None and descriptor is not None:
        return descriptor.gpus, f"gpu: in {descriptor.at('/resources/gpu', '/gpu')}"
    return count or 0, "--gpu"


#: Option -> the limit it sets.
_LIMIT_OPTIONS = {
    "cpu": "cpu_cores",
    "mem": "memory_bytes",
    "pids": "pids",
    "timeout_s": "task_timeout_s",
    "start_timeout_s": "start_timeout_s",
    "cpu_time_s": "cpu_time_s",
    "files": "files",
    "disk": "disk_bytes",
}


def _origins(
    values: Mapping[str, Any], environ: Mapping[str, str], descriptor: Descriptor | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values with those of the descriptor, and for each limit that no flag has set what has."""
    found = dict(values)
    origins: dict[str, str] = {}
    for option in OPTIONS:
        limit = _LIMIT_OPTIONS.get(option.name)
        value = found.get(option.name)
        if limit is not None and value is not None:
            origins.update((limit, name) for name in option.env if environ.get(name) == value)
    for name in ("cpu", "mem"):
        written = getattr(descriptor, name, None)
        if written is not None and found.get(name) is None:
            assert descriptor is not None, "it has just told a value"
            found[name] = written
            origins[_LIMIT_OPTIONS[name]] = f"{name}: in {descriptor.shown}"
    return found, origins


#: Options that belong to one call, not to the task: where results go, which board is shown.
_NOT_REPEATED = frozenset(
    (
        "input",
        "tasks",
        "json",
        "state_dir",
        "no_state",
        "keep",
        "keep_values",
        "quiet",
        "verbose",
        "url",
        "file",
        "output",
        "output_file",
        "again",
        "full_trace",
        "color",
        "metrics_dir",
        "in_process",
        "pdb",
    )
).union(("connect_timeout_s", "board", "open", "board_port", "api_port", "redirect_logs", "dry_run", "watch"))


#: NAME=PATH
_NAMED_FILES = ("algorithm", "pipeline", "datasource")


def _repeatable(values: Mapping[str, Any]) -> dict[str, object]:
    """Return the values that make a task what it is, but for its code; paths are made absolute."""
    found: dict[str, object] = {}
    by_name = {option.name: option for option in OPTIONS}
    for name, value in values.items():
        option = by_name.get(name)
        if option is None or name in _NOT_REPEATED or value is None or value == option.default or value == ():
            continue
        found[name] = list(value) if isinstance(value, tuple) else value
    # Which code it is, is known once it is found: see prepare.py.
    found.pop("entry", None)
    found.pop("path", None)
    if found.get("env_file"):
        found["env_file"] = [os.path.abspath(os.path.expanduser(one)) for one in values["env_file"]]
    for name in _NAMED_FILES:
        if found.get(name):
            found[name] = [_absolute(pair) for pair in values[name]]
    return found


def _absolute(pair: str) -> str:
    name, equals, path = pair.partition("=")
    full = os.path.abspath(os.path.expanduser(path))
    # A dotted module is looked for in the working folder: there is no path to it.
    return f"{name}{equals}{full}" if os.path.exists(full) or os.path.exists(full + ".py") else pair


def limits_of(
    values: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
    descriptor: Descriptor | None = None,
    *,
    root: str = "/",
) -> tuple[Limits, str]:
    """Return the limits, and where those come from that no option or variable named.

    None is enforced that nobody wrote down, but for one: in a container with a memory limit of its own
    the algorithm gets that less what we need, so that it is ended with a reason instead of the container
    without one. Raises SettingsError.
    """
    no_limits = bool(values.get("no_limits"))
    values, origins = _origins(values, environ or {}, descriptor)
    memory_bytes = _quantity(values, "mem", "--mem", parse_memory)
    limits_from = ""
    if descriptor is not None and any(one.endswith(f"in {descriptor.shown}") for one in origins.values()):
        limits_from = descriptor.shown
    if memory_bytes is None and not no_limits:
        container = container_memory_bytes(root=root)
        if container is not None:
            memory_bytes = child_memory_bytes(container)
            origins["memory_bytes"] = f"the container's {format_bytes(container)} less what hkrunner needs"
            limits_from = ", ".join(filter(None, (f"memory: {origins['memory_bytes']}", limits_from)))
    disk_bytes = _quantity(values, "disk", "--disk", parse_memory)
    found = Limits(
        cpu_cores=_quantity(values, "cpu", "--cpu", parse_cpu),
        memory_bytes=memory_bytes,
        pids=_count(values, "pids", "--pids"),
        task_timeout_s=_seconds(values, "timeout_s", "--timeout", least=0.001),
        start_timeout_s=_seconds(values, "start_timeout_s", "--start-timeout", least=0.001),
        cpu_time_s=_seconds(values, "cpu_time_s", "--cpu-time", least=0.001),
        files=_count(values, "files", "--files", least=16),
        disk_bytes=disk_bytes,
        mem_mode=values.get("mem_mode") or "brake",
        enforced=not no_limits,
        origins=tuple(origins.items()),
    )
    return found, limits_from


_Number = TypeVar("_Number", int, float)


def _quantity(
    values: Mapping[str, Any], name: str, flag: str, parse: Callable[[str], _Number]
) -> _Number | None:
    value = values.get(name)
    if value is None:
        return None
    try:
        return parse(str(value))
    except ValueError as error:
        raise SettingsError(f"{flag} {value}: {error}") from None


def _count(values: Mapping[str, Any], name: str, flag: str, *, least: int = 1) -> int | None:
    value = values.get(name)
    if value is None:
        return None
    try:
        number = int(str(value))
    except ValueError:
        raise SettingsError(f"{flag} wants a whole number, not {value!r}") from None
    if not least <= number < 2**31:
        raise SettingsError(f"{flag} wants a whole number from {least} on, not {value!r}")
    return number


def _keep_values(values: Mapping[str, Any], *, local: bool) -> int | None:
    asked = values.get("keep_values")
    if asked is None:
        return None if local else KEEP_VALUES_SERVING
    if asked == "all":
        return None
    try:
        return 0 if asked == "0" else parse_size(asked)
    except ValueError as error:
        raise SettingsError(f"--keep-values {asked}: {error}; or give all") from None


def _seconds(values: Mapping[str, Any], name: str, flag: str, *, least: float) -> float | None:
    value = values.get(name)
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        raise SettingsError(f"{flag} wants a number of seconds, not {value!r}") from None
    if not least <= number < 1e9:
        raise SettingsError(f"{flag} wants a number of seconds from {least:g} on, not {value!r}")
    return number


def _own_variables(values: Mapping[str, Any]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the variables of --env and --env-file, and the files, absolute."""
    found: dict[str, str] = {}
    files = tuple(os.path.abspath(os.path.expanduser(one)) for one in values.get("env_file") or ())
    if files:
        from .env_file import read_variables

        for path in values["env_file"]:
            found.update(read_variables(path))
    return {**found, **_variables(values.get("env") or ())}, files


def _format(values: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[bool, bool]:
    """Return whether stdout carries an object a task, and whether it carries every event."""
    asked = values.get("output") or "human"
    if values.get("json"):
        # The variable is a habit, the flag is meant for this call.
        if asked == "jsonl" and environ.get("HKRUNNER_OUTPUT") != asked:
            raise SettingsError("--json and --output jsonl: give one of them")
        asked = "json"
    is_local = values.get("input") or values.get("tasks") is not None
    if values.get("output_file") is not None:
        if values.get("watch"):
            raise SettingsError("--watch goes on until it is ended: leave --output-file out")
        if not is_local:
            raise SettingsError(
                "--output-file takes the results of a local run: give --input or --tasks with it"
            )
    return asked == "json", asked == "jsonl"


def _loudness(values: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[bool, bool, tuple[str, ...]]:
    """Return (quiet, verbose, what to say): the flags', else those of the wrapper's own variable."""
    quiet, verbose = bool(values.get("quiet")), bool(values.get("verbose"))
    level = environ.get("HKUBE_LOG_LEVEL", "").strip()
    if quiet or verbose or not level:
        return quiet, verbose, ()
    number = _LEVELS.get(level.upper(), int(level) if level.isdecimal() else None)
    if number is None:
        return False, False, (f"HKUBE_LOG_LEVEL={level} is none of {', '.join(_LEVELS)}: taken for INFO",)
    return number >= _LEVELS["WARNING"], number <= _LEVELS["DEBUG"], ()


#: The levels of Python's logging, which is what HKube's own wrapper hands the variable to.
_LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "WARN": 30, "ERROR": 40, "CRITICAL": 50, "FATAL": 50}


def _variables(pairs: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise SettingsError(f"--env wants NAME=VALUE, not {pair!r}")
        found[name] = value
    return found


def _named(values: Mapping[str, Any], name: str, what: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in values.get(name) or ():
        key, equals, value = pair.partition("=")
        if not equals or not key or not value:
            raise SettingsError(f"--{name} wants NAME={what}, not {pair!r}")
        if key in found:
            raise SettingsError(f"--{name}: {key} is given twice")
        found[key] = value
    return found


def worker_url(url: str | None, environ: Mapping[str, str], encoding: str, *, hostname: bool = False) -> str:
    """Return the worker's URL with the query it reads on the first connection.

    `url` (--url, else WORKER_SOCKET_URL), else WORKER_SOCKET_PROTOCOL, _HOST and _PORT, else
    ws://localhost:3000. Storage is v1: the worker moves the data. Raises SettingsError.
    """
    names = ("WORKER_SOCKET_PROTOCOL", "WORKER_SOCKET_HOST", "WORKER_SOCKET_PORT")
    given = ["WORKER_SOCKET_URL"] if url and url == environ.get("WORKER_SOCKET_URL") else []
    if not url:
        if any(environ.get(name) for name in names):
            protocol, host, port = (environ.get(name) or "" for name in names)
            url = f"{protocol or 'ws'}://{host or '127.0.0.1'}:{port or '3000'}"
            given = [name for name in names if environ.get(name)]
        else:
            url = DEFAULT_URL
    where = f" (given by {', '.join(given)})" if given else ""
    try:
        parts = urlsplit(url)
        port_number = parts.port
    except ValueError as error:
        raise SettingsError(f"the worker's URL {url!r} is wrong: {error}{where}") from None
    if parts.scheme not in ("ws", "wss") or not parts.hostname or port_number == 0:
        raise SettingsError(f"the worker's URL must look like {DEFAULT_URL}, not {url!r}{where}")
    have = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
    wanted = {"storage": "v1", "encoding": encoding}
    if hostname:
        wanted["hostname"] = quote(os.uname().nodename, safe="")
    more = [f"{name}={value}" for name, value in wanted.items() if name not in have]
    query = "&".join([parts.query, *more] if parts.query else more)
    return f"{parts.scheme}://{parts.netloc}{parts.path}?{query}"
