"""The options of the limits, made from the declarations in sandbox/shared, and their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ...sandbox.shared.container_limits import STORAGE_BYTES, child_memory_bytes, container_memory_bytes
from ...sandbox.shared.limits import (
    LEAST_MEMORY_BYTES,
    MEM_MODES,
    MI,
    Limit,
    Limits,
    Unit,
    container_origin,
    declared_limits,
    format_bytes,
    parse_cpu,
    parse_memory,
)
from ..errors import SettingsError
from .option import Option
from .parsing import parse_count, parse_quantity, parse_seconds

if TYPE_CHECKING:
    from .descriptor_schema import Descriptor
    from .storage_settings import StorageSettings

#: Types of the keywords of hkrunner.run().
_PYTHON = {
    Unit.CORES: "float | str | None",
    Unit.BYTES: "int | str | None",
    Unit.COUNT: "int | None",
    Unit.SECONDS: "float | None",
}


def _option(limit: Limit) -> Option:
    name = limit.option.removeprefix("--").replace("-", "_")
    in_seconds = limit.unit is Unit.SECONDS
    return Option(
        f"{name}_s" if in_seconds else name,
        (limit.option,),
        limit.help,
        (f"HKRUNNER_{name.upper()}",),
        kind="seconds" if in_seconds else "text",
        metavar=limit.unit.value,
        group="Limits",
        python=_PYTHON[limit.unit],
        in_validate=True,
        in_worker=True,
        is_recorded=True,
    )


#: Field of Limits -> its option.
OPTION_OF: dict[str, Option] = {field: _option(limit) for field, limit in declared_limits().items()}

_MEM = OPTION_OF["memory_bytes"]
_MEM_MODE = Option(
    "mem_mode",
    ("--mem-mode",),
    "What counts towards --mem. auto: memory in use; code that comes close to the limit gets a MemoryError."
    " brake: memory that is reserved, too. rss: memory in use, without a MemoryError.",
    ("HKRUNNER_MEM_MODE",),
    default=MEM_MODES[0],
    kind="choice",
    choices=MEM_MODES,
    group="Limits",
    python="str | None",
    in_validate=True,
    in_worker=True,
    is_recorded=True,
)
_NO_LIMITS = Option(
    "no_limits",
    ("--no-limits",),
    "Measure only: enforce no limit.",
    kind="flag",
    default=False,
    group="Limits",
    python="bool",
    in_validate=True,
    in_worker=True,
    is_recorded=True,
)
_TOTAL_MEM = Option(
    "total_mem",
    ("--total-mem",),
    "Memory limit for all processes of --parallel N together: each gets 1/N of it as its limit, or --mem"
    " if that is less.",
    metavar=Unit.BYTES.value,
    group="Limits",
    python=_PYTHON[Unit.BYTES],
)
_TOTAL_CPU = Option(
    "total_cpu",
    ("--total-cpu",),
    "CPU limit for all processes of --parallel N together: each gets 1/N of it as its limit, or --cpu if"
    " that is less.",
    metavar=Unit.CORES.value,
    group="Limits",
    python=_PYTHON[Unit.CORES],
)
#: The limits for all processes of a run together.
TOTAL_OPTIONS = (_TOTAL_MEM, _TOTAL_CPU)
#: In the order in which help texts show them.
LIMIT_OPTIONS: tuple[Option, ...] = (
    *(option for one in OPTION_OF.values() for option in ((one, _MEM_MODE) if one is _MEM else (one,))),
    *TOTAL_OPTIONS,
    _NO_LIMITS,
)


def _storage_bytes(values: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    """Return what the process of storage v3 may use; 0 where there is none."""
    if values.get("storage") != "v3" or values.get("input") or values.get("tasks") is not None:
        return 0
    from .storage_settings import StorageSettings, storage_settings  # late: most runs have storage v1

    found = storage_settings(environ, StorageSettings().timeout_s)
    return _storage_process_bytes(found)


def _storage_process_bytes(storage: StorageSettings | None) -> int:
    if storage is None:
        return 0
    return STORAGE_BYTES + (storage.input_cache_mb + storage.result_cache_mb) * 1_000_000


def limits_of(
    values: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
    descriptor: Descriptor | None = None,
    *,
    processes: int = 1,
    root: str = "/",
) -> tuple[Limits, str]:
    """Return the limits, and the source of those that neither an option nor a variable set ("" if none).

    A limit that is set nowhere is not enforced, with one exception: in a container that has a memory
    limit, the algorithm gets that limit less what hkrunner needs, so that it is ended with a reason before
    the container is ended without one. The totals for all `processes` together are shared equally: so none of
    them is ever killed for what another one uses. Raises SettingsError.
    """
    values, origins = _with_descriptor(values, environ or {}, descriptor)
    found = {field: _value(limit, OPTION_OF[field], values) for field, limit in declared_limits().items()}
    source = ""
    if descriptor is not None and any(one.endswith(f"in {descriptor.shown}") for one in origins.values()):
        source = descriptor.shown
    _share_totals(values, processes, found, origins)
    is_enforced = not values.get("no_limits")
    if found["memory_bytes"] is None and is_enforced:
        container = container_memory_bytes(root=root)
        if container is not None:
            found["memory_bytes"] = child_memory_bytes(
                container, processes=processes, storage_bytes=_storage_bytes(values, environ or {})
            )
            origins["memory_bytes"] = container_origin(container, processes)
            source = ", ".join(filter(None, (f"memory: {origins['memory_bytes']}", source)))
    return Limits(
        **found,
        mem_mode=values.get("mem_mode") or MEM_MODES[0],
        enforced=is_enforced,
        origins=tuple(origins.items()),
    ), source


def beyond_container(
    limits: Limits, storage: StorageSettings | None = None, *, processes: int = 1, root: str = "/"
) -> str | None:
    """Return a note if the memory limit is more than the container leaves: the kernel then is first.

    It ends hkrunner with the algorithm, so that nobody says why. `storage`: of storage v3, if it is used.
    """
    container = container_memory_bytes(root=root)
    if limits.memory_bytes is None or container is None or not limits.enforced:
        return None
    room = child_memory_bytes(container, processes=processes, storage_bytes=_storage_process_bytes(storage))
    if limits.memory_bytes <= room:
        return None
    origin = dict(limits.origins).get("memory_bytes")
    each = f" for each of {processes} processes" if processes > 1 and origin is None else ""
    return (
        f"{_MEM.flag} {format_bytes(limits.memory_bytes)}{f' ({origin})' if origin else each}:"
        f" {_too_small(container, room, 'each algorithm' if processes > 1 else 'the algorithm')}"
    )


def replicas_beyond_container(replicas: Sequence[Limits], *, root: str = "/") -> str | None:
    """Return the same for the replicas of a stream pipeline, which all run at the same time."""
    container = container_memory_bytes(root=root)
    limited = [one.memory_bytes for one in replicas if one.memory_bytes is not None and one.enforced]
    if not limited or container is None:
        return None
    room = child_memory_bytes(container, processes=len(replicas))
    if sum(limited) <= room * len(replicas):
        return None
    shown = f"{format_bytes(sum(limited))} for {len(replicas)} replicas together"
    return f"{_MEM.flag} allows {shown}: {_too_small(container, room, 'each of them')}"


def _too_small(container: int, room: int, whom: str) -> str:
    return (
        f"this container allows {format_bytes(container)}, of which {format_bytes(room)} are left for {whom}."
        f" Above that the kernel may end hkrunner as well, without a reason: use {_MEM.flag} {room // MI}Mi,"
        " or give the container more memory"
    )


def _share_totals(
    values: Mapping[str, Any], processes: int, found: dict[str, Any], origins: dict[str, str]
) -> None:
    """Lower the limits to each process's share of the totals."""
    for field, option, parse in (
        ("memory_bytes", _TOTAL_MEM, parse_memory),
        ("cpu_cores", _TOTAL_CPU, parse_cpu),
    ):
        total = parse_quantity(values, option, parse)
        if total is None:
            continue
        # Whole KiB, so that the record of a task can contain it as text.
        share = total / processes if field == "cpu_cores" else int(total) // processes // 1024 * 1024
        if field == "memory_bytes" and share < LEAST_MEMORY_BYTES:
            least = format_bytes(LEAST_MEMORY_BYTES)
            raise SettingsError(
                f"{option.flag} {values[option.name]}: {processes} processes would get less than {least} each"
            )
        if found[field] is None or share < found[field]:
            found[field] = share
            origins[field] = f"{option.flag} {values[option.name]} for {processes} processes"


def recorded_shares(values: Mapping[str, Any], limits: Limits) -> dict[str, str]:
    """Return the options that give one process the limits that the totals have set."""
    found = {}
    if values.get("total_mem") is not None and limits.memory_bytes is not None:
        found["mem"] = f"{limits.memory_bytes // 1024}Ki"
    if values.get("total_cpu") is not None and limits.cpu_cores is not None:
        found["cpu"] = repr(limits.cpu_cores)
    return found


def _with_descriptor(
    values: Mapping[str, Any], environ: Mapping[str, str], descriptor: Descriptor | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values completed by the descriptor's, and what set each limit that no flag has set."""
    found = dict(values)
    origins: dict[str, str] = {}
    for field, option in OPTION_OF.items():
        value = found.get(option.name)
        if value is not None:
            origins.update((field, name) for name in option.env if environ.get(name) == value)
        # The descriptor has HKube's `cpu` and `mem`, by the names of the options.
        written = getattr(descriptor, option.name, None) if option.name in ("cpu", "mem") else None
        if value is None and written is not None:
            assert descriptor is not None, "it has just given a value"
            found[option.name] = written
            origins[field] = f"{option.name}: in {descriptor.shown}"
    return found, origins


def _value(limit: Limit, option: Option, values: Mapping[str, Any]) -> Any:
    match limit.unit:
        case Unit.CORES:
            return parse_quantity(values, option, parse_cpu)
        case Unit.BYTES:
            return parse_quantity(values, option, partial(parse_memory, what=limit.label))
        case Unit.COUNT:
            return parse_count(values, option, least=limit.least)
        case Unit.SECONDS:
            return parse_seconds(values, option, least=0.001)
