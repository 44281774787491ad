"""Serves the tasks of an hkrunner.Pool: of an algorithm's file, or of a function of the user's process.

Each task is one message, and several may wait in the socket. There is no worker of HKube's: no records, no
code API but what works without one. Python 3.8 and newer.
"""

from __future__ import annotations

import _socket
import contextlib
import os
import pickle
import sys
import types
from typing import Any, Callable, Dict, FrozenSet, List, Union

from ..codec import codec
from ..shared import entry as entries
from ..shared.message_format import Memfd
from ..shared.messages import Done, Setup
from ..shared.pool_messages import TO_WORKER, Recalled, RunTask, UseFunction
from ..shared.task_marks import TaskMarks
from .api import Api
from .event_loop import can_be_awaited
from .frame_socket import FrameSocket, content_of, exit_fork
from .task_reports import TaskReports
from .task_server import TaskServer

#: Functions of a Pool without one of its own that are kept, the last ones used.
FUNCTIONS_KEPT = 100
#: Calls of the code API that nobody needs to answer.
_SPANS = ("startSpan", "finishSpan")


class PoolTaskServer(TaskServer):
    """Serves tasks until the parent closes the task socket."""

    _beginnings = (RunTask,)

    def __init__(self, channel: FrameSocket, control: _socket.socket, setup: Setup, marks: int) -> None:
        """`marks`: the file with the TaskMarks."""
        super().__init__(channel, control, setup)
        channel.known = TO_WORKER
        self._reports = _PoolReports(channel, setup.encoding, self._most)
        self._marks = TaskMarks(marks)
        self._is_function = not setup.module and not setup.file

    def _import(self, bare: FrozenSet[str]) -> entries.Entry:
        if not self._is_function:
            return super()._import(bare)
        received = self._channel.receive()
        if received is None:
            sys.exit(0)
        message = received[1]
        assert isinstance(message, UseFunction), "it follows Setup"
        with contextlib.suppress(ImportError):  # then the function, or its arguments, will say so
            import cloudpickle  # noqa: F401 - what it has pickled imports it, which takes 20 ms
        # The caller's own sys.path: what the function is made of is imported from there.
        sys.path[:], pickled = pickle.loads(content_of(message.wire))
        function = _Functions() if pickled is None else pickle.loads(pickled)
        return entries.Entry(start=function, init=None, stop=None, exit=None)

    def _run_task(self, task: int, message: Any, entry: entries.Entry) -> None:
        if not self._marks.begin(task):
            if isinstance(message.wire, Memfd):
                os.close(message.wire.fd)
            self._channel.send(task, Recalled())
            return
        try:
            wire = self._run_begun(task, message, entry)
        finally:
            self._marks.end()
        # Not in the memory that is kept: the next task may end before the parent has read it.
        self._channel.send_wire(task, Done, wire, reuse=False)

    def _run_begun(self, task: int, message: Any, entry: entries.Entry) -> List[codec.Buffer]:
        """Return the answer, in pieces."""
        if self._is_function:
            result = self._call_function(entry.start, content_of(message.wire))
        else:
            args = codec.data_of(self._decode(message.wire))
            api = self._open_api(task)
            if entry.init is not None:
                self._call(entry.init, "init", 1, args, api)
            api._begin_start()
            result = self._call(entry.start, self._where.function, 2, args, api)
        # Its size is the caller's affair: no worker of HKube's has to take it.
        wire = codec.encode_pieces(self._encoding, {"data": result}, most=None)
        del result
        self._wind_up(None)
        return wire

    def _call_function(self, function: Callable[..., Any], pickled: Union[bytes, memoryview]) -> Any:
        positional, named = pickle.loads(pickled)
        self._loop.adopt()
        result = function(*positional, **named)
        if can_be_awaited(result):
            result = self._stops.await_task(result, "the function")
        if os.getpid() != self._pid:
            exit_fork()
        return result


class _PoolReports(TaskReports):
    """Reports of a task of a Pool, which has no worker of HKube's and no view of its tasks."""

    def send_api_call(self, task: int, message: Dict[str, Any]) -> None:
        """Ignore spans; raise ApiError for every other call of the code API."""
        if message["command"] not in _SPANS:
            raise Api.Error(
                "a task of hkrunner.Pool cannot call other algorithms, pipelines or data sources: use "
                "hkrunner.run()"
            )

    def send_progress(self, task: int, value: float, details: Any) -> None:
        """Ignore it."""

    def send_still_running(self) -> None:
        """Ignore it: what the tasks of a Pool print is kept for none of them."""

    def send_at_end(self, task: int) -> None:
        """Ignore it."""


class _Functions:
    """Calls the pickled functions of a Pool that has none of its own.

    A plain function is unpickled once, and so keeps what it sets in its module, as in every process. Any
    other object comes from the user's process each time as it is there.
    """

    def __init__(self) -> None:
        self._known: Dict[bytes, Callable[..., Any]] = {}

    def __call__(self, pickled: bytes, *positional: Any, **named: Any) -> Any:
        function = self._known.pop(pickled, None)
        if function is None:
            function = pickle.loads(pickled)
            if not isinstance(function, types.FunctionType):
                return function(*positional, **named)
            while len(self._known) >= FUNCTIONS_KEPT:
                del self._known[next(iter(self._known))]
        self._known[pickled] = function
        return function(*positional, **named)
