"""Sends what the parent gets to know of a task beside its answer.

Python 3.8 and newer.
"""

from __future__ import annotations

import os
import resource
from typing import Any, Optional

from ..codec import codec
from ..shared.messages import ApiCall, EndedProcessesPeak, Problem, Progress
from .api import Api
from .frame_socket import FrameSocket

#: A forked process counts the pages that it shares with this one: only a peak of more than this many times
#: the peak of this process is known to be its own.
FORKED_TIMES = 2


class TaskReports:
    """Calls of the code API, progress, and what was noticed when a task ended."""

    def __init__(self, channel: FrameSocket, encoding: str, most: Optional[int]) -> None:
        """`most`: bytes of a message for the worker; None: any number."""
        self._channel = channel
        self._most = most
        self._encoding = encoding
        self._pid = os.getpid()
        self._lost_number_was_reported = False
        self._ended_kib = 0  #: ru_maxrss of the processes that have ended, as of the last task

    def send_api_call(self, task: int, message: dict[str, Any]) -> None:
        """Send a message of the code API, encoded once, for the worker. Raises ApiError."""
        self._need_own_process()
        try:
            wire = codec.encode(self._encoding, message, name=f"{message['command']} data", most=self._most)
        except (codec.ResultInvalid, codec.ResultTooLarge) as error:
            raise Api.Error(str(error)) from None
        self._channel.send_wire(task, ApiCall, [wire], reuse=False)

    def send_progress(self, task: int, value: float, details: Any) -> None:
        """Send the progress that the algorithm reports. Raises ApiError."""
        self._need_own_process()
        self._channel.send(task, Progress(value, details))

    def _need_own_process(self) -> None:
        if os.getpid() != self._pid:
            raise Api.Error(
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

    def send_peak_of_ended_processes(self, task: int) -> None:
        """Report the peak memory of the largest process that the task has started and waited for, if it grew.

        The kernel keeps this peak (ru_maxrss) even for processes too short-lived to be measured.
        """
        ended_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        if ended_kib <= self._ended_kib:
            return
        self._ended_kib = ended_kib
        if ended_kib > FORKED_TIMES * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss:
            self._channel.send(task, EndedProcessesPeak(ended_kib * 1024))
