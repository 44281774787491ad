"""The control thread: reads stop and exit requests, and the worker's replies, while the user's start() runs.

The user's stop() runs in a separate thread, so that replies still arrive if it hangs. Nothing here has a time
limit: the parent has the timers, and kills. Python 3.8 and newer.
"""

from __future__ import annotations

import _socket
import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, Optional, Tuple

from ..codec import codec
from ..shared import entry as entries
from ..shared.channel import LAST_STACK_SIGNAL, STACK_SIGNAL, FrameReader, fds_of
from ..shared.message_format import Memfd, Wire, decode
from ..shared.messages import TO_CONTROL, EndProcess, Reply, StopReturned, StopTask
from . import exception_report, own_threads
from .api import Api
from .event_loop import EventLoop, can_be_awaited, was_not_run
from .frame_socket import CLOEXEC, FrameSocket, content_of, exit_fork

if TYPE_CHECKING:
    from .stream import Stream

#: How many bytes at both ends of an unreadable reply are searched for the call that it belongs to.
EDGE_BYTES = 1024


def not_run(name: str, shown: str) -> TypeError:
    """Return the error for a generator function, none of whose code has run."""
    return TypeError(f"{name}() in {shown} has a yield, so nothing of it was run: take the yield out")


class StopControl:
    """Stops the current task, and has the process end, when the parent requests it."""

    def __init__(
        self,
        control: _socket.socket,
        replies: FrameSocket,
        where: entries.Location,
        encoding: str,
        loop: EventLoop,
    ) -> None:
        self._control = control
        control.setblocking(True)  # as in frame_socket.py
        self._replies = replies
        self._where = where
        self._encoding = encoding
        self._loop = loop
        #: The user's stop() and exit(), once the code is loaded.
        self.entry: Optional[entries.Entry] = None
        self._lock = threading.Lock()
        self._task = 0
        self._api: Optional[Api] = None
        self._stopper: Optional[own_threads.AnyThread] = None
        self._stop_options: Optional[Dict[str, Any]] = None  #: of the stop of the task that has begun
        #: A stop request that arrived before its task.
        self._early: Optional[Tuple[int, Dict[str, Any]]] = None
        #: The worker's options for exit(), once the end was requested.
        self.exit_options: Optional[Dict[str, Any]] = None
        #: Set when the end was requested, or the control socket is closed.
        self.exit_known = threading.Event()
        self._pid = os.getpid()
        #: The signals that were blocked when the control thread began.
        self._blocked: Iterable[int] = ()

    def start(self) -> None:
        """Start the control thread."""
        own_threads.start_thread(self._listen, ())

    def renew_locks(self) -> None:
        """Replace the locks, in a forked process: the threads that may hold them do not exist there."""
        self._lock = threading.Lock()
        self._loop.renew_locks()
        if self._api is not None:
            self._api._lock = own_threads.RLock()

    # ---- for the main thread

    @property
    def task(self) -> int:
        """The number of the task that can be stopped, 0 when there is none."""
        return self._task

    def open_task(self, task: int, api: Api) -> None:
        """The task can be stopped from here on; it is stopped at once if the request came before the task."""
        with self._lock:
            self._task, self._api, self._stop_options = task, api, None
            self._loop.forget_cancel()
            early = self._early
            if early is not None and early[0] <= task:  # a request for a later task is kept
                self._early = None
        if early is not None and early[0] == task:
            self._begin_stop(*early)
        elif self.exit_options is not None:
            self._begin_stop(task, {"forceStop": True})

    def open_stream(self, api: Api, stream: Optional[Stream]) -> None:
        """Give the task its stream, which delivers nothing if the stop has begun before."""
        with self._lock:
            api._stream = stream
            options = self._stop_options
            if stream is not None and options is not None:
                if options.get("forceStop") is False:
                    stream.listen_no_more()
                else:
                    stream.abort()

    def close_task(self) -> None:
        """The task cannot be stopped any more."""
        with self._lock:
            self._task, self._api = 0, None

    def end_task(self) -> None:
        """Wait until the user's stop() has returned; from then on the task cannot be stopped any more."""
        while True:
            with self._lock:
                if self._stopper is None:
                    self._task, self._api = 0, None
                    return
            self.join_stop()

    def join_stop(self) -> None:
        """Wait until the user's stop() has returned."""
        with self._lock:
            stopper, self._stopper = self._stopper, None
        if stopper is not None:
            self._loop.finish_handed()
            stopper.join()

    def await_task(self, awaitable: Any, name: str) -> Any:
        """Return the result of an awaitable that init() or start() returned; None if a stop cancelled it."""
        import asyncio  # takes 40 ms, and most algorithms do not use it

        try:
            return self._loop.run(awaitable, name, is_cancelled_by_stop=True)
        except asyncio.CancelledError:
            if self._api is not None and self._api.stopping:
                return None
            raise

    def call_with_options(self, function: Callable[..., Any], name: str, options: Dict[str, Any]) -> None:
        """Call the user's stop() or exit(), and await its result if that is awaitable."""
        places, _ = entries.call_with(function, name, self._where.shown, 1)
        result = function(*(options,)[:places])
        if can_be_awaited(result):
            self._loop.run(result, name, is_cancelled_by_stop=False)
        elif was_not_run(result):
            raise not_run(name, self._where.shown)

    # ---- in the control thread

    def _listen(self) -> None:
        # Signals are for the user's threads: one that has blocked a signal may wait for it. And the main
        # thread, which runs the user's code, handles those that ask for stacks.
        self._blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._serve()
        except Exception:  # noqa: BLE001 - no memory, most likely
            own_threads.show_error("hkrunner-control")
        finally:
            self.exit_known.set()

    def _serve(self) -> None:
        reader = FrameReader()
        while True:
            try:
                data, ancillary, _, _ = self._control.recvmsg(65536, 256, CLOEXEC)
            except BlockingIOError:
                self._control.setblocking(True)  # as in send_whole()
                continue
            except OSError:
                return
            fds = fds_of(ancillary)
            if not data and not fds:
                return
            for frame in reader.feed(data, fds):
                message = decode(frame, TO_CONTROL)
                if isinstance(message, StopTask):
                    self._begin_stop(frame.task, message.options)
                elif isinstance(message, EndProcess):
                    self.exit_options = message.options
                    self._begin_stop(0, {"forceStop": True})
                    self.exit_known.set()
                elif isinstance(message, Reply):
                    self._on_reply(frame.task, message.wire)

    def _on_reply(self, task: int, wire: Wire) -> None:
        """Pass a reply of the worker to the call that waits for it."""
        with self._lock:
            api = self._api if task == self._task else None
        data: codec.Buffer = b""
        size = wire.size if isinstance(wire, Memfd) else len(wire)
        try:
            data = content_of(wire)
            if api is None:
                return
            message = codec.decode(self._encoding, data)
        except (ValueError, MemoryError) as error:
            if api is not None:
                # Otherwise the caller would wait for ever.
                api._cannot_read(bytes(data[:EDGE_BYTES]) + bytes(data[-EDGE_BYTES:]), size, error)
            return
        if isinstance(message, dict):
            api._answer(message)

    def _begin_stop(self, task: int, options: Dict[str, Any]) -> None:
        with self._lock:
            api, running = self._api, self._task
            if api is None or (task and task != running):
                # The task has ended, and its answer is being sent; or the task was not read yet.
                self._early = (task, options)
                return
            is_under_way = self._stop_options is not None
            self._stop_options = options
            stream = api._stream
            is_graceful = stream is not None and options.get("forceStop") is False
            if not is_graceful:
                if stream is not None:
                    stream.abort()
                api._stop_asked()
            if is_under_way and not task:
                return  # the end of all was asked for meanwhile: the user's stop() runs, or will
            given, name = (running, api, options), "hkrunner-stop"
            self._stopper = own_threads.new_thread(self._stop, given, name)
            try:
                self._stopper.start()
                return
            except (RuntimeError, MemoryError) as error:
                self._stopper = None
                failure = f"no thread could be started for it: {str(error) or 'no memory'}"
        # The algorithm has used up its threads, or its memory. This thread goes on reading requests.
        api._stop_asked()
        self._loop.cancel()
        has_stop = self.entry is not None and self.entry.stop is not None
        self._replies.send(running, StopReturned(failure if has_stop else ""))

    # ---- in the thread of the user's stop()

    def _stop(self, task: int, api: Api, options: Dict[str, Any]) -> None:
        """Call the user's stop(), then cancel an init() or start() that is awaited.

        A stream that is stopped gracefully has its last message handled before.
        """
        # What the user's code starts here must not have all signals blocked.
        signal.pthread_sigmask(signal.SIG_SETMASK, {*self._blocked, STACK_SIGNAL, LAST_STACK_SIGNAL})
        failure = ""
        if api._stream is not None and options.get("forceStop") is False:
            # The socket process may have ended, which the parent says.
            with contextlib.suppress(OSError, RuntimeError):
                api._stream.quiesce(force=False)
            api._stop_asked()
        function = self.entry.stop if self.entry is not None else None
        if function is not None:
            try:
                self.call_with_options(function, "stop", options)
            except BaseException as error:  # noqa: BLE001 - the edge of user code
                told = exception_report.describe(error, self._where.folder, during=" in stop()")
                failure = told["message"]
            if os.getpid() != self._pid:
                exit_fork()
        self._loop.cancel()
        self._replies.send(task, StopReturned(failure))
