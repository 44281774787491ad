"""The options of the limits, made from the declarations in sandbox/shared, and their values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...sandbox.shared.container_memory import child_memory_bytes, container_memory_bytes
from ...sandbox.shared.limits import (
    MEM_MODES,
    Limit,
    Limits,
    Unit,
    declared_limits,
    format_bytes,
    parse_cpu,
    parse_memory,
)
from .option import Option
from .parsing import parse_count, parse_quantity, parse_seconds

if TYPE_CHECKING:
    from .descriptor_schema import Descriptor

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
#: In the order in which help texts show them.
LIMIT_OPTIONS: tuple[Option, ...] = (
    *(
        option
        for one in OPTION_OF.values()
        for option in ((one, _MEM_MODE) if one is OPTION_OF["memory_bytes"] else (one,))
    ),
    _NO_LIMITS,
)


def limits_of(
    values: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
    descriptor: Descriptor | None = None,
    *,
    root: str = "/",
) -> tuple[Limits, str]:
    """Return the limits, and the source of those that neither an option nor a variable set ("" if none).

    A limit that nobody wrote down is not enforced, with one exception: in a container that has a memory
    limit, the algorithm gets that limit less what hkrunner needs, so that it is ended with a reason before
    the container is ended without one. Raises SettingsError.
    """
    values, origins = _with_descriptor(values, environ or {}, descriptor)
    found = {field: _value(limit, OPTION_OF[field], values) for field, limit in declared_limits().items()}
    source = ""
    if descriptor is not None and any(one.endswith(f"in {descriptor.shown}") for one in origins.values()):
        source = descriptor.shown
    is_enforced = not values.get("no_limits")
    if found["memory_bytes"] is None and is_enforced:
        container = container_memory_bytes(root=root)
        if container is not None:
            found["memory_bytes"] = child_memory_bytes(container)
            origins["memory_bytes"] = f"the container's {format_bytes(container)} less what hkrunner needs"
            source = ", ".join(filter(None, (f"memory: {origins['memory_bytes']}", source)))
    return Limits(
        **found,
        mem_mode=values.get("mem_mode") or MEM_MODES[0],
        enforced=is_enforced,
        origins=tuple(origins.items()),
    ), source


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
            return parse_quantity(values, option, parse_memory)
        case Unit.COUNT:
            return parse_count(values, option, least=limit.least)
        case Unit.SECONDS:
            return parse_seconds(values, option, least=0.001)
