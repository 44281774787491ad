"""The processes of a tree, with the kernel's quick counters of each.

A look must be cheap:

* One descriptor of /proc/PID/statm is kept open for each process, and read by pread() in 1.2 microseconds. It
  stays bound to that very process: once it has ended, reading fails with ESRCH, even if the pid is reused.
* The tree is walked again only when the last pid in /proc/loadavg has changed: otherwise no process was
  forked. Once a second all processes on the machine are listed as a check, because the kernel's lists of
  children may omit one while others end.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterable
from typing import Any

from ..linux import kernel, procfs
from .cpu_account import CpuAccount

#: What births() returns if the number is not known.
MANY = 1 << 22
#: Least growth between two looks of a process that counts as growing.
GROWING_BYTES = 256 * 1024
#: Growth of a process's shared pages after which its /proc/PID/status is read, to tell their kinds.
SHARED_STEP_BYTES = 1 << 20

#: Least interval between two full checks, and the largest share of a core for them.
FULL_CHECK_S = 1.0
FULL_CHECK_SHARE = 0.003


class Process:
    """One process of the tree, with its counters as of the last look."""

    __slots__ = (
        "anon", "anon_at_first", "anon_peak", "anon_then", "asked_at", "borrows", "children_ns", "clock",
        "data", "faults_then", "fd", "first_seen", "judged_at", "own_ns", "parent", "pid", "pss",
        "pss_anon", "rss", "shared", "shared_asked", "shmem", "shmem_then", "started", "threads",
    )  # fmt: skip

    def __init__(self, pid: int, parent: int, fd: int, now: float) -> None:
        self.pid = pid
        self.parent = parent
        self.borrows = False  #: its memory is its parent's: between vfork() and exec()
        self.fd = fd  #: of its statm; -1: too many are open
        self.first_seen = now
        self.started = -1  #: start time, to identify a process without a descriptor
        self.clock = procfs.process_clock(pid)
        self.own_ns = 0
        self.children_ns = 0
        self.threads = 1
        self.rss = 0
        self.anon = 0
        self.anon_at_first = self.anon_peak = -1  #: of a process that works for another; -1: not noted yet
        self.shared = 0
        self.shared_asked = 0
        self.shmem = 0
        self.data = 0
        self.pss = -1  #: at the last exact reading; -1: none yet
        self.pss_anon = 0  #: private memory in it, also where only this process's sums were read
        self.asked_at = 0  #: `charge` when they were last read
        self.judged_at = 0  #: `charge` at that time
        self.anon_then = 0  #: private memory at that time
        self.shmem_then = 0  #: shared memory at that time
        self.faults_then = 0  #: minor faults at that time

    @property
    def charge(self) -> int:
        """Its memory that the kernel cannot reclaim, shared or not."""
        return self.anon + self.shmem

    @property
    def held(self) -> int:
        """Estimate of its share of the tree's memory since the exact sums were read."""
        if self.pss < 0:
            return self.charge
        return self.pss + max(0, self.charge - self.judged_at)


class ProcessTable:
    """All processes below `root_pid`, which itself does not count."""

    def __init__(
        self,
        root_pid: int,
        *,
        clock: Callable[[], float],
        full_walk: Callable[[], Iterable[int]] | None,
        kept_fds: int | None,
    ) -> None:
        """Open the files that each look reads; the parameters are TreeSampler's."""
        self.processes: dict[int, Process] = {}
        #: Number of processes whose memory grew between the last two reads.
        self.growing = 0
        #: Sums as of the last read: RSS, and memory that the kernel cannot reclaim.
        self.rss = 0
        self.charge = 0
        #: The most that one process had mapped and no limit counts, in bytes: pages of files, and shared
        #: memory that it had mapped already.
        self.files_peak_bytes = 0
        self.walk_due = True
        #: Number found by the last walk if it exceeds the limit; they are not in `processes` then.
        self.counted = 0
        #: Number found by the last walk, and not by the one before.
        self.newborn = 0
        self.grew_at = clock()  #: when a process was last found for the first time
        self.walk_cost = 0.0
        self.walked_at = 0.0
        self._root = root_pid
        self._clock = clock
        self._full_walk = full_walk
        self._has_children_files = procfs.has_children_files()
        self._loadavg = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
        self._cpu = CpuAccount()
        self._some_ended = False
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._fds_left = max(0, min(1024, soft - 128)) if kept_fds is None else kept_fds
        self._last_born = b""
        self._check_at = 0.0

    def set_root(self, pid: int) -> None:
        """Keep the processes below this one from now on."""
        self._root = pid
        self.walk_due = True

    # --- the list of processes ---

    def walk(self, most: int | None) -> None:
        """Update the list of processes; stop, with `counted` alone set, once more than `most` are found."""
        # In CPU time: beside a fork bomb a walk takes long, which must not delay the next one.
        began, cost = self._clock(), time.thread_time()
        # Read before the walk: a process forked during the walk triggers another one.
        self._last_born = self._read_last_born()
        self.walk_due = False
        self.walked_at = began
        if not self._has_children_files:
            self._add(procfs.below(self._root, procfs.parents()), began)
            self.walk_cost = time.thread_time() - cost
            return
        found: dict[int, int] = {}
        stack = [self._root]
        while stack:
            parent = stack.pop()
            for pid in procfs.children(parent):
                if pid not in found:
                    found[pid] = parent
                    stack.append(pid)
            if most is not None and len(found) > most:
                self.counted = len(found)
                self.walk_due = True
                return
        self.counted = 0
        self.newborn = len(found) - sum(1 for pid in found if pid in self.processes)
        self._add(found, began)
        self.walk_cost = time.thread_time() - cost

    def walk_if_born(self) -> bool:
        """Walk if any process may have been forked since the last walk; return whether that was so."""
        if not self.walk_due and self._read_last_born() == self._last_born:
            return False
        self.walk(None)
        return True

    def _read_last_born(self) -> bytes:
        return os.pread(self._loadavg, 128, 0).rpartition(b" ")[2]

    def births(self) -> int:
        """Return how many processes and threads were started since the last walk, on the whole machine."""
        last_born = self._read_last_born()
        if last_born == self._last_born:
            return 0
        try:
            born = int(last_born) - int(self._last_born)
        except ValueError:
            return MANY
        return born if born >= 0 else MANY  # pids have wrapped around

    def _add(self, found: dict[int, int], now: float) -> None:
        for pid, parent in found.items():
            known = self.processes.get(pid)
            if known is not None:
                known.parent = parent
                continue
            self.grew_at = now
            fd = -1
            if self._fds_left > 0:
                try:
                    fd = os.open(f"/proc/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
                    self._fds_left -= 1
                except FileNotFoundError:
                    continue
                except OSError:
                    self._fds_left = 0  # EMFILE: keep no more open
            one = Process(pid, parent, fd, now)
            one.borrows = self.borrows_memory(one)  # before it is read: it may execute meanwhile
            try:
                fields = _statm(one)
                one.rss = int(fields[1]) * procfs.PAGE
                one.shared = int(fields[2]) * procfs.PAGE
                one.data = int(fields[5]) * procfs.PAGE
                if fd < 0:
                    one.started = procfs.stat(pid).started
            except (OSError, IndexError):
                self._close(one)
                continue
            if one.borrows:
                one.rss = one.shared = 0
            else:
                self._ask_shared(one)
            one.anon = one.rss - one.shared
            self.processes[pid] = one
            self.rss += one.rss
            self.charge += one.charge

    def borrows_memory(self, one: Process) -> bool:
        """Whether the memory that the kernel shows of this process is its parent's, and counts there."""
        if one.parent not in self.processes:
            return False
        is_shared = kernel.shares_memory(one.pid, one.parent)
        return _shows_parents_memory(one.pid, one.parent) if is_shared is None else is_shared

    def _forget(self, one: Process) -> None:
        self._close(one)
        if self.processes.get(one.pid) is one:
            del self.processes[one.pid]
        self._cpu.vanished(one, self.processes.get(one.parent))
        self._some_ended = True
        self.walk_due = True  # its pid may have been reused already
        self._forget_shares(one)

    def _forget_shares(self, one: Process) -> None:
        """Forget the shares of the others if one that has ended shared memory with them."""
        if one.pss >= 0 and one.judged_at - one.pss > GROWING_BYTES:
            for other in self.processes.values():
                if other.judged_at - other.pss > GROWING_BYTES:
                    other.pss, other.asked_at = -1, 0

    def _close(self, one: Process) -> None:
        if one.fd >= 0:
            os.close(one.fd)
            one.fd = -1
            self._fds_left += 1

    def full_check(self, now: float) -> None:
        """Add the processes that walks have missed, if a check is due."""
        if now < self._check_at:
            return
        began = self._clock()
        if self._full_walk is not None:
            parent_of = {pid: self._root for pid in self._full_walk() if pid not in self.processes}
        else:
            parent_of = procfs.below(self._root, procfs.parents())
        self._add(parent_of, now)
        took = self._clock() - began
        self._check_at = now + max(FULL_CHECK_S, took / FULL_CHECK_SHARE)

    # --- the counters ---

    def read(self) -> None:
        """Read the memory of every known process; forget those that have ended."""
        page = procfs.PAGE
        rss_sum = charge_sum = growing = 0
        gone: list[Process] = []
        pread = os.pread
        for one in self.processes.values():
            one.borrows = one.borrows and self.borrows_memory(one)
            try:
                if one.fd >= 0:
                    fields = pread(one.fd, 128, 0).split()
                    rss = int(fields[1]) * page
                    shared = int(fields[2]) * page
                    one.data = int(fields[5]) * page
                else:
                    rss, shared = self._read_unkept(one)
            except (OSError, IndexError):
                gone.append(one)
                continue
            if one.borrows:
                continue
            if rss > one.rss + GROWING_BYTES:
                growing += 1
            one.rss = rss
            one.shared = shared
            one.anon = rss - shared
            if shared > one.shared_asked + SHARED_STEP_BYTES or (one.shmem and shared < one.shmem):
                self._ask_shared(one)
            # After that reading: all that was added since the last look may be shared memory.
            self.files_peak_bytes = max(self.files_peak_bytes, shared - one.shmem)
            rss_sum += rss
            charge_sum += one.anon + one.shmem
        self.growing = growing
        self.rss = rss_sum
        self.charge = charge_sum
        for one in gone:
            self._forget(one)

    def freed_by_workers(self, seen_before: float) -> int:
        """Return how much less the processes below the first one hold now than each at its own peak.

        The first one's peak is mostly before or after theirs: what it loads for them, or makes of it.
        `seen_before`: a process first seen later may not have executed its own program yet. What a process
        has from the start it may share with the one that has forked it.
        """
        freed = 0
        for one in self.processes.values():
            if one.rss and one.parent in self.processes and one.first_seen <= seen_before:
                if one.anon_at_first < 0:
                    one.anon_at_first = one.anon
                one.anon_peak = max(one.anon_peak, one.anon)
                freed += max(0, one.anon_peak - max(one.anon, one.anon_at_first))
        return freed

    def forget_peaks(self) -> None:
        """Forget what processes have had so far."""
        self.files_peak_bytes = 0
        for one in self.processes.values():
            one.anon_at_first = one.anon_peak = -1

    def note_uncounted(self) -> None:
        """Note what of the only process's pages the exact sums do not count: files, and repeated maps."""
        for one in self.processes.values():
            uncounted = one.shared - one.shmem + one.judged_at - one.pss
            self.files_peak_bytes = max(self.files_peak_bytes, uncounted)

    def has_shrunk(self) -> bool:
        """Whether a process has ended, executed another program or freed memory since the last read()."""
        for one in self.processes.values():
            if one.rss and not one.borrows:
                try:
                    if int(_statm(one)[1]) * procfs.PAGE < one.rss - SHARED_STEP_BYTES:
                        return True
                except (OSError, IndexError):
                    return True
        return False

    def _read_unkept(self, one: Process) -> tuple[int, int]:
        """Read a process without a kept descriptor; ProcessLookupError if its pid was reused."""
        fields = procfs.read(f"/proc/{one.pid}/statm", 128).split()
        started = procfs.stat(one.pid).started
        if one.started < 0:
            one.started = started
        elif started != one.started:
            raise ProcessLookupError
        one.data = int(fields[5]) * procfs.PAGE
        return int(fields[1]) * procfs.PAGE, int(fields[2]) * procfs.PAGE

    def _ask_shared(self, one: Process) -> None:
        """Read how much of its shared pages is shared memory, which counts; pages of files do not."""
        one.shared_asked = one.shared
        try:
            kib = procfs.status_field(one.pid, b"RssShmem")
        except (OSError, ValueError):
            return
        # Before Linux 4.5 the kernel does not say: then count all of it.
        one.shmem = one.shared if kib is None else kib * 1024

    def cpu_ns(self) -> int:
        """Return the CPU time of the tree up to now, ended processes included; it never falls."""
        some_ended, self._some_ended = self._some_ended, False
        if not some_ended:
            some_ended = self._read_last_born() != self._last_born
        return self._cpu.refresh(self.processes, some_ended=some_ended)

    def reaped(self, pid: int, usage: Any) -> None:
        """Remove a process that the warden has waited for, and add its rusage."""
        one = self.processes.pop(pid, None)
        if one is not None:
            self._close(one)
            self._forget_shares(one)
        self._cpu.reaped(usage)
        self._some_ended = True

    def close(self) -> None:
        """Close all descriptors."""
        for one in self.processes.values():
            self._close(one)
        self.processes.clear()
        if self._loadavg >= 0:
            os.close(self._loadavg)
            self._loadavg = -1


def _statm(one: Process) -> list[bytes]:
    """Read /proc/PID/statm; OSError when the process is gone."""
    text = os.pread(one.fd, 128, 0) if one.fd >= 0 else procfs.read(f"/proc/{one.pid}/statm", 128)
    return text.split()


def _shows_parents_memory(pid: int, parent: int) -> bool:
    """Whether the counters of both are equal while a thread of the parent waits, as it does in vfork()."""
    try:
        if procfs.read(f"/proc/{pid}/statm", 128) != procfs.read(f"/proc/{parent}/statm", 128):
            return False
        threads = os.listdir(f"/proc/{parent}/task")
        return any(b") D " in procfs.read(f"/proc/{parent}/task/{tid}/stat", 512) for tid in threads)
    except OSError:
        return False
