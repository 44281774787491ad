"""Sends what the parent gets to know of a task beside its answer.

Python 3.8 and newer.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from _thread import _count as count_threads  # those beside the main one
from typing import Any, FrozenSet, List, Optional, Tuple

from ..codec import codec
from ..shared.messages import ApiCall, EndedProcessesPeak, Problem, Progress, StillRunning
from .api_call import ApiError
from .frame_socket import FrameSocket, move_high

#: A forked process counts the pages that it shares with this one: only a peak of more than this many times
#: the peak of this process is known to be its own.
FORKED_TIMES = 2
#: To name what runs takes 0.1 ms, with many threads 1 ms: done again once this many times as long has passed,
#: or at once if there is another number of threads or another child of the main thread.
NAMING_PAUSES = 20
#: The control thread, beside the main one.
OWN_THREADS = 1
#: The children that a thread has started, and those of threads that have ended if it is the main thread.
_CHILDREN = "/proc/self/task/{}/children"
#: The helper processes of Python's own, and of loky: module, object, and its attribute with the pid.
_HELPERS = (
    ("multiprocessing.resource_tracker", "_resource_tracker", "_pid"),
    ("multiprocessing.forkserver", "_forkserver", "_forkserver_pid"),
    ("loky.backend.resource_tracker", "_resource_tracker", "_pid"),
    ("joblib.externals.loky.backend.resource_tracker", "_resource_tracker", "_pid"),
)


class TaskReports:
    """Calls of the code API, progress, and what was noticed when a task ended."""

    def __init__(
        self, channel: FrameSocket, encoding: str, most: Optional[int], *, is_child: bool = True
    ) -> None:
        """`most`: bytes of a message for the worker; None: any number. `is_child`: of a warden, which adopts
        the processes whose parent has ended."""
        self._channel = channel
        self._most = most
        self._encoding = encoding
        self._pid = os.getpid()
        self._lost_number_was_reported = False
        self._ended_kib = 0  #: ru_maxrss of the processes that have ended, as of the last task
        self._is_child = is_child
        #: The kernel's list of the children of the main thread; None where there is none.
        self._children = _open_children() if is_child else None
        self._ended_faults = 0  #: page faults of the processes that have ended; a process that ends adds some
        self._still_running: Tuple[List[str], int] = ([], 0)  #: as it was sent last
        self._helpers: List[int] = []  #: as they were sent last
        self._name_again_at = float("-inf")
        self._signs: Tuple[int, bytes] = (0, b"")  #: the number of threads, the children of the main thread
        self._ignored: FrozenSet[int] = frozenset()  #: processes that were there before the user's code
        if not is_child:
            from .still_running import children

            self._ignored = frozenset(children("self"))

    def send_api_call(self, task: int, message: dict[str, Any]) -> None:
        """Send a message of the code API, encoded once, for the worker. Raises ApiError."""
        self._need_own_process()
        try:
            wire = codec.encode(self._encoding, message, name=f"{message['command']} data", most=self._most)
        except (codec.ResultInvalid, codec.ResultTooLarge) as error:
            raise ApiError(str(error)) from None
        self._channel.send_wire(task, ApiCall, [wire], reuse=False)

    def send_progress(self, task: int, value: float, details: Any) -> None:
        """Send the progress that the algorithm reports. Raises ApiError."""
        self._need_own_process()
        self._channel.send(task, Progress(value, details))

    def _need_own_process(self) -> None:
        if os.getpid() != self._pid:
            raise ApiError(
                "api can be used in the algorithm's own process only; this one was forked by it: return what "
                "it has found, and call api from there"
            )

    def send_place_of_lost_number(self, task: int, result: Any) -> None:
        """Report where a NaN or an Infinity of this JSON result has become null; once in a process."""
        if self._lost_number_was_reported:
            return
        try:
            from ..codec import not_finite
        except ImportError:  # the task has taken Python's own folders off sys.path: its answer goes without
            return
        place = not_finite.place_of_first(result)
        if place is not None:
            self._lost_number_was_reported = True
            self._channel.send(
                task, Problem(f"{place} is NaN or Infinity; JSON has neither, so null was sent")
            )

    def send_at_end(self, task: int) -> None:
        """Report what is known only at the end of a task."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        if ended.ru_maxrss > self._ended_kib:
            self._send_peak_of_ended_processes(task, ended.ru_maxrss)
        self._send_still_running(ended.ru_minflt)

    def _send_peak_of_ended_processes(self, task: int, ended_kib: int) -> None:
        """Report the peak memory of the largest process that the task has started and waited for.

        The kernel keeps this peak (ru_maxrss) even for processes too short-lived to be measured.
        """
        self._ended_kib = ended_kib
        if ended_kib > FORKED_TIMES * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss:
            self._channel.send(task, EndedProcessesPeak(ended_kib * 1024))

    def send_still_running(self) -> None:
        """Report the threads and processes of the user's that run now, if they are others than last time.

        What they print goes into the same pipes as that of the next task.
        """
        self._send_still_running(resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt)

    def _send_still_running(self, ended_faults: int) -> None:
        threads = count_threads()
        has_ended_none = ended_faults == self._ended_faults  # one that has ended may have left others
        runs_none = threads <= OWN_THREADS and not self._still_running[1]
        if runs_none and has_ended_none and not self._has_children():
            return
        began = time.monotonic()
        signs = threads, _children_of_main_thread()
        helpers = _helpers()
        # Without a named one there may be a helper of Python's own, which lasts.
        is_as_before = (self._still_running[1] or has_ended_none) and helpers == self._helpers
        if is_as_before and signs == self._signs and began < self._name_again_at:
            return
        self._ended_faults, self._signs = ended_faults, signs
        try:
            from .still_running import named
        except ImportError:  # the task has taken Python's own folders off sys.path
            return
        found = named(self._ignored.union(helpers), adopted=self._is_child)
        if found != self._still_running or helpers != self._helpers:
            self._still_running, self._helpers = found, helpers
            self._channel.send(0, StillRunning(*found, helpers))
        now = time.monotonic()
        self._name_again_at = now + NAMING_PAUSES * (now - began)

    def _has_children(self) -> bool:
        """Whether this process, which has no thread of the user's, has a process that it has not waited for.

        The list takes 4 µs less than waitid(), whose answer is an error where there is none.
        """
        if self._children is not None:
            try:
                return bool(os.pread(self._children, 1, 0))
            except OSError:  # the user's code has closed it
                self._children = None
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True


def _helpers() -> List[int]:
    """Return the pids of helpers that multiprocessing and loky have started; one may have ended since."""
    found = []
    for module, name, attribute in _HELPERS:
        pid = getattr(getattr(sys.modules.get(module), name, None), attribute, None)
        if isinstance(pid, int):
            found.append(pid)
    return found


def _open_children() -> Optional[int]:
    with contextlib.suppress(OSError):  # CONFIG_PROC_CHILDREN is not set, or no descriptor is left
        return move_high(os.open(_CHILDREN.format(os.getpid()), os.O_RDONLY | os.O_CLOEXEC))
    return None


def _children_of_main_thread() -> bytes:
    try:
        with open(_CHILDREN.format(os.getpid()), "rb", buffering=0) as file:
            return file.read()
    except OSError:  # as above
        return b""
