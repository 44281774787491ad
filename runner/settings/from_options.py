"""Makes Settings from option values, variables and the descriptor, or says in one sentence what is wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...sandbox.codec import SOCKET_IO
from ...sandbox.shared.limits import Limits, parse_size
from ..errors import SettingsError
from .cluster_options import ClusterSettings, cluster_settings
from .descriptor_search import find
from .limit_options import TOTAL_OPTIONS, limits_of, recorded_shares
from .options import BY_NAME, OPTIONS
from .parsing import (
    PORT_MAX,
    parse_count,
    parse_named_paths,
    parse_seconds,
    parse_variables,
    refuse_empty_paths,
)
from .pipeline_option import check_stream_options, stored_pipelines, stream_pipeline
from .sandbox_options import sandbox_of
from .settings import (
    NO_LIMITS,
    Boards,
    CodeSource,
    Console,
    Gpus,
    LocalRunSettings,
    Records,
    Serving,
    Settings,
    WorkerSettings,
)
from .worker_url import DEFAULT_URL, worker_url

if TYPE_CHECKING:
    from .descriptor_schema import Descriptor
    from .storage_settings import StorageSettings

#: Limits of the records when serving, which may take weeks: HKube's storage has the larger values.
KEEP_SERVING = 1000
KEEP_VALUES_SERVING = 256 * 1024
#: More processes than any machine of today has use for: a typing mistake.
PARALLEL_MAX = 1000


def worker_settings_of(values: Mapping[str, Any], environ: Mapping[str, str]) -> WorkerSettings:
    """Return the settings of `hkrunner worker`; raises SettingsError with one sentence."""
    missing = {option.name: option.default for option in OPTIONS if option.name not in values}
    settings = settings_of({**missing, **values, "url": DEFAULT_URL}, {})
    if settings.local_run.stream_pipeline is not None:
        raise SettingsError(f"--pipeline wants NAME=FILE, not {settings.local_run.stream_pipeline!r}")
    port = str(values["port"])
    if not port.isdecimal() or len(port) > 5 or int(port) > PORT_MAX:
        raise SettingsError(f"--port wants a number from 0 (any free one) to 65535, not {port!r}")
    if not values["host"]:
        raise SettingsError("--host wants ADDRESS, not ''")  # it would be all of the machine's
    settings = settings._replace(
        local_run=settings.local_run._replace(is_local=True),
        records=settings.records._replace(keep_own=None, keep_values_bytes=None),
    )
    return WorkerSettings(
        settings, str(values["host"]), int(port), bool(values["once"]), _storage_of_worker(environ)
    )


def _storage_of_worker(environ: Mapping[str, str]) -> StorageSettings | None:
    from .storage_settings import StorageSettings, storage_settings  # late, as in _storage()

    found = storage_settings(environ, StorageSettings().timeout_s)
    return found if found.kind == "fs" else None


def settings_of(
    values: Mapping[str, Any], environ: Mapping[str, str], *, finds_descriptor: bool = True
) -> Settings:
    """Return the settings for these option values; raises SettingsError with one sentence.

    `finds_descriptor`: whether one is looked for where none is named.
    """
    refuse_empty_paths(values, OPTIONS)
    finds_descriptor = finds_descriptor and stream_pipeline(values) is None
    descriptor = _descriptor(values) if finds_descriptor or values.get("file") is not None else None
    cluster = cluster_settings(
        values, environ, local=_is_local(values), name=None if descriptor is None else descriptor.name
    )
    local_run = _local_run(values, cluster)
    limits, limits_from = limits_of(values, environ, descriptor, processes=local_run.parallel or 1)
    notes: tuple[str, ...] = ()
    if local_run.in_process:
        limits, notes = _in_process(values, limits)
    code = _code(values, descriptor)
    if descriptor is not None:
        notes = (*_notes(descriptor, code.variables), *notes)
    return Settings(
        code,
        _serving(values, environ),
        _records({**values, **recorded_shares(values, limits)}, local=local_run.is_local),
        limits=limits,
        limits_from=limits_from,
        gpus=_gpus(values, descriptor),
        sandbox=sandbox_of(values, environ),
        local_run=local_run,
        console=_console(values, environ, notes),
        boards=Boards(
            board=bool(values.get("board")),
            open=bool(values.get("open")),
            board_port=parse_count(values, BY_NAME["board_port"], least=0, most=PORT_MAX) or 0,
            api_port=parse_count(values, BY_NAME["api_port"], least=0, most=PORT_MAX),
        ),
        cluster=cluster,
    )


def _local_run(values: Mapping[str, Any], cluster: ClusterSettings) -> LocalRunSettings:
    inputs = tuple(values.get("input") or ())
    tasks = values.get("tasks")
    watch = bool(values.get("watch"))
    check_stream_options(values)
    if watch and not inputs and tasks is None:
        raise SettingsError("--watch runs inputs again when the code has changed: give --input or --tasks")
    is_local = _is_local(values)
    return LocalRunSettings(
        is_local=is_local,
        inputs=inputs,
        tasks=tasks,
        watch=watch,
        option_values=values if watch else {},
        in_process=bool(values.get("in_process") or values.get("pdb")),
        pdb=bool(values.get("pdb")),
        parallel=_parallel(values, local=is_local),
        unordered=bool(values.get("unordered")),
        algorithms={} if cluster.on is not None else parse_named_paths(values, BY_NAME["algorithm"]),
        pipelines=stored_pipelines(values),
        stream_pipeline=stream_pipeline(values),
        data_sources=parse_named_paths(values, BY_NAME["datasource"]),
    )


def _parallel(values: Mapping[str, Any], *, local: bool) -> int | None:
    count = parse_count(values, BY_NAME["parallel"], most=PARALLEL_MAX)
    if count is not None and not local:
        raise SettingsError(
            "--parallel is for local runs: give --input or --tasks; HKube's worker serves one task"
        )
    for option in (*TOTAL_OPTIONS, BY_NAME["unordered"]):
        if count is None and values.get(option.name) not in (None, False):
            raise SettingsError(f"{option.flag} is for several processes at once: give --parallel with it")
    return count


def _code(values: Mapping[str, Any], descriptor: Descriptor | None) -> CodeSource:
    variables, env_files = _own_variables(values)
    metrics_dir = _metrics_dir(values)
    if metrics_dir is not None and values.get("sandbox") == "strict" and _is_local(values):
        raise SettingsError("--sandbox strict keeps metrics with the records: leave --metrics-dir out")
    if metrics_dir is not None and values.get("no_state"):
        variables = {"ALGO_METRICS_DIR": metrics_dir, **variables}  # without records, nothing else sets it
    # The descriptor's variables override those of the shell, as they override the image's in the cluster.
    inherited = {} if descriptor is None else descriptor.variables
    return CodeSource(
        os.getcwd(),
        entry=values.get("entry"),
        command=values.get("command"),
        path=values.get("path"),
        descriptor=descriptor,
        is_descriptor_named=values.get("file") is not None,
        python=values.get("python") or sys.executable,
        install=bool(values.get("install")),
        variables={**inherited, **variables},
        env_files=env_files,
    )


def _is_local(values: Mapping[str, Any]) -> bool:
    is_stream = stream_pipeline(values) is not None
    return is_stream or bool(values.get("input")) or values.get("tasks") is not None


def _serving(values: Mapping[str, Any], environ: Mapping[str, str]) -> Serving:
    transport = "ws" if values.get("transport") in (None, "ws") or _is_local(values) else "socketio"
    encoding = values["encoding"] if transport == "ws" else "json"
    redirect_logs = bool(values.get("redirect_logs"))
    version = values.get("storage") or "v1"
    grace_s = parse_seconds(values, BY_NAME["grace_s"], least=0.0)
    assert grace_s is not None, "--grace has a default"
    return Serving(
        worker_url(
            values.get("url"),
            environ,
            encoding,
            storage=version,
            hostname=redirect_logs,
            socketio=transport == "socketio",
        ),
        # Under storage v3 the worker's messages have only the places of values.
        SOCKET_IO if transport == "socketio" and version == "v1" else encoding,
        transport=transport,
        connect_timeout_s=parse_seconds(values, BY_NAME["connect_timeout_s"], least=0.0),
        grace_s=grace_s,
        spare=bool(values.get("spare")),
        recycle_after=parse_count(values, BY_NAME["recycle_after"]),
        end_children=bool(values.get("end_children")),
        api_errors=values.get("api_errors") or "raise",
        redirect_logs=redirect_logs,
        storage=_storage(values, environ) if version == "v3" and not _is_local(values) else None,
    )


def _storage(values: Mapping[str, Any], environ: Mapping[str, str]) -> StorageSettings:
    from .storage_settings import storage_settings  # late: a run with storage v1 has no use for it

    timeout_s = parse_seconds(values, BY_NAME["storage_timeout_s"], least=0.1)
    assert timeout_s is not None, "--storage-timeout has a default"
    return storage_settings(environ, timeout_s)


def _records(values: Mapping[str, Any], *, local: bool) -> Records:
    return Records(
        None if values.get("no_state") else os.path.abspath(values["state_dir"]),
        metrics_dir=_metrics_dir(values),
        keep=None if values.get("keep") == "all" else parse_count(values, BY_NAME["keep"], least=0),
        keep_own=KEEP_SERVING if not local and values.get("keep") is None else None,
        keep_values_bytes=_keep_values(values, local=local),
        options=_recorded(values),
    )


def _metrics_dir(values: Mapping[str, Any]) -> str | None:
    asked = values.get("metrics_dir")
    return os.path.abspath(os.path.expanduser(asked)) if asked else None


def _console(values: Mapping[str, Any], environ: Mapping[str, str], notes: tuple[str, ...]) -> Console:
    as_json, events = _format(values, environ)
    quiet, verbose, level_note = _loudness(values, environ)
    return Console(
        json=as_json,
        events=events,
        output_file=values.get("output_file"),
        quiet=quiet,
        verbose=verbose,
        full_trace=bool(values.get("full_trace")),
        color=values.get("color") or "auto",
        notes=(*notes, *level_note),
    )


def _descriptor(values: Mapping[str, Any]) -> Descriptor | None:
    file = values.get("file")
    if file is None:
        entry = values.get("entry") if values.get("command") is None else None
        file = find(entry, values.get("path"), os.getcwd())
    if file is None:
        return None
    from .descriptor import read  # late: with YAML and the schema it costs a start 2 ms

    return read(file)


def _in_process(values: Mapping[str, Any], limits: Limits) -> tuple[Limits, tuple[str, ...]]:
    """Return the limits with --in-process, which are none, and a note if some were asked for."""
    named = "--pdb" if values.get("pdb") else "--in-process"
    for option in OPTIONS:
        if option.needs_process and values.get(option.name):
            raise SettingsError(f"{named} runs the code in this one process: leave {option.flag} out")
    if values.get("sandbox") == "strict":
        raise SettingsError(f"{named} runs the code in this process, which cannot be isolated: leave it out")
    if "-" in (values.get("input") or ()) or values.get("tasks") == "-":
        raise SettingsError(
            f"{named} leaves stdin to the code: give the inputs in a file (@FILE, --tasks FILE)"
        )
    if not limits.enforced or limits._replace(mem_mode=NO_LIMITS.mem_mode, origins=()) == NO_LIMITS:
        return NO_LIMITS, ()
    return NO_LIMITS, (f"{named}: no limit is enforced, so that a process can wait at a breakpoint",)


def _notes(descriptor: Descriptor, given: Mapping[str, str]) -> tuple[str, ...]:
    missing = [name for name in descriptor.references if name not in given]
    if not missing:
        return descriptor.notes
    at = descriptor.at(f"/algorithmEnv/{missing[0]}", "/algorithmEnv")
    told = f"{at}: only the cluster knows the value of {', '.join(missing)}: left out"
    return (*descriptor.notes, f"{told} (--env {missing[0]}=… sets it)")


def _gpus(values: Mapping[str, Any], descriptor: Descriptor | None) -> Gpus:
    none = bool(values.get("no_gpu"))
    count = parse_count(values, BY_NAME["gpu"], least=0)
    if count is None and descriptor is not None:
        return Gpus(descriptor.gpus, f"gpu: in {descriptor.at('/resources/gpu', '/gpu')}", none)
    return Gpus(count or 0, none=none)


def _recorded(values: Mapping[str, Any]) -> dict[str, object]:
    """Return the option values that make a task what it is, without its code; paths are made absolute.

    Which code it is, prepare() adds once it is found.
    """
    found: dict[str, object] = {}
    for name, value in values.items():
        option = BY_NAME.get(name)
        if option is None or not option.is_recorded or value is None or value in (option.default, ()):
            continue
        found[name] = list(value) if isinstance(value, tuple) else value
    if found.get("env_file"):
        found["env_file"] = [os.path.abspath(os.path.expanduser(one)) for one in values["env_file"]]
    for name in ("algorithm", "pipeline", "datasource"):
        if found.get(name):
            found[name] = [_absolute(pair) for pair in values[name]]
    for name in ("read", "write"):
        if found.get(name):
            found[name] = [os.path.abspath(os.path.expanduser(one)) for one in values[name]]
    return found


def _absolute(pair: str) -> str:
    name, equals, path = pair.partition("=")
    full = os.path.abspath(os.path.expanduser(path))
    # A dotted module has no path of its own: it is searched in the working folder.
    return f"{name}{equals}{full}" if os.path.exists(full) or os.path.exists(full + ".py") else pair


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


def _own_variables(values: Mapping[str, Any]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the variables of --env and --env-file, and the absolute paths of the files."""
    found: dict[str, str] = {}
    files = tuple(os.path.abspath(os.path.expanduser(one)) for one in values.get("env_file") or ())
    if files:
        from .env_file import read_variables

        for path in values["env_file"]:
            found.update(read_variables(path))
    return {**found, **parse_variables(values.get("env") or (), os.environ)}, files


def _format(values: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[bool, bool]:
    """Return whether to print one object per task to stdout, and whether to print every event."""
    asked = values.get("output") or "human"
    if values.get("json"):
        # --json overrides the variable, but contradicts the option.
        if asked == "jsonl" and environ.get("HKRUNNER_OUTPUT") != asked:
            raise SettingsError("--json and --output jsonl: give one of them")
        asked = "json"
    if values.get("output_file") is not None:
        if values.get("watch"):
            raise SettingsError("--watch runs until Ctrl-C: remove --output-file")
        if not _is_local(values):
            raise SettingsError(
                "--output-file takes the results of a local run: give --input or --tasks with it"
            )
    return asked == "json", asked == "jsonl"


def _loudness(values: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[bool, bool, tuple[str, ...]]:
    """Return (quiet, verbose, notes), from the flags, else from HKUBE_LOG_LEVEL."""
    quiet, verbose = bool(values.get("quiet")), bool(values.get("verbose"))
    level = environ.get("HKUBE_LOG_LEVEL", "").strip()
    if quiet or verbose or not level:
        return quiet, verbose, ()
    is_number = level.isdecimal() and len(level) <= 9
    number = _LEVELS.get(level.upper(), int(level) if is_number else None)
    if number is None:
        return False, False, (f"HKUBE_LOG_LEVEL={level} is not one of {', '.join(_LEVELS)}: INFO is used",)
    return number >= _LEVELS["WARNING"], number <= _LEVELS["DEBUG"], ()


#: The levels of Python's logging, to which HKube's own wrapper passes the variable.
_LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "WARN": 30, "ERROR": 40, "CRITICAL": 50, "FATAL": 50}
