"""Usage of a process tree, and its comparison with the limits: values and functions without I/O."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from ..shared.limits import Limits


class Usage(NamedTuple):
    """Usage as of one look, in bytes and seconds; None: not measured yet, or not measurable here."""

    rss_bytes: int = 0  #: sum over the processes, as ps shows it: shared pages count several times
    pss_bytes: int | None = None  #: last exact sums: shared pages count once, file pages not
    shared_bytes: int = 0  #: shared memory made by the run: /dev/shm files, memfds, System V segments
    processes: int = 0
    threads: int | None = None
    cpu_s: float = 0.0  #: of all processes of the tree, ended ones included
    memory_bytes: int = 0  #: best estimate of the memory; compared with the limit
    is_judged: bool = False  #: whether memory_bytes is from the exact sums of this look, or certain
    disk_bytes: int | None = None


class ProcessUse(NamedTuple):
    """One process in a list of the largest."""

    pid: int
    name: str
    memory_bytes: int


class SharedObject(NamedTuple):
    """Shared memory made by the run that exists even while no process maps it."""

    kind: str  #: "file", "memfd" or "sysv"
    name: str
    size_bytes: int


class Breach(NamedTuple):
    """A limit that is exceeded."""

    kind: str  #: "memory", "shared_memory", "processes", "cpu_time" or "disk"
    used: float
    allowed: float


#: Share of shared memory above which a breach of the memory limit is reported as one of "shared_memory".
_MOSTLY = 0.5


def breach(usage: Usage, limits: Limits) -> Breach | None:
    """Return the limit that this usage exceeds, the one that harms others most first; None: none."""
    if not limits.enforced:
        return None
    allowed = limits.memory_bytes
    if allowed is not None and usage.memory_bytes > allowed:
        kind = "shared_memory" if usage.shared_bytes > _MOSTLY * usage.memory_bytes else "memory"
        return Breach(kind, usage.memory_bytes, allowed)
    if limits.pids is not None and usage.processes > limits.pids:
        return Breach("processes", usage.processes, limits.pids)
    written = usage.disk_bytes
    if limits.disk_bytes is not None and written is not None and written > limits.disk_bytes:
        return Breach("disk", written, limits.disk_bytes)
    if limits.cpu_time_s is not None and usage.cpu_s > limits.cpu_time_s:
        return Breach("cpu_time", usage.cpu_s, limits.cpu_time_s)
    return None


class Sampler(Protocol):
    """What the warden needs of a sampler; TreeSampler and PsutilSampler implement it."""

    next_at: float

    @property
    def usage(self) -> Usage:
        """The usage as of the last look."""

    @property
    def peak_bytes(self) -> int:
        """The highest memory_bytes so far."""

    @property
    def files_peak_bytes(self) -> int:
        """The most pages of files that one process had mapped, in bytes; 0 where not measured."""

    def restart_peak(self, began_at: float) -> None:
        """Forget the peak of the time before `began_at`."""

    def look(self, now: float) -> float:
        """Measure the tree, which updates `usage`; return when to look next."""

    def can_wait(self, now: float) -> bool:
        """Whether the look that is due can wait; then next_at has moved."""

    def walk(self) -> None:
        """Update the list of processes now."""

    def walk_if_born(self) -> bool:
        """Walk if any process may have been forked since; return whether that was so."""

    def pids(self) -> list[int]:
        """Return the pids of the tree, as of the last look or walk."""

    def cpu_ns(self) -> int:
        """Return the CPU time of the tree up to now, ended processes included."""

    def reaped(self, pid: int, usage: Any) -> None:
        """Add the rusage of a process that the warden has waited for."""

    def top(self, count: int = 5) -> list[ProcessUse]:
        """Return the largest processes, largest first."""

    def close(self) -> None:
        """Close all descriptors."""
