"""What one task uses: read by the parent for short tasks, asked of the warden for the others.

A task of a millisecond must not cost a message to the warden. So the parent itself reads the clock and the
high-water mark of the child (5 µs) at both ends of the task. Only for a task that lasts is the warden asked,
which sees the whole process tree.
"""

from __future__ import annotations

import itertools
import time

from ...sandbox.linux import procfs
from ...sandbox.parent.child_handle import Child
from ...sandbox.shared.messages import HeldBack, Sample

#: The warden is asked about a task that lasts longer than this, now and at its end.
WATCH_S = 0.05
#: Wait this long for the final usage of a task.
FINAL_WAIT_S = 0.25
#: Reset the child's high-water mark when a task has freed more than this.
_SPIKE_BYTES = 4 * 1024 * 1024
#: Do not read the memory of a task that took less than this ...
BRIEF_S = 0.005
#: ... unless the figure of the task before is older than this.
FRESH_S = 0.25
#: The brake refuses memory in the last part of the limit (memory_brake.py), above this share in any case.
NEAR_SHARE = 0.8
#: A task needs at least this long to use so much memory.
FILLED_S = 0.001
_ask_numbers = itertools.count(1)


class TaskUsage:
    """CPU time and memory from the begin of a task to its end."""

    _first_ask = 0  #: numbers of the questions to the warden; 0: not asked
    _final_ask = 0
    _tree_cpu_s: float | None = None
    _before_ns = 0
    peak_bytes = 0
    needed_bytes = 0  #: a limit must leave so much, if that is more than the peak; 0: not measured
    stays_bytes = 0  #: memory after the task, once it has ended; 0: not known
    #: The process that was held back most recently in this task, for the memory limit.
    held_back: HeldBack | None = None
    #: The same before the child's first task, mostly while its code was loaded.
    held_back_before: HeldBack | None = None
    _files_bytes = 0
    processes = 0
    is_asked = False  #: whether the warden was asked to measure the task
    _final: Sample | None = None
    #: When a sample was taken last, and the CPU time then. Not by the system's clock, which may be set.
    _last: tuple[float, float] | None = None

    # The above is never set for a task of a millisecond.
    def __init__(
        self,
        child: Child,
        *,
        limit_bytes: int | None,
        reserved_counts: bool = False,
        is_first: bool = False,
    ) -> None:
        """Begin. watch() is to be called after WATCH_S if the task still runs.

        `limit_bytes`: the memory limit; then the memory of the briefest task too is read.
        `reserved_counts`: a limit would refuse reserved memory, used or not. `is_first`: of this child.
        """
        self._limit_bytes = limit_bytes
        self._is_first = is_first
        self._reserved_counts = reserved_counts
        self._child = child
        self._clock = procfs.process_clock(child.pid)
        self._began = time.monotonic()
        self._cpu_ns = _cpu_ns(self._clock)
        #: (seconds since the epoch, cores, bytes, processes) a few times a second.
        self.samples: list[tuple[float, float, int, int]] = []

    @property
    def is_watched(self) -> bool:
        """Whether the warden has begun to measure the task: its final usage is worth the wait."""
        return self._tree_cpu_s is not None

    @property
    def is_final(self) -> bool:
        """Whether the final usage has arrived."""
        return self._final is not None

    def watch(self) -> None:
        """Have the warden measure the whole tree from here on."""
        self.is_asked = True
        self._first_ask = next(_ask_numbers)
        self._child.ask(self._first_ask, began_at=self._began)
        # The warden has not looked so far: what the task has mapped of files is in the high-water mark.
        self._files_bytes = max(self._files_bytes, _file_bytes(self._child.pid))

    def on_sample(self, sample: Sample) -> None:
        """Take a sample of the tree."""
        ask, held = sample.answers, sample.held_back
        # What was refused before the task: the warden forgets it once it has answered the first question.
        if self._is_first and ask is not None and held is not None and held.at < self._began:
            self.held_back_before = held
        if ask == self._first_ask:
            self._tree_cpu_s = sample.cpu_s
            self._before_ns = _cpu_ns(self._clock) - self._cpu_ns
            self._last = (time.monotonic(), sample.cpu_s)
            return
        if self._tree_cpu_s is None and ask != self._final_ask:
            return
        if self.is_watched:
            self.peak_bytes = max(self.peak_bytes, sample.peak_bytes)
            self.needed_bytes = max(self.needed_bytes, sample.needed_bytes)
            self._files_bytes = max(self._files_bytes, sample.files_bytes)
        else:  # the peaks are of the last task that was watched
            self.peak_bytes = max(self.peak_bytes, sample.memory_bytes)
        self.processes = sample.processes
        if held is not None:
            self.take_held_back(held)
        if ask == self._final_ask:
            self._final = sample
        now, (at, cpu_s) = time.monotonic(), self._last or (self._began, 0.0)
        # If the task ended before the first answer, it is not known what the tree had used before the task.
        if self._tree_cpu_s is not None and now - at >= 0.05:
            cores = max(0.0, sample.cpu_s - cpu_s) / (now - at)
            self.samples.append((time.time(), cores, sample.memory_bytes, sample.processes))
            self._last = (now, sample.cpu_s)
            if len(self.samples) > 4000:
                self.samples = self.samples[::2]

    def take_held_back(self, held: HeldBack) -> None:
        """Note the process that was held back most recently, if that was in this task."""
        if held.concerns(self._began):
            self.held_back = held

    def on_ended_processes(self, rss_bytes: int) -> None:
        """Count the peak of a process that ended before it was sampled, together with the child's memory."""
        own = _high_water(self._child.pid, self._files_bytes)[1]
        self.peak_bytes = max(self.peak_bytes, own + rss_bytes)

    def peak(self) -> int:
        """Return the highest memory so far, in bytes."""
        return max(self.peak_bytes, self._within_limit(_high_water(self._child.pid, self._files_bytes)[0]))

    @property
    def was_near_limit(self) -> bool:
        """Whether the task came so close to the memory limit that it may have been refused memory.

        Of the first task, this includes what came before it: the loading of the code.
        """
        if self._limit_bytes is None:
            return False
        if not self._is_first and time.monotonic() - self._began < FILLED_S:
            return False
        return self.peak() >= NEAR_SHARE * self._limit_bytes

    def _within_limit(self, high: int) -> int:
        """Return the high-water mark without pages of files that were not measured.

        They count in it, and may be gone by now. But the limit holds: the warden would have seen the rest.
        """
        return high if self._limit_bytes is None else min(high, max(self._limit_bytes, self.peak_bytes))

    def is_of(self, child: Child | None) -> bool:
        """Whether this child is measured, and is still there."""
        return child is self._child

    def ask_final(self) -> None:
        """Ask for the usage of the whole tree; on_sample() gets it."""
        self._final_ask = next(_ask_numbers)
        self._child.ask(self._final_ask)

    def end(self) -> tuple[int, float]:
        """Return (highest memory in bytes, CPU seconds) of the task."""
        cpu_s = (_cpu_ns(self._clock) - self._cpu_ns) / 1e9
        high, final = self._high(), self._final
        if self._limit_bytes is not None:
            high = self._within_limit(high)
        if self._reserved_counts:
            self.needed_bytes = max(self.needed_bytes, _reserved_peak(self._child.pid))
        if final is not None:
            self.stays_bytes = final.memory_bytes
            if self._tree_cpu_s is not None:
                cpu_s = self._before_ns / 1e9 + final.cpu_s - self._tree_cpu_s
        return max(self.peak_bytes, high), max(cpu_s, 0.0)

    def _high(self) -> int:
        """Return the highest memory of the child's own process in this task.

        A task of a few milliseconds cannot have taken much: the figure of the task before serves.
        """
        at = time.monotonic()
        if self._limit_bytes is None and at - self._began < BRIEF_S:
            read_at, known = self._child.memory_read
            if at - read_at < FRESH_S:
                self.stays_bytes = known
                return known
        high, now = _high_water(self._child.pid, self._files_bytes)
        if high - now > _SPIKE_BYTES:
            _reset_high_water(self._child.pid)
        self._child.memory_read = (at, now)
        self.stays_bytes = now
        return high


def _cpu_ns(clock: int) -> int:
    try:
        return procfs.cpu_ns(clock)
    except OSError:
        return 0


def _high_water(pid: int, files_bytes: int) -> tuple[int, int]:
    """Return (highest, present) memory of a process in bytes; zeros when the process is gone.

    File pages are left out, as the limit leaves them out: those of now, or `files_bytes` if that is more. It
    may include shared memory, since these figures count each map of it.
    """
    try:
        high, now, file, shared = _sizes(pid, b"VmHWM:", b"VmRSS:", b"RssFile:", b"RssShmem:")
    except (OSError, ValueError, IndexError):
        return 0, 0
    return max(high - max(file, files_bytes), now - file - shared, 0), max(now - file, 0)


def _file_bytes(pid: int) -> int:
    try:
        return _sizes(pid, b"RssFile:")[0]
    except (OSError, ValueError, IndexError):
        return 0


def _reserved_peak(pid: int) -> int:
    """Return what a process has had reserved at a time, at most; 0 when it is gone.

    The kernel keeps a peak of the whole address space alone: whatever was mapped then and is no longer may
    have been reserved memory, such as the stacks of a pool of threads that has ended.
    """
    try:
        peak, size, data = _sizes(pid, b"VmPeak:", b"VmSize:", b"VmData:")
    except (OSError, ValueError, IndexError):
        return 0
    return data + peak - size


def _sizes(pid: int, *names: bytes) -> list[int]:
    """Return sizes of /proc/PID/status in bytes; OSError, ValueError or IndexError if one is missing."""
    text = procfs.status(pid)
    return [int(text[text.index(name) + len(name) :].split(None, 1)[0]) * 1024 for name in names]


def _reset_high_water(pid: int) -> None:
    """proc(5), clear_refs: 5 resets the high-water mark to the present value."""
    try:
        with open(f"/proc/{pid}/clear_refs", "wb", buffering=0) as file:
            file.write(b"5")
    except OSError:
        pass  # another user by now, or gone: the next peak is an upper bound
