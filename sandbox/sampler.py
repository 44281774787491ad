"""Looks at a tree of processes as often as it has to, and no more often.

The next look comes after headroom / (how fast memory can be touched at most), but not sooner than a third
of a millisecond and not later than a tenth of a second. A look must therefore be cheap:

* One descriptor on /proc/PID/statm is kept for each process, and read by pread: 1.2 microseconds. It stays
  bound to that very process: once that has ended, the read says ESRCH, whoever has the pid by then.
* The tree is walked again only when the last pid of /proc/loadavg has moved: else nobody was born.
  Once a second everybody on the machine is listed as a check, because the kernel's lists of children may
  miss one while others end.

What counts as used
-------------------
RSS summed up counts shared pages several times (a pool of five that shares 150 MiB is not 750 MiB), and
clean pages of files that the kernel can drop at will. So the sum of RSS without file pages only *triggers*:
at 90 % of the limit the kernel's exact books (smaps_rollup: PSS, what is shared is shared out) are read, and
never is a limit called broken without them. Between two readings the estimate is the last PSS
plus what RSS has grown, plus the pages that copy-on-write may have doubled without any RSS growing, of which
there are at most as many as minor faults. The books of 256 MiB in small pages take 2 ms, in which a process
touches 4 MiB more. So they are not read again when private memory has grown beyond the limit since the last
reading, or in the only process there is: such pages are nobody else's.
Shared memory that nobody maps is added (shm.py).
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterable
from typing import Any

from . import procfs
from .cputime import CpuAccount
from .limits import Limits
from .shm import SharedMemory
from .usage import ProcessUse, Usage

#: How fast a tree can touch memory, at most. Measured 1.2 to 4.7 GB/s for one process (huge pages fastest).
RATE_ONE = 8e9
RATE_MANY = 16e9
#: write() to memory that nobody maps is slower: 1.7 to 2.4 GB/s.
SHARED_RATE = 4e9
SOONEST_S = 0.0003
LATEST_S = 0.1
#: Births a second that a fork bomb may reach, at most; 9,000 were measured.
BIRTH_RATE = 10_000.0
#: With a limit on processes, births are asked for this often at most (peek(): a read of one short file), and
#: this share of a core goes into walks while those who were born may have reached it.
SOONEST_PEEK_S = 0.005
COUNT_SHARE = 0.05
MANY = 1 << 22
#: So many new ones at once may be the beginning of a bomb.
BURST = 4

#: From here on the books are read.
TRIGGER = 0.9
#: One process above this needs no books.
CERTAIN = 1.1
#: The doubt in the kernel's counters, as a part of the limit, up to which another look beats the books.
SMALL_DOUBT = 0.02
#: Growth between two looks that makes a process a growing one.
GROWING_BYTES = 256 * 1024
#: Growth of the shared pages of a process after which it is asked what they are.
SHARED_STEP_BYTES = 1 << 20

FULL_CHECK_S = 1.0
#: Of a core, at most, for the full check.
FULL_CHECK_SHARE = 0.003
#: Of a core, at most, for walks while far from any limit.
WALK_SHARE = 0.005
#: The exact books of several processes, for the figures shown; and of a core for them at most.
BOOKS_S = 1.0
BOOKS_SHARE = 0.003
CPU_EVERY_S = 0.05


class Process:
    """What is kept of one process of the tree."""

    __slots__ = (
        "anon", "anon_then", "children_ns", "clock", "data", "faults_then", "fd", "first_seen", "judged_at",
        "own_ns", "parent", "pid", "pss", "rss", "shared", "shared_asked", "shmem", "started", "threads",
    )  # fmt: skip

    def __init__(self, pid: int, parent: int, fd: int, now: float) -> None:
        self.pid = pid
        self.parent = parent
        self.fd = fd  #: kept on statm; -1 when there are too many
        self.first_seen = now
        self.started = -1  #: identity of a process without a kept descriptor
        self.clock = procfs.process_clock(pid)
        self.own_ns = 0
        self.children_ns = 0
        self.threads = 1
        self.rss = 0
        self.anon = 0
        self.shared = 0
        self.shared_asked = 0
        self.shmem = 0
        self.data = 0
        self.pss = -1  #: at the last judgement; -1: not judged since
        self.judged_at = 0  #: the charge then
        self.anon_then = 0  #: private memory then
        self.faults_then = 0  #: minor faults then

    @property
    def charge(self) -> int:
        """Memory that cannot be taken back from it, shared or not."""
        return self.anon + self.shmem

    @property
    def held(self) -> int:
        """Its share of the tree's memory, as well as can be told since the books were read."""
        if self.pss < 0:
            return self.charge
        return self.pss + max(0, self.charge - self.judged_at)


class TreeSampler:
    """The usage of all processes below `root_pid`, which itself does not count. Linux; one thread.

    The root is a subreaper without other children (the warden), so that the tree has no way out.
    """

    def __init__(
        self,
        root_pid: int,
        limits: Limits,
        *,
        clock: Callable[[], float] = time.monotonic,
        shared: SharedMemory | None = None,
        full_walk: Callable[[], Iterable[int]] | None = None,
        kept_fds: int | None = None,
    ) -> None:
        """Open what is read at each look.

        `full_walk` lists the tree in another way than the kernel's lists of children, once a second; the
        default goes through everybody's parents. `kept_fds` caps the descriptors.
        """
        self.next_at = 0.0
        self._look_at = 0.0
        self.processes: dict[int, Process] = {}
        self.growing = 0
        self._root = root_pid
        self._limits = limits
        self._limit = limits.memory_bytes if limits.enforced else None
        self._pids = limits.pids if limits.enforced else None
        self._clock = clock
        self._shared = shared
        self._full_walk = full_walk
        self._has_children_files = procfs.has_children_files()
        self._loadavg = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
        self._cpu = CpuAccount()
        self._cpu_s = 0.0
        self._cpu_at = 0.0
        self._some_ended = False
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._fds_left = max(0, min(1024, soft - 128)) if kept_fds is None else kept_fds
        self._last_born = b""
        self._walk_due = True
        self._counted = 0  #: by the last walk, if it found more than may be; they are not in `processes` then
        #: The last look was cut short, since there are or may soon be too many processes.
        self.is_hurried = False
        self._newborn = 0  #: found by the last walk, and not by the one before
        self._walk_cost = 0.0
        self._walked_at = 0.0
        self._check_at = 0.0
        self._rss = 0
        self._charge = 0
        self._memory = 0  # as well as we can tell
        self._at_most = 0  # not less than it is
        self._certain = 0  # not more than it is
        self._is_exact = True  # no page can be in _memory twice
        self._pss: int | None = None
        self._is_judged = False
        self._books_at = 0.0
        self._books_due_at = 0.0
        self._unmapped = 0  # shared memory beyond what mappings show, when the books were read
        self._objects_then = 0
        self._shared_at = 0.0
        self._peak = 0
        #: The most pages of files that one process had mapped, in bytes: no limit counts them.
        self.files_peak_bytes = 0
        self._quiet = 0
        self._usage: Usage | None = None

    # --- what the warden asks ---

    @property
    def usage(self) -> Usage:
        """The last look."""
        if self._usage is None:
            self._usage = Usage(
                rss_bytes=self._rss,
                pss_bytes=self._pss,
                shared_bytes=self._shared.total_bytes if self._shared is not None else 0,
                processes=max(len(self.processes), self._counted),
                threads=sum(one.threads for one in self.processes.values()),
                cpu_s=self._cpu_s,
                memory_bytes=self._memory,
                is_judged=self._is_judged,
            )
        return self._usage

    @property
    def peak_bytes(self) -> int:
        """The most that usage.memory_bytes has been."""
        return self._peak

    def restart_peak(self) -> None:
        """Forget the peak: from the next look on it is that of the time after this call."""
        self._peak = 0
        self.files_peak_bytes = 0

    @property
    def headroom_bytes(self) -> int | None:
        """What is left of the memory limit; None without one."""
        return None if self._limit is None else self._limit - self._at_most

    def pids(self) -> list[int]:
        """The processes of the tree as of the last look or walk."""
        return list(self.processes)

    def look(self, now: float) -> float:
        """Look at the tree; return when to look next. From then on `usage` tells what was seen."""
        self._usage = None
        self._is_judged = False
        if self._is_walk_due(now):
            self._walk(self._pids)
            if self._has_too_many:
                # They leave us little of the processor: not a word more before they are stopped.
                self.is_hurried = True
                self.next_at = self._look_at = now + SOONEST_S
                return self.next_at
        self._read_kept(now)
        self.is_hurried = False
        if self._pids is not None and self._newborn >= BURST:
            # There may be too many in a moment: whatever takes long comes after the next count.
            self._newborn = 0
            self._estimate()
            if self._limit is None or self._at_most <= self._limit:
                self._walk_due = self.is_hurried = True
                self.next_at = self._look_at = now + SOONEST_S
                return self.next_at
        if now >= self._check_at:
            self._full_check(now)
        is_shared_seen = False
        if self._shared is not None and now >= self._shared_at:
            self._shared.look(self.processes, now)
            is_shared_seen = True
        self._estimate()
        if self._limit is not None and self._at_most > self._limit:
            self._decide(now, self._limit)
        elif self._are_books_due(now):
            self._read_books(now)
        if self._memory > self._peak and (self._is_exact or self._is_judged):
            self._peak = self._memory
        if now - self._cpu_at >= CPU_EVERY_S:
            self._cpu_at = now
            self._cpu_s = self.cpu_ns() / 1e9
        if is_shared_seen:
            self._shared_at = now + min(LATEST_S, self._time_to_limit(SHARED_RATE)) - SOONEST_S
        self._look_at = now + self._pause()
        self.next_at = min(self._look_at, now + self._pause_of_births())
        return self.next_at

    def peek(self, now: float) -> bool:
        """Return whether a look can still wait: memory is not due, and too few were born to be too many."""
        if self._walk_due or self._pids is None or now >= self._look_at - SOONEST_S:
            return False
        births = self._births()
        if len(self.processes) + births > self._pids:
            return False
        self.next_at = min(self._look_at, now + self._pause_of_births(births))
        return True

    def walk(self) -> None:
        """Bring the list of processes up to date now."""
        self._walk(None)

    @property
    def _has_too_many(self) -> bool:
        return self._pids is not None and self._counted > self._pids

    def _walk(self, most: int | None) -> None:
        """Walk, but only count when there are more than `most`, and no further than that."""
        # In CPU time: a bomb makes it long, and must not put the next one off by that.
        began, cost = self._clock(), time.thread_time()
        # Before the walk: who is born during it makes the next one due.
        self._last_born = self._read_last_born()
        self._walk_due = False
        self._walked_at = began
        if not self._has_children_files:
            self._add(procfs.below(self._root, procfs.parents()), began)
            self._walk_cost = time.thread_time() - cost
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
                self._counted = len(found)
                self._walk_due = True
                return
        self._counted = 0
        self._newborn = len(found) - sum(1 for pid in found if pid in self.processes)
        self._add(found, began)
        self._walk_cost = time.thread_time() - cost

    def walk_if_born(self) -> bool:
        """Walk if anybody may have been born since the last walk; whether that was so."""
        if not self._walk_due and self._read_last_born() == self._last_born:
            return False
        self.walk()
        return True

    def cpu_ns(self) -> int:
        """Return the CPU time of the tree up to now, ended processes included; it never falls."""
        some_ended, self._some_ended = self._some_ended, False
        if not some_ended:
            some_ended = self._read_last_born() != self._last_born
        return self._cpu.refresh(self.processes, some_ended=some_ended)

    def reaped(self, pid: int, usage: Any) -> None:
        """Take into account a process that the warden has collected with wait4, and its rusage."""
        one = self.processes.pop(pid, None)
        if one is not None:
            self._close(one)
        self._cpu.reaped(usage)
        self._some_ended = True
        self._usage = None

    def top(self, count: int = 5) -> list[ProcessUse]:
        """Return the largest processes, largest first."""
        held = [(one.held, one.pid) for one in self.processes.values()]
        return [ProcessUse(pid, procfs.name(pid), size) for size, pid in sorted(held, reverse=True)[:count]]

    def close(self) -> None:
        """Give back all descriptors."""
        for one in self.processes.values():
            self._close(one)
        self.processes.clear()
        if self._loadavg >= 0:
            os.close(self._loadavg)
            self._loadavg = -1

    # --- the hot part ---

    def _read_kept(self, now: float) -> None:
        """Read the memory of every process known; forget those that are gone."""
        page = procfs.PAGE
        rss_sum = charge_sum = growing = 0
        gone: list[Process] = []
        pread = os.pread
        for one in self.processes.values():
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
            if rss > one.rss + GROWING_BYTES:
                growing += 1
            if shared - one.shmem > self.files_peak_bytes:
                self.files_peak_bytes = shared - one.shmem
            one.rss = rss
            one.shared = shared
            one.anon = rss - shared
            if shared > one.shared_asked + SHARED_STEP_BYTES or (one.shmem and shared < one.shmem):
                self._ask_shared(one)
            rss_sum += rss
            charge_sum += one.anon + one.shmem
        self.growing = growing
        self._rss = rss_sum
        self._charge = charge_sum
        for one in gone:
            self._forget(one)

    def _read_unkept(self, one: Process) -> tuple[int, int]:
        """Read a process that has no kept descriptor, and see that it is still the same."""
        fields = procfs.read(f"/proc/{one.pid}/statm", 128).split()
        started = procfs.stat(one.pid).started
        if one.started < 0:
            one.started = started
        elif started != one.started:
            raise ProcessLookupError
        one.data = int(fields[5]) * procfs.PAGE
        return int(fields[1]) * procfs.PAGE, int(fields[2]) * procfs.PAGE

    def _ask_shared(self, one: Process) -> None:
        """Tell shared memory, which counts, from pages of files, which do not."""
        one.shared_asked = one.shared
        try:
            kib = procfs.status_field(one.pid, b"RssShmem")
        except (OSError, ValueError):
            return
        # Before Linux 4.5 nobody tells: then count it all.
        one.shmem = one.shared if kib is None else kib * 1024

    def _read_last_born(self) -> bytes:
        return os.pread(self._loadavg, 128, 0).rpartition(b" ")[2]

    def _is_walk_due(self, now: float) -> bool:
        if self._walk_due:
            return True
        births = self._births()
        if not births:
            return False
        # Far from the limit a busy machine must not make us walk at every look.
        wait_s = min(self._walk_cost / WALK_SHARE, self._time_to_limit())
        if self._pids is not None and len(self.processes) + births > self._pids:
            wait_s = min(wait_s, self._walk_cost / COUNT_SHARE)
        return now - self._walked_at >= wait_s

    def _births(self) -> int:
        """Return how many processes and threads were born since the last walk, on the whole machine."""
        last_born = self._read_last_born()
        if last_born == self._last_born:
            return 0
        try:
            born = int(last_born) - int(self._last_born)
        except ValueError:
            return MANY
        return born if born >= 0 else MANY  # pids began anew

    def _add(self, found: dict[int, int], now: float) -> None:
        for pid, parent in found.items():
            known = self.processes.get(pid)
            if known is not None:
                known.parent = parent
                continue
            fd = -1
            if self._fds_left > 0:
                try:
                    fd = os.open(f"/proc/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
                    self._fds_left -= 1
                except FileNotFoundError:
                    continue
                except OSError:
                    self._fds_left = 0  # EMFILE: somebody else needs them too
            one = Process(pid, parent, fd, now)
            try:
                text = os.pread(fd, 128, 0) if fd >= 0 else procfs.read(f"/proc/{pid}/statm", 128)
                fields = text.split()
                one.rss = int(fields[1]) * procfs.PAGE
                one.shared = int(fields[2]) * procfs.PAGE
                one.data = int(fields[5]) * procfs.PAGE
                if fd < 0:
                    one.started = procfs.stat(pid).started
            except (OSError, IndexError):
                self._close(one)
                continue
            one.anon = one.rss - one.shared
            self._ask_shared(one)
            self.processes[pid] = one
            self._rss += one.rss
            self._charge += one.charge

    def _forget(self, one: Process) -> None:
        self._close(one)
        if self.processes.get(one.pid) is one:
            del self.processes[one.pid]
        self._cpu.vanished(one, self.processes.get(one.parent))
        self._some_ended = True
        self._walk_due = True  # its pid may be somebody else's already
        if one.pss >= 0 and one.judged_at - one.pss > GROWING_BYTES:
            # What it shared is now shared out among the others: their part has grown unseen.
            for other in self.processes.values():
                other.pss = -1

    def _close(self, one: Process) -> None:
        if one.fd >= 0:
            os.close(one.fd)
            one.fd = -1
            self._fds_left += 1

    def _full_check(self, now: float) -> None:
        began = self._clock()
        if self._full_walk is not None:
            parent_of = {pid: self._root for pid in self._full_walk() if pid not in self.processes}
        else:
            parent_of = procfs.below(self._root, procfs.parents())
        self._add(parent_of, now)
        took = self._clock() - began
        self._check_at = now + max(FULL_CHECK_S, took / FULL_CHECK_SHARE)

    # --- what it comes to ---

    def _estimate(self) -> None:
        """Work out what the run holds, as well as it can be told without the books, and at most."""
        memory = hidden = largest = largest_anon = unknown = certain = 0
        for one in self.processes.values():
            charge = one.anon + one.shmem
            if charge > largest:
                largest, largest_anon = charge, one.anon
            if one.pss < 0:
                memory += charge
                unknown += 1
            else:
                memory += one.pss + max(0, charge - one.judged_at)
                certain += max(0, one.pss + one.anon - one.anon_then)
                hidden += max(0, one.judged_at - one.pss)
        at_most = self._charge
        objects_now = objects_at_most = unmapped = 0
        if self._shared is not None:
            objects_now = self._shared.total_bytes
            objects_at_most = self._shared.at_most_bytes
            unmapped = self._unmapped + max(0, objects_now - self._objects_then)
            unmapped = min(unmapped, objects_now)
        self._is_exact = unknown == 0 or len(self.processes) == 1
        # Who is alone has nobody to share private pages with.
        self._certain = max(certain, largest_anon if len(self.processes) == 1 else 0)
        self._memory = max(memory, largest) + unmapped
        at_most += objects_at_most
        if self._limit is not None and at_most >= TRIGGER * self._limit:
            # Copy-on-write makes a private page of a shared one without RSS moving, one fault each.
            if hidden > GROWING_BYTES:
                hidden = min(hidden, self._faults_since_books() * procfs.PAGE)
            at_most = min(at_most, self._memory + hidden + objects_at_most - objects_now)
        self._at_most = max(at_most, self._memory)

    def _faults_since_books(self) -> int:
        faults = 0
        for one in self.processes.values():
            if one.pss >= 0:
                try:
                    faults += max(0, procfs.stat(one.pid).minor_faults - one.faults_then)
                except (OSError, ValueError):
                    continue
        return faults

    def _are_books_due(self, now: float) -> bool:
        """Whether the exact books are worth reading though no limit is in question."""
        if now < self._books_at:
            return False
        if self._pids is not None and self._births():
            return False  # count them first
        if now >= self._books_due_at:
            return len(self.processes) > 1
        if self._is_exact:
            return False
        near = self._limit is not None and self._at_most >= TRIGGER * self._limit
        return near or self._memory > self._peak * 1.05

    def _decide(self, now: float, limit: int) -> None:
        """Find out whether the limit is really broken, now that it may be."""
        doubt = procfs.RSS_DOUBT_BYTES * 2 * len(self.processes)
        alone = max((one.anon for one in self.processes.values()), default=0)
        if self._certain > limit + doubt or alone > CERTAIN * limit + doubt:
            self._is_judged = True
        elif self.growing and self._certain > limit - doubt and doubt < SMALL_DOUBT * limit:
            # The next look, in a third of a millisecond, will know; the books would take longer.
            self._memory = min(self._memory, limit)
        else:
            self._read_books(now)

    def _read_books(self, now: float) -> None:
        """Replace the estimate by what the kernel's exact books say."""
        began = self._clock()
        if self._shared is not None:
            self._shared.look(self.processes, now, must=True)
        anon = shmem = 0
        for one in self.processes.values():
            try:
                books = procfs.pss(one.pid)
                one.faults_then = procfs.stat(one.pid).minor_faults
            except (OSError, ValueError):
                books = procfs.Pss(one.anon, one.shmem)  # ended, or another user's by now
            anon += books.anon_bytes
            shmem += books.shmem_bytes
            one.pss = books.anon_bytes + books.shmem_bytes
            one.judged_at = one.charge
            one.anon_then = one.anon
        self._pss = anon + shmem
        self._objects_then = self._shared.total_bytes if self._shared is not None else 0
        self._unmapped = self._unmapped_shared(anon, shmem, self._objects_then)
        self._memory = self._at_most = anon + shmem + self._unmapped
        self._is_judged = True
        self._is_exact = True
        took = self._clock() - began
        self._books_at = now + max(0.05, took / BOOKS_SHARE)
        self._books_due_at = now + max(BOOKS_S, took / BOOKS_SHARE)

    def _unmapped_shared(self, anon: int, shmem: int, objects: int) -> int:
        """Return what the shared objects hold beyond what their mappings in the tree show already."""
        if min(shmem, objects) < SHARED_STEP_BYTES:
            return objects
        if self._limit is not None and anon + max(shmem, objects) > self._limit:
            return max(0, objects - shmem)  # too much even if all that can be is in both: do not lose time
        mapped = 0
        for one in self.processes.values():
            if one.shmem:
                try:
                    mapped += procfs.mapped_objects_bytes(one.pid)
                except (OSError, ValueError):
                    continue
        return max(0, objects - mapped)

    # --- when to look next ---

    def _time_to_limit(self, rate: float = RATE_ONE) -> float:
        if self._limit is None:
            return LATEST_S
        return max(0.0, (self._limit - self._at_most) / (RATE_MANY if self.growing > 1 else rate))

    def _pause_of_births(self, births: int = 0) -> float:
        """How soon there could be too many processes."""
        if self._pids is None:
            return LATEST_S
        return max(SOONEST_PEEK_S, (self._pids - len(self.processes) - births) / BIRTH_RATE)

    def _pause(self) -> float:
        pause = min(LATEST_S, self._time_to_limit())
        # Near the limit and nothing moves: each quiet look makes the pause longer, up to four times. Further
        # away, up to twice, and only where the brake holds off what a single process could do meanwhile.
        self._quiet = 0 if self.growing else min(self._quiet + 1, 60)
        if pause < 0.005:
            pause *= 1 + self._quiet / 20
        elif self._limits.mem_mode == "brake":
            pause = min(LATEST_S, pause * (1 + self._quiet / 60))
        return max(SOONEST_S, pause)
