"""A streaming task's side of the stream: sends the user's messages, and calls the user's listeners.

The ZeroMQ sockets are in another process (runner/streaming/socket_process.py), at the other end of the data
socket. As in HKube's wrapper, a stateful task's listeners are called in one thread for each connection to a
parent node; while there is one connection only, the reading thread makes the calls itself. A stateless task
is called in the main thread, message after message.

The flow of a message belongs to the message, not to a thread: it is a context variable, so it reaches
coroutines and whatever else runs in a copy of the listener's context.

Python 3.8 and newer.
"""

from __future__ import annotations

import _socket
import os
import threading
import time
from _contextvars import ContextVar  # no file of the user's has such a name
from typing import Any, Callable, Iterator, List, Mapping, Optional

from ..shared import shared_rings, stream_frames
from ..shared.stream_frames import DURATION, HEAD, StreamFrame, StreamReader, frame
from .api_call import ApiError
from .event_loop import can_be_awaited, was_not_run
from .frame_socket import send_in_place
from .listener_threads import ListenerThreads, leave_stacks_to_the_main_thread
from .own_threads import AnyThread, allocate_lock, new_thread, wait_for
from .stream_message import StreamMessage, read_message
from .stream_payload import PayloadCodec
from .stream_reports import RETRY_S, StreamReports, with_memory
from .stream_routes import Routes

#: Payloads from this size on are not copied to be written with their head.
LARGE_BYTES = 16 * 1024

NOT_STREAMING = (
    "Trying to send a message from a none stream pipeline or after close had been applied on algorithm"
)


LOST = "the process that holds the sockets of the stream has ended"


class StreamLost(RuntimeError):
    """The socket process has ended."""


class MessageInvalid(Exception):
    """A message has no value; that was reported."""


#: The flow of the message that is being handled: where sendMessage() sends without a name of a flow.
_flow: ContextVar[Optional[bytes]] = ContextVar("hkrunner_flow", default=None)


class Stream:
    """The stream of one task."""

    def __init__(
        self,
        sock: _socket.socket,
        args: Mapping[str, Any],
        *,
        report: Callable[[str, Optional[BaseException]], None],
        before_waiting: Callable[[int], None],
    ) -> None:
        """Own the data socket. `report`: says what the user must know; `before_waiting`: called by the main
        thread before each wait, with the descriptor."""
        self._socket = sock
        self._reader = StreamReader(sock)
        self._node = str(args.get("nodeName"))
        self._default_flow: Optional[str] = args.get("defaultFlow")
        _flow.set(None)  # of the last message of an earlier task
        self._children: List[str] = list(args.get("childs") or ())
        self._parents: List[str] = list(args.get("parents") or ())
        self._reports = StreamReports(report)
        self._before_waiting = before_waiting
        self._lock = allocate_lock()  #: for writing
        self._pid = os.getpid()
        self._listeners: List[Callable[[Any, str], object]] = []
        self._sources = 0
        self._thread: Optional[AnyThread] = None  #: that reads
        self.is_listening = False
        self._may_listen = True
        self._is_closed = False  #: nothing can be sent any more
        self._is_aborted = False  #: nothing is delivered any more
        self._is_lost = False
        self._quiesced, self._drained = threading.Event(), threading.Event()
        # The first frame, from a process that never waits for us.
        opened = self._read_first()
        self._most_bytes = opened.number or stream_frames.FRAME_MAX
        encoding = str(opened.body, "ascii")
        self._routes = Routes(self._node, self._children, args.get("parsedFlow") or {}, encoding)
        self._payloads = PayloadCodec(encoding)

    def _read_first(self) -> StreamFrame:
        try:
            frames, fd = self._reader.read_with_fd()
        except (EOFError, OSError):
            raise StreamLost(LOST) from None
        self._rings = shared_rings.of_descriptor(fd)
        if self._rings is not None:
            self._write(frame(stream_frames.SHARES))
        while not frames:
            frames = self._read()
        for one in frames[1:]:
            self._read_frame(one)
        return frames[0]

    # ---- sending

    def send(self, message: Any, flow_name: Optional[str] = None) -> None:
        """Send a message to the next nodes of the flow: the named one, else that of the message which is
        being handled, else the default."""
        if self._is_closed or os.getpid() != self._pid:
            raise ApiError(NOT_STREAMING)
        flow: Any = flow_name
        if flow is None:
            flow = _flow.get() or self._default_flow
            if flow is None:
                raise ApiError("Streaming default flow is None")
        route = self._routes.find(flow)
        if not route.leads_on:
            self._reports.say_once(
                f"sendMessage: nothing follows node {self._node} there; the message goes nowhere"
            )
            return
        header, pieces = self._payloads.encode(message)
        try:
            size = sum(one.nbytes for one in pieces)
            before = len(route.prefix) + stream_frames.PAYLOAD_HEADER
            most = self._most_bytes - before
            if size > most:  # the other side would end the connection, and with it the task
                found = f"the message has {size:,} bytes"
                raise ApiError(f"{found}, and at most {most:,} can be sent (STREAMING_MAX_BUFFER_MB)")
            with self._lock:
                place = self._rings.put(*pieces) if self._rings is not None else None
                if place is not None:
                    self._write(frame(stream_frames.SEND_PLACE, 0, route.prefix + header + place))
                    return
                head = HEAD.pack(before + size, stream_frames.SEND, 0) + route.prefix + header
                if size < LARGE_BYTES:
                    self._write(b"".join((head, *pieces)))
                else:
                    self._write(head)
                    for one in pieces:
                        self._write(one)
        finally:  # an error that the user handles must not hold a bytearray
            for one in pieces:
                one.release()

    def _write(self, data: Any) -> None:
        try:
            send_in_place(self._socket, data)
        except OSError:
            self._is_lost = True
            raise StreamLost(LOST) from None

    # ---- listening

    def register(self, listener: Callable[[Any, str], object]) -> None:
        """Call this with each message and the name of its node."""
        self._listeners.append(listener)

    def listen(self) -> None:
        """Have the listeners called from here on, in other threads."""
        if self._thread is None:
            thread = new_thread(self._run, (), "hkrunner-stream")
            thread.start()  # raises where there is none
            self._thread = thread
        self._begin()

    def _begin(self) -> None:
        with self._lock:
            if not self.is_listening and self._may_listen:
                self.is_listening = True
                self._quiesced.clear()
                self._write(frame(stream_frames.LISTEN))

    def messages(self) -> Iterator[StreamMessage]:
        """Listen in this thread: yield each message until no more will come. The caller says done()."""
        self._begin()
        while not self._quiesced.is_set() and not self._is_aborted:
            self._before_waiting(self._socket.fileno())
            for one in self._read():  # without memory for these bytes, the task fails: nothing here frees any
                message = self._take(one)
                if message is not None and not self._is_aborted:
                    yield message

    def done(self, message: StreamMessage, began: float) -> None:
        """The message is handled; `began`: when that began, on the clock of time.perf_counter()."""
        with_memory(self._write_done, message.number, (time.perf_counter() - began) * 1000)

    def _write_done(self, number: int, duration_ms: float) -> None:
        with self._lock:
            self._write(frame(stream_frames.DONE, number, DURATION.pack(duration_ms)))

    def value_of(self, message: StreamMessage) -> Any:
        """Return what was sent, once. Raises MessageInvalid where that has no value, or no memory is left."""
        try:
            return self._payloads.decode(message.header, message.payload)
        except ValueError as error:
            self._reports.say_once(f"a message of {message.origin} cannot be read", error)
        except MemoryError as error:
            self._reports.say(f"there is no memory for a message of {message.origin}", error)
        finally:
            message.free()
        raise MessageInvalid

    @staticmethod
    def handle(message: StreamMessage) -> None:
        """Have sendMessage() continue the flow of this message from here on."""
        _flow.set(message.flow)

    def _read(self) -> List[StreamFrame]:
        try:
            return self._reader.read()
        except BlockingIOError:
            self._socket.setblocking(True)  # as in send_whole()
            return []
        except (EOFError, OSError):
            self._is_lost = not self._is_aborted  # abort() has ended it
            self._quiesced.set()
            self._drained.set()
            if self._is_aborted:
                return []
            raise StreamLost(LOST) from None

    def _read_frame(self, one: StreamFrame) -> Optional[StreamMessage]:
        """Take a frame; return the message that it holds, if it holds one. Raises MemoryError."""
        if one.kind in (stream_frames.MESSAGE, stream_frames.MESSAGE_PLACE):
            return read_message(one, self._rings)
        if one.kind == stream_frames.LOST:
            (length,) = stream_frames.LENGTH.unpack(one.body)
            raise MemoryError(f"a message of {length:,} bytes")
        if one.kind == stream_frames.SOURCES:
            self._sources = one.number
        elif one.kind == stream_frames.QUIESCED:
            self.is_listening = False
            self._quiesced.set()
        elif one.kind == stream_frames.DRAINED:
            self._drained.set()
        return None

    def _take(self, one: StreamFrame, *, is_next: bool = True) -> Optional[StreamMessage]:
        """Take a frame; a message that there is no memory for is reported, and done.

        `is_next`: its value is wanted before that of any later message, so its payload may stay in the rings.
        """
        try:
            message = self._read_frame(one)
            return message if message is None or is_next else message.owned()
        except MemoryError as error:
            self._reports.say("there is no memory for a message, which is lost", error)
            with_memory(self._write_done, one.number, 0.0)
            return None

    # ---- in the reading thread

    def _run(self) -> None:
        leave_stacks_to_the_main_thread()
        threads = ListenerThreads(self._deliver, self._reports.say_once)
        try:
            while not self._drained.is_set():
                for one in self._read_patiently():
                    # Where no listener can wait for the message of another node, no thread is needed.
                    is_alone = not (threads.are_there or self._sources > 1 or len(self._parents) > 1)
                    message = self._take(one, is_next=is_alone)
                    if one.kind == stream_frames.LEFT:
                        with_memory(threads.end_of, one.number)
                    elif message is None:
                        pass
                    elif is_alone:
                        self._deliver(message)
                    else:
                        threads.hand_over(message)
        except StreamLost:
            pass  # the parent says so, and ends this process
        threads.end()

    def _read_patiently(self) -> List[StreamFrame]:
        """Read once, after a pause where there is no memory for what has come: a listener may free some."""
        while True:
            try:
                return self._read()
            except MemoryError as error:
                self._reports.say_once("there is no memory for messages; they wait", error)
                time.sleep(RETRY_S)

    def _deliver(self, message: StreamMessage) -> None:
        """Call the listeners. As in HKube's wrapper, what one raises is logged, and the stream goes on."""
        began = time.perf_counter()
        try:
            self.handle(message)
            if not self._is_aborted:
                self._call_listeners(message)
        except MessageInvalid:
            pass
        except MemoryError as error:
            self._reports.say(f"there is no memory for a message of {message.origin}", error)
        finally:
            with_memory(_flow.set, None)
        if os.getpid() != self._pid:
            os._exit(0)  # a fork of the user's that returned from the listener
        try:
            self.done(message, began)
        except StreamLost:
            self._is_aborted = True

    def _call_listeners(self, message: StreamMessage) -> None:
        value = self.value_of(message)
        if not self._listeners:
            self._reports.say_once(
                "messages come, and are lost: no listener is registered (registerInputListener)"
            )
        for listener in list(self._listeners):
            try:
                result = listener(value, message.origin)
                if result is not None and (can_be_awaited(result) or was_not_run(result)):
                    self._reports.say_once("a listener is a coroutine or has a yield: nothing of it was run")
            except BaseException as error:  # noqa: BLE001 - the edge of user code
                self._reports.say(f"a listener raised for a message of {message.origin}", error)

    # ---- the end

    def quiesce(self, *, force: bool) -> None:
        """Fetch nothing more, and return once the last message is handled; with `force`, at once."""
        if force:
            self._is_aborted = True
        with self._lock:
            self._may_listen = False
            if self._is_lost or not self.is_listening:
                self._quiesced.set()
                return
            self._write(frame(stream_frames.ABANDON if force else stream_frames.QUIESCE))
        if force:
            self.is_listening = False
            self._quiesced.set()
        elif _flow.get() is None:  # not from within a listener, whose own message would never be done
            wait_for(self._quiesced)

    def listen_no_more(self) -> None:
        """Fetch nothing: the stop came before the first message was wanted."""
        self._may_listen = False
        self._quiesced.set()

    def finish(self) -> None:
        """Return once all that was sent is taken by the next nodes, and nothing more will be sent or
        delivered. Raises StreamLost."""
        if not self._is_aborted:
            self.quiesce(force=False)
            if self._children and not self._drained.is_set():
                with self._lock:
                    self._write(frame(stream_frames.DRAIN))
                while not self._drained.is_set():
                    if self._thread is not None:
                        wait_for(self._drained)
                    else:
                        for one in self._read():
                            self._read_frame(one)
                if self._is_lost:
                    raise StreamLost(LOST)
        self._is_closed = True

    def stop(self, *, force: bool) -> None:
        """HKube's stopStreaming(): nothing is delivered and nothing can be sent from here on."""
        self.quiesce(force=force)
        if not force and _flow.get() is None:
            self.finish()
        self._is_closed = True

    def abort(self) -> None:
        """Deliver nothing more, and wait for nothing: the task is stopped by force."""
        self._is_aborted = True
        self._quiesced.set()
        self._drained.set()
        try:
            self._socket.shutdown(_socket.SHUT_RD)  # wakes a thread that reads
        except OSError:  # it has ended before
            pass

    def close(self) -> None:
        """Close the data socket: the task is over."""
        self._is_aborted = self._is_closed = True
        self._quiesced.set()
        self._drained.set()
        try:
            self._socket.shutdown(_socket.SHUT_RDWR)
        except OSError:
            pass
        if self._thread is None:
            self._socket.close()
