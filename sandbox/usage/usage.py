"""What a tree of processes uses, and whether that is more than it may: values and pure decisions."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from ..shared.limits import Limits


class Usage(NamedTuple):
    """One look at the tree. Bytes and seconds; None where nobody has looked yet or the system cannot say."""

    rss_bytes: int = 0  #: sum over the processes, as ps shows them: shared pages count several times
    pss_bytes: int | None = None  #: what was found when last judged: shared pages count once, file pages not
    shared_bytes: int = 0  #: shared memory made by the run: /dev/shm files, memfds, System V segments
    processes: int = 0
    threads: int | None = None
    cpu_s: float = 0.0  #: of all that ever ran in the tree, those that have ended too
    memory_bytes: int = 0  #: the best estimate of what the run holds; this is held against the limit
    is_judged: bool = False  #: memory_bytes was taken from the kernel's exact sums at this very look
    disk_bytes: int | None = None


class ProcessUse(NamedTuple):
    """One process in a list of the largest."""

    pid: int
    name: str
    memory_bytes: int


class SharedObject(NamedTuple):
    """Shared memory made by the run that lives on when nobody maps it."""

    kind: str  #: "file", "memfd" or "sysv"
    name: str
    size_bytes: int


class Breach(NamedTuple):
    """A limit that does not hold any more."""

    kind: str  #: "memory", "shared_memory", "processes", "cpu_time" or "disk"
    used: float
    allowed: float


#: From here on a breach of memory is one of shared memory: that is where the user has to look.
_MOSTLY = 0.5


def breach(usage: Usage, limits: Limits) -> Breach | None:
    """Return the limit that this usage is above, the one that hurts others most first; None: all hold."""
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
    """What the warden asks of a sampler; TreeSampler and PsutilSampler both give it."""

    next_at: float

    @property
    def usage(self) -> Usage:
        """The last look."""

    @property
    def peak_bytes(self) -> int:
        """The most memory_bytes ever seen."""

    @property
    def files_peak_bytes(self) -> int:
        """The most that one process had of files in its memory; 0 where it is not measured."""

    def restart_peak(self, began_at: float) -> None:
        """Forget the peak of the time before."""

    def look(self, now: float) -> float:
        """Look at the tree; return when to look next."""

    def can_wait(self, now: float) -> bool:
        """Whether the look that is due can still wait; then next_at is later."""

    def walk(self) -> None:
        """Bring the list of processes up to date now."""

    def walk_if_born(self) -> bool:
        """Walk if anybody may have been born since; whether that was so."""

    def pids(self) -> list[int]:
        """The processes of the tree as of the last look or walk."""

    def cpu_ns(self) -> int:
        """CPU time of the tree up to now, ended processes included."""

    def reaped(self, pid: int, usage: Any) -> None:
        """Take into account a process that the warden has collected with wait4."""

    def top(self, count: int = 5) -> list[ProcessUse]:
        """The largest processes, largest first."""

    def close(self) -> None:
        """Give back all descriptors."""
