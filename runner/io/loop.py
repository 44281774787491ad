"""One thread, one epoll: serves descriptors, timers and signals in the order in which they become due.

Callbacks must not block. An exception that escapes from a callback ends `run()`: the state after it is
unknown. The clock is injectable and monotonic.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Protocol

from ...sandbox.shared.container_limits import available_cores

Callback = Callable[[], None]

#: Poll for this long for what expect() has announced, before sleeping.
SPIN_S = 0.0003
#: After it took longer this many times in a row, poll less and less often, ...
MISSES_MAX = 4
#: ... but at least once in this many times.
SKIPPED_MAX = 64
#: Look for cancelled timers once there are this many timers, and each time they have doubled after that.
MANY_TIMERS = 1000
#: epoll counts milliseconds in 31 bits.
WAIT_MAX_S = 86_400.0
_READ = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR
_WRITE = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR


class HasFileno(Protocol):
    """A socket or a file."""

    def fileno(self) -> int: ...


class Timer:
    """One call in the future. cancel() is allowed at any time."""

    __slots__ = ("callback", "wakes_at")

    def __init__(self, at: float, callback: Callback) -> None:
        self.wakes_at = at
        self.callback: Callback | None = callback  #: None: the call was made or cancelled

    def cancel(self) -> None:
        """Do not make the call, unless it was made already."""
        self.callback = None

    @property
    def pending(self) -> bool:
        """Whether the call is still to be made."""
        return self.callback is not None

    def fire(self) -> None:
        """Make the call, once."""
        callback, self.callback = self.callback, None
        if callback is not None:
            callback()


class Alarm:
    """A timer that is set far more often than it goes off: setting it again costs an assignment.

    It may wake the loop once for a time that was cancelled or moved since.
    """

    __slots__ = ("_at", "_loop", "callback", "wakes_at")

    def __init__(self, loop: Loop, callback: Callback) -> None:
        self._loop = loop
        self.callback = callback
        self._at: float | None = None
        self.wakes_at = math.inf  #: the time at which the loop calls fire(); infinity: at none

    def set(self, seconds: float) -> None:
        """Call back once, that many seconds from now; this replaces any time set before."""
        self._at = at = self._loop.clock() + seconds
        if at < self.wakes_at:
            self.wakes_at = at
            self._loop.fire_at(at, self)

    def cancel(self) -> None:
        """Do not call back."""
        self._at = None

    @property
    def pending(self) -> bool:
        """Whether the call is still to be made."""
        return self._at is not None

    def fire(self) -> None:
        """Call back if it is time to, or have this called again when it will be."""
        now, at = self._loop.clock(), self._at
        if now < self.wakes_at:
            return  # since this call was asked for, an earlier one was
        self.wakes_at = math.inf
        if at is None:
            return
        if now < at:
            self.wakes_at = at
            self._loop.fire_at(at, self)
        else:
            self._at = None
            self.callback()


class Promptness:
    """Whether something usually comes within SPIN_S, as it has lately."""

    __slots__ = ("_misses", "_skips")

    def __init__(self) -> None:
        self._misses = 0
        self._skips = 0

    def is_likely(self) -> bool:
        """Whether to poll for it this time."""
        if not self._skips:
            return True
        self._skips -= 1
        return False

    def note(self, has_come: bool) -> None:
        """Note whether it has come while it was polled for."""
        self._misses = 0 if has_come else self._misses + 1
        over = self._misses - MISSES_MAX
        self._skips = 0 if over < 0 else min(1 << min(over, 16), SKIPPED_MAX)


class Loop:
    """Runs callbacks for what becomes ready or due, until stop()."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        # epoll itself: the selectors module around it costs 8 µs a turn, more than a turn's own work.
        self._epoll = select.epoll(select.EPOLL_CLOEXEC)
        self._watched: dict[int, int] = {}
        self._timers: list[tuple[float, int, Timer | Alarm]] = []
        self._most_timers = MANY_TIMERS
        self._order = itertools.count()
        self._stopped = False
        self._expected: Promptness | None = None  # what the next turn polls for
        self._promptness: dict[str, Promptness] = {}
        #: Cores that this process shares with those that it waits for.
        self.cores = available_cores()
        self._signals: dict[int, Callback] = {}
        self._old: dict[int, object] = {}
        self._old_wakeup = -1
        # Signals and other threads wake the loop through this pipe.
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._posted: list[Callback] = []
        self._readers: dict[int, Callback] = {self._wake_read: self._woken}
        self._writers: dict[int, Callback] = {}
        self._can_wait: set[int] = set()  # descriptors that do not end the polling of expect()
        self._epoll.register(self._wake_read, select.EPOLLIN)
        self._watched[self._wake_read] = select.EPOLLIN

    # ---- descriptors

    def on_readable(self, fd: int | HasFileno, callback: Callback | None, *, can_wait: bool = False) -> None:
        """Call back whenever the descriptor can be read; None: no longer.

        can_wait: what comes there is not what expect() announces, and is read after that, or SPIN_S later.
        """
        number = fd if isinstance(fd, int) else fd.fileno()
        self._set(self._readers, number, callback)
        if can_wait and callback is not None:
            self._can_wait.add(number)
        else:
            self._can_wait.discard(number)

    def on_writable(self, fd: int | HasFileno, callback: Callback | None) -> None:
        """Call back whenever the descriptor can be written; None: no longer."""
        self._set(self._writers, fd if isinstance(fd, int) else fd.fileno(), callback)

    def _set(self, table: dict[int, Callback], fd: int, callback: Callback | None) -> None:
        if callback is None:
            if table.pop(fd, None) is None:
                return
        elif table.get(fd) is not None:
            table[fd] = callback
            return
        else:
            table[fd] = callback
        events = (select.EPOLLIN if fd in self._readers else 0) | (
            select.EPOLLOUT if fd in self._writers else 0
        )
        try:
            if not events:
                del self._watched[fd]
                self._epoll.unregister(fd)
            elif fd in self._watched:
                self._epoll.modify(fd, events)
            else:
                self._epoll.register(fd, events)
        except OSError:
            # A regular file, which epoll refuses, or a descriptor that was closed: undo the request.
            self._readers.pop(fd, None)
            self._writers.pop(fd, None)
            self._watched.pop(fd, None)
            if callback is not None:
                raise
            return
        if events:
            self._watched[fd] = events

    # ---- time

    def after(self, seconds: float, callback: Callback) -> Timer:
        """Call back once, that many seconds from now, not before."""
        timer = Timer(self.clock() + seconds, callback)
        self.fire_at(timer.wakes_at, timer)
        return timer

    def fire_at(self, at: float, timer: Timer | Alarm) -> None:
        """Call timer.fire() at this time, which is timer.wakes_at."""
        if len(self._timers) >= self._most_timers:
            # One that was cancelled or moved stays until it is due: with a limit of hours for each task, or
            # for a program that is asked each second, that is all of them.
            self._timers[:] = [
                one for one in self._timers if one[2].callback is not None and one[2].wakes_at == one[0]
            ]
            heapq.heapify(self._timers)
            self._most_timers = max(MANY_TIMERS, 2 * len(self._timers))
        heapq.heappush(self._timers, (at, next(self._order), timer))

    def alarm(self, callback: Callback) -> Alarm:
        """Return a timer that can be set again and again."""
        return Alarm(self, callback)

    # ---- signals and threads

    def on_signal(self, number: int, callback: Callback) -> None:
        """Call back in the loop when this process gets the signal. Main thread only."""
        if not self._signals:
            self._old_wakeup = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._signals[number] = callback
        if number not in self._old:
            self._old[number] = signal.signal(number, lambda number, frame: None)

    def post_from_thread(self, callback: Callback) -> None:
        """Call back in the loop. The only method that another thread may call."""
        self._posted.append(callback)  # list.append is atomic
        # If the pipe is full, a wake-up is pending already; if it is closed, the loop has ended.
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"\0")

    def _woken(self) -> None:
        numbers: set[int] = set()
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._wake_read, 4096):
                numbers.update(data)
        for number in sorted(numbers & self._signals.keys()):
            self._signals[number]()
        while self._posted:
            self._posted.pop(0)()

    # ---- running

    def run(self) -> None:
        """Serve until stop() is called."""
        self._stopped = False
        while not self._stopped:
            self.turn()

    def stop(self) -> None:
        """Have run() return after the callback that is being made."""
        self._stopped = True

    @property
    def one_core(self) -> bool:
        """Whether this process shares the time of one core with those it waits for."""
        return self.cores <= 1

    def expect(self, what: str) -> None:
        """Have the next turn poll for up to SPIN_S before it sleeps: something is due in a moment.

        `what`: a name for it. What has often taken longer is polled for less often: on a busy machine the
        polling would keep a core from the process that is waited for. On one core nothing is polled for.

        Being woken on another core takes longer than a tiny task, and costs as much CPU as polling
        (measured: init->initialized and start->done a third shorter, CPU per task the same). To yield the
        core between two looks is no help: beside two busy programs it made a task twelve times longer.
        """
        if self.cores <= 1:
            return
        promptness = self._promptness.get(what)
        if promptness is None:
            promptness = self._promptness[what] = Promptness()
        self._expected = promptness if promptness.is_likely() else None

    def turn(self, most_s: float | None = None) -> None:
        """Wait until something is ready or due, at most this long, and serve it."""
        found = self._spin(self._expected) if self._expected is not None else None
        wait_s = None
        if not found:
            wait_s = self._wait_s(most_s)
            found = self._epoll.poll(wait_s)
        for fd, mask in found:
            # Look each descriptor up again: a callback may have closed one that was ready as well. Errors and
            # hang-ups are left to the read or write that meets them.
            if mask & _READ and (callback := self._readers.get(fd)) is not None:
                callback()
                if self._stopped:
                    return
            if mask & _WRITE and (callback := self._writers.get(fd)) is not None:
                callback()
                if self._stopped:
                    return
        if wait_s and found:
            return  # none was due before; one that has become due since is served by the next turn, at once
        timers = self._timers
        if not timers:
            return
        now = self.clock()
        while timers and timers[0][0] <= now:
            heapq.heappop(timers)[2].fire()
            if self._stopped:
                return

    def _spin(self, expected: Promptness) -> list[tuple[int, int]]:
        self._expected = None
        poll, clock, can_wait = self._epoll.poll, time.perf_counter, self._can_wait
        end = clock() + SPIN_S
        while True:
            found = poll(0)
            has_come = bool(found) and any(fd not in can_wait for fd, _ in found)
            if has_come or clock() >= end:
                expected.note(has_come)
                return found

    def _wait_s(self, most_s: float | None) -> float | None:
        timers = self._timers
        while timers and timers[0][2].callback is None:
            heapq.heappop(timers)
        if not timers:
            return most_s
        wait_s = timers[0][0] - self.clock()
        if wait_s < 0.0:
            return 0.0
        if most_s is not None and most_s < wait_s:
            return most_s
        return wait_s if wait_s < WAIT_MAX_S else WAIT_MAX_S

    def close(self) -> None:
        """Restore the signal handlers, and release descriptors and timers."""
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        if self._signals:
            signal.set_wakeup_fd(self._old_wakeup)
        self._signals.clear()
        self._timers.clear()
        self._epoll.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
