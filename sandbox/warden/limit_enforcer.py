"""Measures one child's process tree as often as its limits require, and finds the limit that is exceeded.

Order of calls: LimitEnforcer(...) before the fork; confinement.enter() between fork and exec; child_started()
after the fork; check() whenever next_at has come; reaped() for every process that was waited for;
check_frozen_tree() with all processes stopped, before a kill; finish() after the last process is gone.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ..linux import procfs, scheduling
from ..linux.oom_counter import OomWatch
from ..shared.limits import Limits
from ..shared.messages import Account, BrokenLimit, HeldBack, ProcessMemory, Sample, SharedMemoryUse
from ..usage.sampler import TreeSampler
from ..usage.shared_memory import SharedMemory
from ..usage.usage import Breach, Sampler, SharedObject, breach
from .confinement import Confinement
from .cpu_throttle import CpuLimit
from .deadlock_watch import DeadlockWatch
from .memory_brake import HeldProcess, NearLimitBrake
from .own_time import TimeSince
from .reserved_brake import ReservedBrake

if TYPE_CHECKING:
    from ..usage.disk_usage import DiskMeter
    from ..usage.psutil_walk import PsutilSampler

#: Interval between checks while no task runs and only the limit on CPU time can be exceeded.
IDLE_CHECK_S = 1.0
#: From this share of the memory limit on, remember the largest processes, at this interval.
REMEMBER_FROM = 0.5
REMEMBER_S = 0.1
#: A report names this many objects in shared memory, and counts the others.
NAMED = 5


class LimitEnforcer:
    """Enforces the limits of one child and its descendants."""

    def __init__(
        self,
        limits: Limits,
        *,
        folders: list[str],
        ours: list[int],
        reports: int = -1,
        shared_memory: str | None = None,
    ) -> None:
        """Make what must exist before the child does.

        `ours`: the pids of hkrunner's own processes. `reports`: the pipe in which processes of the tree
        report what they make of shared memory; finish() closes it. `shared_memory`: the folder
        that may be the child's /dev/shm.
        """
        self.limits = limits
        self.idle = False
        self.confinement = Confinement(limits, ours=ours)
        shm = ["/dev/shm"] if shared_memory is None else ["/dev/shm", shared_memory]
        self._shared = SharedMemory(folders=shm, reports=reports)
        self._root = os.getpid()  #: the process below which the tree is
        self._sampler = _sampler_of(limits, self._shared, lambda: self._root)
        self._brake: NearLimitBrake | ReservedBrake | None = None
        self._deadlocks = DeadlockWatch()
        self._since_held = TimeSince()
        self._child = 0
        self._child_ended_at = math.inf
        throttled = limits.enforced and not self.confinement.holds_cpu
        self.cpu_limit = CpuLimit(limits.cpu_cores if throttled else None, self._sampler)
        self._disk: DiskMeter | None = None
        if limits.enforced and limits.disk_bytes is not None:
            # Imported here: the start without this limit must not take longer.
            from ..usage.disk_usage import DiskMeter

            self._disk = DiskMeter(folders, limit_bytes=limits.disk_bytes)
            self._disk.measure_before()
        self._idle_check_at = 0.0
        #: The largest processes, for a report on a tree that the kernel has killed, and when they were read.
        self._last_top: list[ProcessMemory] = []
        self._last_top_at = 0.0
        self.began_at = time.monotonic()
        self._oom = OomWatch(self.began_at)

    def child_started(self, pid: int, control: int, root: int = 0) -> None:
        """Begin to measure the child, which has been forked with this pid.

        `control`: the inode of the socket on which it hears of a stop. `root`: the process below which the
        tree is; 0: this one.
        """
        self._deadlocks = DeadlockWatch(pid, control)
        if root and isinstance(self._sampler, TreeSampler):
            self._root = root
            self._sampler.set_root(root)
        if isinstance(self._sampler, TreeSampler):
            self._brake = _brake_of(self.limits, pid)
        self._child = pid
        self.confinement.entered()
        scheduling.ask_for_short_slices()
        self.began_at = time.monotonic()

    @property
    def next_at(self) -> float:
        """Time of the next check; infinity: none is needed before a task begins."""
        at = min(self._check_at, self.cpu_limit.next_at)
        if self._disk is not None:
            at = min(at, max(self._disk.next_at, time.monotonic() + 0.01))
        return min(at, self._shared.wait_again_at(time.monotonic()))

    @property
    def _check_at(self) -> float:
        """Time of the next measurement. Limits hold between tasks, too: threads and processes may run on."""
        limits = self.limits
        if not self.idle or (limits.enforced and (limits.memory_bytes or limits.pids)):
            return self._sampler.next_at
        return self._idle_check_at if limits.enforced and limits.cpu_time_s is not None else math.inf

    def new_file_fds(self) -> list[int]:
        """Return the descriptor that is readable when a file appears in shared memory; [] during a pause."""
        fd = self._shared.new_file_fd(time.monotonic())
        return [fd] if fd >= 0 else []

    def on_new_files(self) -> None:
        """Find the processes that hold the new files in shared memory, before they close them."""
        self._shared.poll_new_files()
        if not self._is_hurried:
            self._scan_shared_memory(time.monotonic())

    def _scan_shared_memory(self, now: float, *, must: bool = False) -> None:
        if isinstance(self._sampler, TreeSampler):
            self._sampler.walk_if_born()
        self._shared.scan_if_changed(self._sampler.pids(), now, must=must)

    def check(self, now: float) -> Breach | None:
        """Measure the tree, adjust brake and throttle; return the limit that is exceeded, if any."""
        found: Breach | None = None
        self._oom.look(now)
        if now >= self._check_at and not self._sampler.can_wait(now):
            self._sampler.look(now)
            self._idle_check_at = now + IDLE_CHECK_S
            found = self._breach()
            share = REMEMBER_FROM * (self.limits.memory_bytes or math.inf)
            if self._sampler.usage.memory_bytes >= share and now - self._last_top_at >= REMEMBER_S:
                self._last_top_at = now
                self._last_top = [ProcessMemory(*one) for one in self._sampler.top(NAMED)]
            if self._brake is not None and isinstance(self._sampler, TreeSampler):
                if isinstance(self._brake, ReservedBrake):
                    self._brake.is_idle = self.idle
                self._brake.adjust(self._sampler, now)
        held = self._brake.held_back if self._brake is not None and not self.idle else None
        if self._brake is not None and held is not None:
            self._brake.held_back = held = self._deadlocks.check(held, now, self._sampler.pids())
            if isinstance(self._sampler, TreeSampler):
                self._since_held.look(held.at, self._sampler.processes.get(held.pid), now)
        self.cpu_limit.tick(now)
        if self._disk is not None and now >= self._disk.next_at:
            self._disk.look(now)
            found = found or self._breach()
        return found

    def _breach(self) -> Breach | None:
        usage = self._sampler.usage
        if self._disk is not None:
            usage = usage._replace(disk_bytes=self._disk.growth_bytes)
        return breach(usage, self.limits)

    def check_frozen_tree(self) -> Breach | None:
        """Measure again while all processes are stopped; None: no limit is exceeded."""
        if not isinstance(self._sampler, TreeSampler):
            self._sampler.look(time.monotonic())
            return self._breach()
        self._sampler.walk()
        self._sampler.is_frozen = True
        try:
            self._sampler.look(time.monotonic())
        finally:
            self._sampler.is_frozen = False
        return self._breach()

    def code_loaded(self, has_stop: bool) -> None:
        """End the larger allowance that the brake gives to a process while it imports the code.

        `has_stop`: whether the code has a stop(), which may wake what waits.
        """
        self._deadlocks.has_stop = has_stop
        brake, sampler = self._brake, self._sampler
        if isinstance(brake, ReservedBrake) and brake.is_loading and isinstance(sampler, TreeSampler):
            brake.is_loading = False
            now = time.monotonic()
            sampler.look(now)
            brake.adjust(sampler, now)

    def thread_lost(self) -> None:
        """A thread of the child has ended for want of memory: find out whether the rest waits for ever."""
        if self._brake is not None:
            now = time.monotonic()
            if self._brake.held_back is None:  # the memory was refused far from the limit
                used = self._sampler.usage.memory_bytes
                self._brake.held_back = HeldProcess(self._child, procfs.name(self._child), 0, used, now)
            self._deadlocks.thread_lost(now)

    def reaped(self, pid: int, usage: Any) -> None:
        """Add the resource usage of a process that was waited for."""
        if pid == self._child:
            self._child_ended_at = time.monotonic()
        self._sampler.reaped(pid, usage)

    def sample(self) -> Sample:
        """Return the usage as of the last measurement, for the parent."""
        usage = self._sampler.usage
        return Sample(
            memory_bytes=usage.memory_bytes,
            peak_bytes=self._sampler.peak_bytes,
            files_bytes=self._sampler.files_peak_bytes,
            processes=usage.processes,
            cpu_s=usage.cpu_s if self._is_hurried else self._sampler.cpu_ns() / 1e9,
            held_back=self._held_back(time.monotonic()),
            needed_bytes=getattr(self._sampler, "needed_bytes", 0),
        )

    def _held_back(self, now: float) -> HeldBack | None:
        """Return the process that the brake last kept from reserving memory; its `ago_s` is as of `now`."""
        if self._brake is None or self._brake.held_back is None:
            return None
        held = self._brake.held_back
        is_over = not self._brake.is_holding
        ago_s = self._since_held.ago_s(held.at, now)
        return HeldBack(held.pid, held.name, held.room_bytes, held.memory_bytes, ago_s, held.at, is_over)

    @property
    def _is_hurried(self) -> bool:
        """Whether there are, or may soon be, too many processes: then only what decides this is read."""
        return isinstance(self._sampler, TreeSampler) and self._sampler.is_hurried

    def fresh_sample(self) -> Sample:
        """Measure now and return the usage. Shared memory is scanned too, while its owner still holds it."""
        now = time.monotonic()
        self._sampler.look(now)
        if not self._is_hurried:
            self._shared.scan(self._sampler.pids(), now)
        if self._brake is not None and isinstance(self._sampler, TreeSampler):
            self._brake.note_freed(self._sampler)
        return self.sample()

    def check_before_kill(self) -> None:
        """Find the shared memory made since the last scan; called before the tree is killed."""
        if self._check_at == math.inf:
            self.fresh_sample()
        elif not self._is_hurried:
            self._scan_shared_memory(time.monotonic(), must=True)

    @property
    def has_unproven(self) -> bool:
        """Whether there is shared memory that may be the tree's, without proof."""
        return self._shared.has_unproven

    def restart_peak(self, began_at: float) -> None:
        """Forget the peak usage, and refused memory, of the time before `began_at`, when a task began.

        The parent asks only when the task has run for a while: what happened since `began_at` is kept.
        """
        self._sampler.restart_peak(began_at)
        if self._brake is not None:
            self._brake.forget_held_back(began_at)
            self._deadlocks.forget_lost_thread(began_at)

    def describe_breach(self, found: Breach) -> BrokenLimit:
        """Return the report of an exceeded limit: the usage, the time, the largest processes and objects."""
        objects = self._shared.objects()
        return BrokenLimit(
            cause=found.kind,
            used=found.used,
            allowed=found.allowed,
            after_s=time.monotonic() - self.began_at,
            top=[ProcessMemory(*one) for one in self._sampler.top(5)],
            objects=_named(objects[:NAMED]),
            objects_count=len(objects),
            objects_bytes=sum(one.size_bytes for one in objects),
        )

    def finish(self) -> Account:
        """Remove what the tree has left, close all descriptors, and return what the tree has used in all."""
        self.cpu_limit.stop()
        last = self.sample()
        events = self.confinement.events()
        removed, kept = self._shared.remove_left_over()
        account = Account(
            peak_bytes=max(last.peak_bytes, events.peak_bytes or 0)
            if events is not None
            else last.peak_bytes,
            files_bytes=last.files_bytes,
            cpu_s=last.cpu_s,
            group_oom=bool(events is not None and events.oom_kills),
            machine_oom=self._oom.has_struck(),
            removed=_named(removed[:NAMED]),
            removed_count=len(removed),
            kept=_named(kept[:NAMED]),
            kept_count=len(kept),
            held_back=self._held_back(self._child_ended_at),
            after_s=min(self._child_ended_at, time.monotonic()) - self.began_at,
            top=self._last_top,
        )
        self.confinement.remove()
        if self._disk is not None:
            self._disk.close()
        self._sampler.close()
        self._shared.close()
        return account


def _named(objects: list[SharedObject]) -> list[SharedMemoryUse]:
    return [SharedMemoryUse(one.name, one.size_bytes) for one in objects]


def _sampler_of(limits: Limits, shared: SharedMemory, root: Callable[[], int]) -> Sampler:
    """Return the sampler of the tree below the process that `root` returns."""
    second: list[PsutilSampler] = []
    # Where there is a limit, psutil is imported before the child can use much: nothing is measured meanwhile.
    is_limited = limits.enforced and any((limits.memory_bytes, limits.pids, limits.cpu_cores))

    def walk_in_another_way() -> Iterable[int]:
        """Find the processes without the kernel's lists of children, once a second, as a check of these.

        psutil takes 30 ms to import, and 2 MB for good: a child without others does without it.
        """
        if not (second or is_limited or len(sampler.pids()) > 1):
            return procfs.below(root(), procfs.parents())
        if not second:
            from ..usage.psutil_walk import PsutilSampler

            second.append(PsutilSampler(root(), limits))
        return second[0].descendants()

    try:
        sampler = TreeSampler(root(), limits, shared=shared, full_walk=walk_in_another_way)
        return sampler
    except OSError:  # a system without Linux's /proc: psutil has other means
        from ..usage.psutil_walk import PsutilSampler

        return PsutilSampler(root(), limits)


def _brake_of(limits: Limits, pid: int) -> NearLimitBrake | ReservedBrake | None:
    if limits.memory_bytes is None or not limits.enforced or limits.mem_mode == "rss":
        return None
    if limits.mem_mode == "auto":
        return NearLimitBrake(limits.memory_bytes, pid)
    return ReservedBrake(limits.memory_bytes, is_loading=True)
