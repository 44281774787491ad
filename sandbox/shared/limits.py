"""What a run may use, and how it is written.

Quantities are read as HKube reads them (units-converter.hkube), with its texts for what is wrong, so that
a descriptor that passes here passes there. Nothing is enforced here. With `enforced=False` usage is measured
and no limit holds.
"""

from __future__ import annotations

import enum
import functools
import math
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NamedTuple, get_type_hints

KI, MI, GI, TI = 2**10, 2**20, 2**30, 2**40

#: HKube's units and their worth in bytes, in the order of its error message. `m` is a thousandth of a byte.
UNITS: dict[str, float] = {
    "Ki": KI, "M": 10**6, "Mi": MI, "Gi": GI, "m": 0.001, "K": 10**3, "G": 10**9, "T": 10**12, "Ti": TI,
}  # fmt: skip
_UNIT_NAMES = ",".join(UNITS)

#: HKube's format `algorithm-memory` refuses less.
LEAST_MEMORY_BYTES = 4 * MI

MEM_MODES = ("auto", "brake", "rss")


class Unit(enum.Enum):
    """What the value of a limit counts: with it go how it is read, how it is shown, and its placeholder."""

    CORES = "CORES"
    BYTES = "SIZE"
    COUNT = "N"
    SECONDS = "SECONDS"

    def show(self, value: float) -> str:
        """Return the value as messages show it: 0.5 cores, 512 MiB, 3 s."""
        if self is Unit.BYTES:
            return format_bytes(value)
        return f"{value:.12g}{_SUFFIXES.get(self, '')}"  # six digits would show 2147483648 as 2.14748e+09


_SUFFIXES = {Unit.CORES: " cores", Unit.SECONDS: " s"}


class Limit(NamedTuple):
    """The declaration of one limit: what is written behind a field of Limits.

    The option, its variable, the keyword of hkrunner.run(), the plan of --dry-run, the options of
    `hkrunner worker` and `hkrunner validate`, `hkrunner explain` and the reference are made from it.
    """

    option: str  #: "--mem"; the variable HKRUNNER_MEM and the keyword `mem` are made from it
    unit: Unit
    label: str  #: name in the plan of --dry-run
    help: str
    code: str | None = None  #: error code of a task that exceeded it; None: it slows the task down
    least: int = 1  #: smallest value of a COUNT


#: Room for threads in the kernel's limit for --pids.
THREADS_PER_PROCESS = 4
THREADS_FREE = 512


class Limits(NamedTuple):
    """What one run may use; None: without limit. Memory, processes, CPU and disk count the whole tree.

    A new limit is one more field here, with its declaration, and the code that enforces it.
    """

    cpu_cores: Annotated[
        float | None,
        Limit("--cpu", Unit.CORES, "cpu", "Average number of CPU cores the algorithm may use: 0.5, 2, 500m."),
    ] = None
    memory_bytes: Annotated[
        int | None,
        Limit(
            "--mem",
            Unit.BYTES,
            "memory",
            "Memory the algorithm may use, all its processes together: 512Mi, 2Gi (units: Ki, Mi, Gi, Ti, K,"
            " M, G, T).",
            "OUT_OF_MEMORY",
        ),
    ] = None
    pids: Annotated[
        int | None,
        Limit(
            "--pids",
            Unit.COUNT,
            "processes",
            "Number of processes the algorithm may have at a time.",
            "TOO_MANY_PROCESSES",
        ),
    ] = None
    task_timeout_s: Annotated[
        float | None,
        Limit("--timeout", Unit.SECONDS, "task", "Seconds a task may take.", "TASK_TIMEOUT"),
    ] = None
    start_timeout_s: Annotated[
        float | None,
        Limit(
            "--start-timeout", Unit.SECONDS, "loading", "Seconds loading the code may take.", "START_TIMEOUT"
        ),
    ] = None
    cpu_time_s: Annotated[
        float | None,
        Limit(
            "--cpu-time",
            Unit.SECONDS,
            "cpu time",
            "CPU seconds that the algorithm's process and all processes below it may use, counted over all"
            " tasks.",
            "CPU_TIME_LIMIT",
        ),
    ] = None
    #: open descriptors, for each process
    files: Annotated[
        int | None,
        Limit(
            "--files",
            Unit.COUNT,
            "open files",
            "Number of files each process may have open.",
            "TOO_MANY_FILES",
            least=16,
        ),
    ] = None
    #: growth of the work and state folders
    disk_bytes: Annotated[
        int | None,
        Limit(
            "--disk",
            Unit.BYTES,
            "disk",
            "Bytes by which the working folder and the records may grow: 2Gi.",
            "DISK_LIMIT",
        ),
    ] = None
    #: "auto": memory in use counts, and growth through the last of the limit fails; "brake": reserved memory
    #: counts; "rss": memory in use counts, and nothing fails before the limit ends it.
    mem_mode: str = "auto"
    enforced: bool = True
    #: (name of a limit, what set it) for those that no option of the command line has set.
    origins: tuple[tuple[str, str], ...] = ()

    def shown(self) -> str:
        """Return the limits as messages show them: "cpu 0.5 cores, memory 512 MiB", or "none"."""
        declared = declared_limits()
        values = [
            f"{declared[field].label} {declared[field].unit.show(getattr(self, field))}"
            for field in self._set_fields()
        ]
        return ", ".join(values) or "none"

    def has_no_option(self) -> bool:
        """Whether no limit was set by an option of the command line."""
        origins = dict(self.origins)
        return all(field in origins for field in self._set_fields())

    def _set_fields(self) -> list[str]:
        return [field for field in declared_limits() if getattr(self, field) is not None]

    def to_json(self) -> dict[str, Any]:
        """Return the limits as an object for the warden, without `origins`, which it does not need."""
        fields = self._asdict()
        del fields["origins"]
        return fields

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Limits:
        """Return the limits in an object of to_json(). Unknown names, of a newer hkrunner, are left out.

        Raises ValueError for a value that is no limit.
        """
        known = {name: fields[name] for name in cls._fields if name in fields and name != "origins"}
        for name, value in known.items():
            if name == "mem_mode":
                right = value in MEM_MODES
            elif name == "enforced":
                right = isinstance(value, bool)
            else:
                right = value is None or (
                    isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
                )
            if not right:
                raise ValueError(f"{name} cannot be {value!r}")
        return cls(**known)


@functools.lru_cache(maxsize=1)
def declared_limits() -> dict[str, Limit]:
    """Return the declaration of each limit, by the name of its field."""
    hints = get_type_hints(Limits, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items() if hasattr(hint, "__metadata__")}


def tasks_allowed(pids: int) -> int:
    """Return the kernel's limit on threads, the first one of each process included, for --pids.

    The warden enforces --pids, which counts processes. This is a second limit, with room for their threads.
    """
    return pids * THREADS_PER_PROCESS + THREADS_FREE


def set_by(limit: str, origins: Iterable[tuple[str, str]]) -> str:
    """Return what has set this limit, for messages: its option, unless `origins` names something else."""
    return dict(origins).get(limit, declared_limits()[limit].option)


def parse_memory(text: str, what: str = "memory") -> int:
    """Return the bytes of a limit, such as 512Mi, on `what`; ValueError says what is wrong."""
    value = parse_size(text, what)
    if value < LEAST_MEMORY_BYTES:
        raise ValueError(f"{what} must be at least 4 Mi")
    return value


def parse_size(text: str, what: str = "memory") -> int:
    """Return the bytes meant by HKube's way to write memory, such as 512Mi; ValueError says what is wrong."""
    stripped = text.strip()
    number = stripped[: _number_length(stripped)]
    unit = stripped[len(number) :].strip()
    if not unit:
        raise ValueError(f"{what} unit must be one of {_UNIT_NAMES}{_did_you_mean(number, unit)}")
    if unit not in UNITS:
        raise ValueError(f"{unit} is not a valid unit [{_UNIT_NAMES}]{_did_you_mean(number, unit)}")
    try:
        value = float(number)
    except ValueError:
        # HKube lets a lone unit pass as "not a number", and no limit holds from then on.
        raise ValueError(f"{what} needs a number before its unit, like 512{unit}; got {text!r}") from None
    if value < 0:
        raise ValueError("value must be >= 0")
    value *= UNITS[unit]
    if value >= 2**63:
        raise ValueError(f"{what} cannot be as large as {text.strip()}")
    return int(value)


def _did_you_mean(number: str, unit: str) -> str:
    """Return ` (did you mean 300Mi?)` for 300, 300MB, 300mb, 300 MiB and 314572800, else how to write one."""
    example = " (write it like 512Mi)"
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", number) or not float(number):
        return example
    if unit in ("", "b", "B"):
        meant = _guess(number)
    elif (found := re.fullmatch(r"([KMGT])(i?b|i)?", unit, re.IGNORECASE)) is not None:
        meant = f"{number}{found[1].upper()}i"
    else:
        return example
    return f" (did you mean {meant}?)"


def _guess(number: str) -> str:
    """Return what a number without a unit most likely stands for: GiB, MiB, or bytes if it is large."""
    size = float(number)
    if size < MI:  # so few MiB that they would be refused
        return f"{number}{'Gi' if size * MI < LEAST_MEMORY_BYTES else 'Mi'}"
    name, unit = next((one for one in _BINARY if size % one[1] == 0), ("Mi", MI))
    return f"{round(size / unit)}{name}"


_BINARY = (("Gi", GI), ("Mi", MI), ("Ki", KI))


def _number_length(text: str) -> int:
    length = 0
    while length < len(text) and (text[length] in "0123456789." or (length == 0 and text[0] in "+-")):
        length += 1
    return length


def parse_cpu(value: str | float) -> float:
    """Return the cores meant by a number, a numeric string, or Kubernetes' thousandths such as 500m.

    HKube itself takes numbers and numeric strings only. ValueError says what is wrong.
    """
    wrong = f"cpu should be number of cores, like 0.5 or 500m; got {value!r}"
    if isinstance(value, bool):
        raise ValueError(wrong)
    if isinstance(value, str):
        text = value.strip()
        in_thousandths = text.endswith("m")
        if "_" in text:  # float() takes 1_000, nobody else does
            raise ValueError(wrong)
        try:
            cores = float(text[:-1]) / 1000 if in_thousandths else float(text)
        except ValueError:
            raise ValueError(wrong) from None
    else:
        cores = float(value)
    if not math.isfinite(cores):
        raise ValueError(wrong)
    if cores < 0:
        raise ValueError("cpu should be >= 0")
    if cores < 0.001:
        raise ValueError("cpu must be at least 0.001 (1m): with none at all nothing would ever run")
    return cores


@functools.lru_cache(maxsize=64)  # task after task of the same child has the same peak
def format_bytes(count: float) -> str:
    """Return a size as messages show it: 514 MiB, 4.5 MiB, 1.03 GiB, 12 B."""
    sign, size = ("-", -count) if count < 0 else ("", count)
    if size < KI:
        return f"{sign}{size:.0f} B"
    for name, unit, step in (("KiB", KI, MI), ("MiB", MI, GI), ("GiB", GI, TI), ("TiB", TI, math.inf)):
        value = size / unit
        # Two sizes side by side must differ where it matters: 1.03 GiB of 1 GiB.
        decimals = 2 if unit >= GI else 0 if value >= 99.95 else 1
        shown = f"{value:.{decimals}f}"
        if size < step and float(shown) * unit < step:
            return f"{sign}{shown.rstrip('0').rstrip('.') if decimals else shown} {name}"
    raise AssertionError("unreachable")


@functools.lru_cache(maxsize=64)
def suggest_memory(peak_bytes: int, *, limit_bytes: int = 0) -> str:
    """Return a `mem` to write down for a run with this peak: a quarter more, rounded up.

    `limit_bytes`: the limit at which it was ended. How much it would have used is unknown, so the answer is
    at least twice that: raised in small steps, the limit would end one run after another.
    """
    wanted = max(peak_bytes * 1.25, peak_bytes + 16 * MI, 2 * limit_bytes) / MI
    step = 32 if wanted <= 512 else 64 if wanted <= 2048 else 256
    size = math.ceil(wanted / step) * step
    return _in_units(size)


def container_origin(container_bytes: int, processes: int) -> str:
    """Return what has set the memory limit that is a share of the container's."""
    shared = f", shared by {processes} processes" if processes > 1 else ""
    return f"the container's {format_bytes(container_bytes)} less what hkrunner needs{shared}"


_OF_CONTAINER = re.compile(
    r"the container's (\S+ \S+) less what hkrunner needs(?:, shared by (\d+) processes)?"
)


def option_for_memory(peak_bytes: int, limit_bytes: int, origins: Iterable[tuple[str, str]]) -> str:
    """Return the option, or the container, to try after the code was ended at this limit."""
    wanted = suggest_memory(peak_bytes, limit_bytes=limit_bytes)
    set_with = dict(origins).get("memory_bytes", "")
    container = _OF_CONTAINER.fullmatch(set_with)
    if container is not None:
        # A --mem above what the container has left would have the kernel end the container.
        processes = int(container[2] or 1)
        has = parse_memory(container[1].replace(" ", "").removesuffix("B"))
        needs = has + max(0, parse_memory(wanted) - limit_bytes) * processes * 1.05
        return f"a container with {_in_units(math.ceil(needs / MI / 64) * 64)}"
    if set_with.startswith("--total-mem ") and set_with.endswith(" processes"):
        # "--total-mem 1Gi for 4 processes": a higher --mem would change nothing.
        return f"--total-mem {_in_units(parse_memory(wanted) // MI * int(set_with.split()[-2]))}"
    return f"--mem {wanted}"


def _in_units(mebibytes: int) -> str:
    return f"{mebibytes // 1024}Gi" if mebibytes % 1024 == 0 else f"{mebibytes}Mi"
