"""Process 1 of the algorithm's pid namespace: reaps what ends in it, and reports each end to the warden.

Process 1 becomes the parent of every orphan of its namespace, instead of the warden. It is not the algorithm
itself, because the kernel keeps most signals from process 1: abort() would not end it as elsewhere.

    warden -> first -> init (1) -> algorithm (2)

A process does not enter a new pid namespace itself, only its children do. So the first process that the
warden forks makes the namespaces, forks init, and ends; init is then the warden's own child. When init ends,
the kernel kills all in the namespace, and init is gone only after all of them are.

There are two pipes. Through one the warden sends `g` (go on) twice; through the other it gets the pid of
init, and then a record for each process that has ended.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import struct
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from ..linux import process_tree
from . import system_calls

#: pid, wait status, CPU time as user and in the kernel (s), ru_maxrss (KiB)
_RECORD = struct.Struct("=iiddq")


class EndedUsage(NamedTuple):
    """What a process has used that has ended; the names are those of resource.struct_rusage."""

    ru_utime: float
    ru_stime: float
    ru_maxrss: int


class EndedProcess(NamedTuple):
    """A process of the namespace that has ended."""

    is_algorithm: bool
    status: int
    usage: EndedUsage


class NamespaceInit:
    """Both ends of the pipes; each process uses those that are its own."""

    def __init__(self) -> None:
        """Make the pipes. Raises OSError."""
        self.pid = 0  #: of init, as the warden sees it
        self._reports, self._report_to = os.pipe2(os.O_CLOEXEC)
        self._orders, self._order_to = os.pipe2(os.O_CLOEXEC)
        self._reported = [0.0, 0.0]

    # ---- in the first process, and in init

    def become_init(self) -> None:
        """Fork init and end; returns in init, when the warden has become its parent."""
        pid = os.fork()
        if pid:
            os.write(self._report_to, _RECORD.pack(pid, 0, 0.0, 0.0, 0))
            os._exit(0)
        os.close(self._order_to)
        os.close(self._reports)
        self._wait_for_order()
        system_calls.die_with_parent()
        # If the warden ended before that, the pipe says so.
        if select.select([self._orders], [], [], 0)[0]:
            os._exit(1)

    def run(self, become_algorithm: Callable[[], NoReturn]) -> NoReturn:
        """Fork the algorithm, and reap until no process is left."""
        algorithm = os.fork()
        if algorithm == 0:
            become_algorithm()
        signal.set_wakeup_fd(-1)
        kept = sorted((self._report_to, self._orders))
        for low, high in zip([0, kept[0] + 1, kept[1] + 1], [*kept, 1 << 20], strict=True):
            os.closerange(low, high)
        self._wait_for_order()
        while True:
            try:
                pid, status, usage = os.wait4(-1, 0)
            except ChildProcessError:
                os._exit(0)
            record = _RECORD.pack(
                int(pid == algorithm), status, usage.ru_utime, usage.ru_stime, usage.ru_maxrss
            )
            os.write(self._report_to, record)

    def _wait_for_order(self) -> None:
        if os.read(self._orders, 1) != b"g":
            os._exit(1)

    # ---- in the warden

    @property
    def fd(self) -> int:
        """The descriptor that is readable when a process has ended; -1: init has ended."""
        return self._reports

    def adopt(self, first: int) -> int | None:
        """Wait for the end of the first process, and have init go on; return its status if there is none."""
        os.close(self._report_to)
        os.close(self._orders)
        _, status = os.waitpid(first, 0)
        told = os.read(self._reports, _RECORD.size)
        if len(told) < _RECORD.size:
            self.close()
            return status
        self.pid = _RECORD.unpack(told)[0]
        os.set_blocking(self._reports, False)
        self._order()
        return None

    def algorithm(self) -> int:
        """Return the pid of the algorithm, which has been executed, and have init reap from now on."""
        # Init has reaped nothing so far, and its first child is the algorithm.
        pid = process_tree.children(self.pid)[0]
        self._order()
        return pid

    def _order(self) -> None:
        with contextlib.suppress(OSError):  # it has ended, which the reports show
            os.write(self._order_to, b"g")

    def ended(self) -> list[EndedProcess]:
        """Return the processes that have ended since the last call."""
        found: list[EndedProcess] = []
        while self._reports >= 0:
            try:
                told = os.read(self._reports, 64 * _RECORD.size)
            except BlockingIOError:
                break
            if not told:
                self.close()
            for is_algorithm, status, user_s, system_s, rss in _RECORD.iter_unpack(told):
                self._reported[0] += user_s
                self._reported[1] += system_s
                found.append(EndedProcess(bool(is_algorithm), status, EndedUsage(user_s, system_s, rss)))
        return found

    def own_usage(self, usage: object) -> EndedUsage:
        """Return what of the usage of init, which has ended, was not reported by it: it contains all."""
        user_s, system_s = getattr(usage, "ru_utime", 0.0), getattr(usage, "ru_stime", 0.0)
        return EndedUsage(
            max(0.0, user_s - self._reported[0]),
            max(0.0, system_s - self._reported[1]),
            getattr(usage, "ru_maxrss", 0),
        )

    def end(self) -> int:
        """Kill init, and with it all in its namespace; return its status."""
        process_tree.signal_to(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        self.close()
        return status

    def close(self) -> None:
        """Close the pipes."""
        for fd in (self._reports, self._order_to):
            if fd >= 0:
                os.close(fd)
        self._reports = self._order_to = -1
