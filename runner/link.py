"""The one WebSocket to the worker: connect, receive, post, reconnect.

Theory of operation
-------------------
websocket-client does the connecting (names, proxies, TLS, handshake), in a short-lived thread, because
each of these can block for seconds; the thread hands the connected socket over and ends. From then on
the socket belongs to the loop, non-blocking, with frames of our own over it: the package's own reader
answers a ping and then blocks for the next data frame, its writer loses the rest of a frame when the
kernel takes only a part, and both cost more than the network (measured: PING in a select loop froze the
supervisor; 47 ms against 456 ms to send 100 MB).

There is at most one socket: a next connection is begun after the last one is closed. Nothing is sent
before the worker has spoken, with one exception: back within SAME_WORKER_S of a drop, it is the same
worker, and what it has not got yet goes out at once.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import Any, Protocol

from ..sandbox.channel import seal
from .loop import Loop, Timer

#: HKube's worker waits this long for a lost algorithm before it gives the task up (PROTOCOL 3.7).
SAME_WORKER_S = 5.0
#: First try after a drop at once, then these pauses, the last one for ever.
BACKOFF_S = (0.0, 0.01, 0.02, 0.05, 0.05, 0.1, 0.1, 0.2, 0.3, 0.5, 1.0)
#: An answer written this shortly before a drop may not have been read.
LOST_S = 1.0
#: After a reconnect, wait this long for a word of the worker before such an answer is sent again.
SETTLE_S = 0.1
#: From here on the child is made to wait with what it wants to send.
CONGESTED_BYTES = 128 * 1024 * 1024
CONGESTED_MESSAGES = 1000
#: A refusal by the worker itself (4001: another client is connected) is not asked again so soon.
REFUSED_S = 1.0
CONNECT_TIMEOUT_S = 10.0
#: A message from this size on is received into a memfd, and passed on without a copy.
BLOB_MIN = 256 * 1024
#: Largest message taken. HKube's worker has no limit of its own in this direction.
MESSAGE_MAX = 2 * 1024**3
#: A large message goes out in frames of this size, so that a pong or a kill never waits for it.
PIECE = 256 * 1024
#: A message up to this size is sent at once, in one piece, when nothing waits before it.
SMALL = 16 * 1024
#: How long one of those may wait for another.
SOON_S = 0.001
#: At most this much is written or read before the loop looks at others.
TURN_BYTES = 4 * PIECE
#: The memfd kept for the next large message is given back after this long without one.
KEEP_BLOB_S = 5.0

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


class State(Enum):
    """Where the link stands."""

    DISCONNECTED = auto()
    CONNECTING = auto()
    OPEN = auto()
    BACKOFF = auto()
    CLOSED = auto()  #: for good


class Blob:
    """A memfd with a message in it; `release()` when its content is not needed any more."""

    def __init__(self, capacity: int, released: Callable[[Blob], None] | None = None) -> None:
        self.fd = os.memfd_create("hkrunner-message", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, capacity)
        # Handed to the child, which must not be able to shorten it under our mapping (SIGBUS).
        seal(self.fd)
        self.capacity = capacity
        self.size = 0
        self.map = mmap.mmap(self.fd, capacity)
        self._released = released

    def view(self) -> memoryview:
        """Return the content; release the view before release()."""
        return memoryview(self.map)[: self.size]

    def release(self) -> None:
        """The content is not needed any more."""
        if self._released is not None:
            self._released(self)
        else:
            self.close()

    def disown(self) -> None:
        """Release it for good: whoever else holds the descriptor has it alone."""
        self._released = None

    def close(self) -> None:
        """Give the memory back."""
        if self.fd >= 0:
            # A view somebody still holds keeps the mapping until it goes.
            with contextlib.suppress(BufferError):
                self.map.close()
            os.close(self.fd)
            self.fd = -1


class Message:
    """One message of the worker: `data`, or for a large one `blob`."""

    __slots__ = ("blob", "data")

    def __init__(self, data: bytes, blob: Blob | None = None) -> None:
        self.data = data
        self.blob = blob

    @property
    def head(self) -> bytes:
        """The first bytes, enough to find the command."""
        return self.data if self.blob is None else bytes(self.blob.map[: min(256, self.blob.size)])

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        return len(self.data) if self.blob is None else self.blob.size

    def whole(self) -> bytes:
        """All of it, copied if it is large."""
        return self.data if self.blob is None else bytes(self.blob.view())

    def release(self) -> None:
        """Nothing of it is needed any more."""
        if self.blob is not None:
            self.blob.release()


class Source(Protocol):
    """A large message to send that does not lie in our memory."""

    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly that piece; raises OSError when it is not there."""

    def close(self) -> None:
        """The message is sent, or will not be."""


class Listener(Protocol):
    """Who is told, from the loop."""

    def on_link_open(self) -> None: ...
    def on_link_message(self, message: Message) -> None:
        """A message; the listener releases it."""

    def on_link_drop(self, reason: str) -> None: ...
    def on_link_unreachable(self, reason: str) -> None:
        """A try has failed; the next one follows."""

    def on_link_given_up(self, reason: str) -> None:
        """No worker within the connect timeout; no further try follows."""


class _Outgoing:
    """A message in the outbox. A final answer is kept for a while after it was written."""

    __slots__ = ("data", "final", "source")

    def __init__(self, data: bytes, source: Source | None, final: bool) -> None:
        self.data = data
        self.source = source
        self.final = final

    @property
    def size(self) -> int:
        return len(self.data) if self.source is None else self.source.size

    def frames(self, opcode: int) -> Iterator[bytes]:
        """Yield its frames, masked, one at a time."""
        size = self.size
        if size <= PIECE:
            yield _frame(opcode, self.data if self.source is None else self.source.read(0, size))
            return
        view = memoryview(self.data)
        for begin in range(0, size, PIECE):
            length = min(PIECE, size - begin)
            if self.source is None:
                piece: bytes | memoryview = view[begin : begin + length]
            else:
                piece = self.source.read(begin, length)
            yield _frame(opcode if begin == 0 else _CONTINUATION, piece, last=begin + length == size)

    def close(self) -> None:
        if self.source is not None:
            self.source.close()


class Link:
    """The connection to one URL, kept up until close()."""

    def __init__(
        self,
        loop: Loop,
        listener: Listener,
        url: str,
        *,
        text: bool,
        connect_timeout_s: float | None = None,
    ) -> None:
        """`text`: messages go out in text frames (json). Nothing happens before open()."""
        self._loop = loop
        self._listener = listener
        self.url = url
        self._opcode = _TEXT if text else _BINARY
        self._connect_timeout_s = connect_timeout_s
        self.state = State.DISCONNECTED
        self._client: Any = None  # websocket.WebSocket, which owns the socket
        self._socket: socket.socket | None = None
        self._fd = -1
        self._is_tls = False
        self._not_now: tuple[type[OSError], ...] = (BlockingIOError,)
        self._tries = 0
        self._since = 0.0
        self._dropped_at: float | None = None
        self._timer: Timer | None = None
        self._outbox: deque[_Outgoing] = deque()
        self._waiting_bytes = 0
        #: The final answer that was written last, and when: lost on the way if the worker drops right then.
        self._written: tuple[_Outgoing, float] | None = None
        #: Called when what waits has become little again, after `congested` was seen.
        self.on_relieved: Callable[[], None] | None = None
        self._control: deque[bytes] = deque()
        self._soon: Timer | None = None
        self._frames: Iterator[bytes] | None = None
        self._chunk = memoryview(b"")
        self._spoken = False
        self._blob: Blob | None = None
        self._blob_timer: Timer | None = None
        self._scratch = bytearray(65536)
        self._scratch_view = memoryview(self._scratch)
        self._reset_input()

    # ---- connecting

    def open(self) -> None:
        """Begin to connect, and keep at it."""
        assert self.state is State.DISCONNECTED
        self._since = self._loop.clock()
        self._connect()

    def _connect(self) -> None:
        self.state = State.CONNECTING
        threading.Thread(target=self._connect_in_thread, name="hkrunner-connect", daemon=True).start()

    def _connect_in_thread(self) -> None:
        """Connect, and hand the result over. The one piece of code that runs outside the loop."""
        import websocket

        try:
            client = websocket.create_connection(
                self.url, timeout=CONNECT_TIMEOUT_S, skip_utf8_validation=True, enable_multithread=False
            )
        except Exception as error:  # noqa: BLE001 - the package's own errors, OSError, ssl, idna: all mean "not connected"
            reason = _reason(error)
            self._loop.post_from_thread(lambda: self._not_connected(reason))
        else:
            self._loop.post_from_thread(lambda: self._connected(client))

    def _connected(self, client: Any) -> None:
        if self.state is not State.CONNECTING:
            client.shutdown()
            return
        self._client = client
        sock: socket.socket = client.sock
        sock.setblocking(False)
        self._socket = sock
        self._fd = sock.fileno()
        self._is_tls = self.url.startswith("wss:")
        if self._is_tls:
            import ssl  # the connecting thread has it already

            self._not_now = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
        _watch_peer(sock)
        self._reset_input()
        self.state = State.OPEN
        same = self._dropped_at is not None and self._loop.clock() - self._dropped_at < SAME_WORKER_S
        self._spoken = same
        self._loop.on_readable(self._fd, self._on_readable)
        self._listener.on_link_open()
        # First what the worker has to say: if it begins another task, the old one's answer must not go out.
        self._on_readable()
        if self.state is State.OPEN:
            self._pump()
            if self._written is not None:
                self._timer = self._loop.after(SETTLE_S, self._send_again)

    def _send_again(self) -> None:
        """The last answer may have been lost with the old connection: a second one in ready is harmless
        (PROTOCOL 3.8). Only while the worker is silent: whatever it says first, it is not waiting for it."""
        if self._written is not None and self.state is State.OPEN:
            (answer, _), self._written = self._written, None
            self._outbox.append(answer)
            self._waiting_bytes += answer.size
            self._pump()

    def _not_connected(self, reason: str) -> None:
        if self.state is State.CONNECTING:
            self._retry(reason)

    def _retry(self, reason: str, least_s: float = 0.0) -> None:
        waited_s = self._loop.clock() - self._since
        if self._connect_timeout_s is not None and waited_s >= self._connect_timeout_s:
            self.state = State.CLOSED
            self._listener.on_link_given_up(reason)
            return
        self.state = State.BACKOFF
        pause_s = max(BACKOFF_S[min(self._tries, len(BACKOFF_S) - 1)], least_s)
        self._tries += 1
        # Many runners that lost one worker must not come back in step.
        pause_s *= random.uniform(0.8, 1.2)
        if self._connect_timeout_s is not None:
            pause_s = min(pause_s, max(self._connect_timeout_s - waited_s, 0.0))
        self._timer = self._loop.after(pause_s, self._connect)
        self._listener.on_link_unreachable(reason)

    # ---- losing it

    def _drop(self, reason: str, *, least_s: float = 0.0) -> None:
        """The socket is of no use any more: close it, tell, begin again."""
        if self.state is not State.OPEN:
            return
        self._close_socket()
        self._since = self._dropped_at = self._loop.clock()
        # A message that was cut goes out again, whole; one that was written is the worker's.
        self._frames = None
        self._chunk = memoryview(b"")
        self._control.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._written is not None and self._since - self._written[1] > LOST_S:
            self._forget_written()
        self.state = State.DISCONNECTED
        self._listener.on_link_drop(reason)
        if self.state is State.DISCONNECTED:
            self.state = State.BACKOFF
            pause_s = max(BACKOFF_S[min(self._tries, len(BACKOFF_S) - 1)], least_s)
            self._tries += 1
            self._timer = self._loop.after(pause_s, self._connect)

    def _close_socket(self) -> None:
        self._loop.on_readable(self._fd, None)
        self._loop.on_writable(self._fd, None)
        assert self._socket is not None
        with contextlib.suppress(OSError):
            self._socket.close()
        self._client.sock = None
        self._socket, self._client, self._fd = None, None, -1
        self._forget_input()

    def close(self) -> None:
        """Say goodbye (1000) and close, for good. What is in the outbox is dropped."""
        if self._timer is not None:
            self._timer.cancel()
        if self.state is State.OPEN:
            assert self._socket is not None
            with contextlib.suppress(OSError):
                if not self._chunk:
                    self._socket.send(_frame(_CLOSE, struct.pack("!H", 1000)))
            self._close_socket()
        self.state = State.CLOSED
        self.clear()
        self._forget_blob()

    # ---- posting

    def post(
        self, data: bytes, source: Source | None = None, *, final: bool = False, soon: bool = False
    ) -> None:
        """Send a message as soon as the worker can take it; `source` instead of data for a large one.

        `final`: the answer of a task, which is worth sending again when it may have been lost.
        `soon`: a small message that waits up to SOON_S for the next one, to go out with it: a system call,
        and a wake-up of the worker, less for a task that is over in no time.
        """
        if self.state is State.CLOSED:
            if source is not None:
                source.close()
            return
        one = _Outgoing(data, source, final)
        if soon and not self._outbox and self._is_free:
            self._soon = self._loop.after(SOON_S, self._pump)
        elif source is None and len(data) <= SMALL and self._post_now(one):
            return
        self._outbox.append(one)
        self._waiting_bytes += one.size
        if not self._is_soon:
            self._pump()

    def _post_now(self, one: _Outgoing) -> bool:
        """Send a small message at once, with one that waits for it; False when it has to queue."""
        first = self._outbox[0] if self._is_soon and len(self._outbox) == 1 else None
        if self._soon is not None:
            self._soon.cancel()
        sock = self._socket
        if sock is None or (self._outbox and first is None) or not self._is_free:
            return False
        before = b"" if first is None else _frame(self._opcode, first.data)
        frames = before + _frame(self._opcode, one.data)
        try:
            count = sock.send(frames)
        except OSError:
            return False  # the queue meets the same trouble, and deals with it
        self._waiting_bytes += one.size
        if first is not None and count >= len(before):
            self._sent(self._outbox.popleft())
        if count < len(frames):
            # What is cut is the first in the outbox, and the chunk the rest of its frame.
            end = len(before) if count < len(before) else len(frames)
            self._chunk = memoryview(frames)[count:end]
            self._outbox.append(one)
            self._frames = iter(())
            self._pump()
        else:
            self._sent(one)
        return True

    @property
    def _is_free(self) -> bool:
        """The worker listens, and no frame is half sent."""
        return not (self._chunk or self._control or self._frames) and self._spoken and self._fd >= 0

    @property
    def _is_soon(self) -> bool:
        """A small message waits in the outbox, alone, for the next one."""
        return self._soon is not None and self._soon.pending

    def clear(self) -> None:
        """Forget everything that is not sent: it belongs to a task that the worker has given up.

        If an old answer has begun to go out it must not be completed: the connection is dropped instead.
        """
        cut = self._frames is not None and bool(self._outbox) and self._outbox[0].final
        kept = self._outbox.popleft() if self._frames is not None and not cut else None
        for one in self._outbox:
            one.close()
        self._outbox.clear()
        self._waiting_bytes = 0
        self._forget_written()
        if kept is not None:
            self._outbox.append(kept)
            self._waiting_bytes = kept.size
        if cut:
            self._drop("the worker began another task in the middle of an answer")

    def _forget_written(self) -> None:
        if self._written is not None:
            self._written[0].close()
            self._written = None

    @property
    def is_open(self) -> bool:
        """A worker is connected, and has spoken."""
        return self.state is State.OPEN and self._spoken

    @property
    def congested(self) -> bool:
        """So much waits to be sent that nothing should be added; on_relieved is called when it is less."""
        return self._waiting_bytes > CONGESTED_BYTES or len(self._outbox) > CONGESTED_MESSAGES

    @property
    def idle(self) -> bool:
        """Nothing waits to be sent."""
        return not self._outbox and not self._chunk

    def _pump(self) -> None:
        """Write what the kernel takes now; the rest when it takes more."""
        sock = self._socket
        if sock is None:
            return
        written = 0
        try:
            while self._chunk or self._next_chunk():
                count = sock.send(self._chunk)
                self._chunk = self._chunk[count:]
                written += count
                if written >= TURN_BYTES:
                    self._loop.on_writable(self._fd, self._pump)
                    return
        except self._not_now:
            self._loop.on_writable(self._fd, self._pump)
            return
        except OSError as error:
            self._drop(_reason(error))
            return
        self._loop.on_writable(self._fd, None)

    def _next_chunk(self) -> bool:
        """Take up the next frame; control frames go between the frames of a large message."""
        if self._control:
            self._chunk = memoryview(self._control.popleft())
            return True
        while True:
            if self._frames is None:
                if not self._outbox or not self._spoken:
                    return False
                self._frames = self._outbox[0].frames(self._opcode)
            frame = next(self._frames, None)
            if frame is not None:
                self._chunk = memoryview(frame)
                return True
            # All of it is the kernel's now.
            self._frames = None
            self._sent(self._outbox.popleft())

    def _sent(self, one: _Outgoing) -> None:
        self._waiting_bytes -= one.size
        if one.final:
            self._forget_written()
            self._written = (one, self._loop.clock())
        else:
            one.close()
        if self.on_relieved is not None and not self.congested:
            callback, self.on_relieved = self.on_relieved, None
            callback()

    # ---- receiving

    def _reset_input(self) -> None:
        self._input = bytearray()  # bytes of a frame whose header or small payload is not complete
        self._fragments: list[bytes | Blob] = []
        self._target: Blob | None = None  # the payload that is being received
        self._got = 0
        self._final = True
        self._target_opcode = _TEXT

    def _forget_input(self) -> None:
        for one in self._fragments:
            if isinstance(one, Blob):
                one.close()
        if self._target is not None:
            self._target.close()
        self._reset_input()

    def _on_readable(self) -> None:
        """Read what is there, at most TURN_BYTES, and hand on the messages that are complete."""
        taken = 0
        sock = self._socket
        try:
            while sock is not None and sock is self._socket and taken < TURN_BYTES:
                if self._target is not None:
                    count = self._receive_into(sock, self._target)
                    more = count
                else:
                    count = sock.recv_into(self._scratch)
                    more = count == len(self._scratch)
                    if count:
                        self._input += self._scratch_view[:count]
                        self._parse()
                if not count:
                    self._drop("the worker closed the connection without a word")
                    return
                taken += count
                # A TLS socket may hold bytes that the selector cannot see: read until it says so.
                if not more and not self._is_tls:
                    return
        except self._not_now:
            return
        except _Refused as error:
            self._say_close(1009 if error.too_large else 1002)
            self._drop(str(error))
        except OSError as error:
            self._drop(_reason(error))

    def _receive_into(self, sock: socket.socket, blob: Blob) -> int:
        view = memoryview(blob.map)[self._got : min(blob.size, self._got + TURN_BYTES)]
        try:
            count = sock.recv_into(view)
        finally:
            view.release()
        self._got += count
        if self._got == blob.size:
            self._target = None
            self._whole(self._target_opcode, blob)
        return count

    def _parse(self) -> None:
        """Take the complete frames off the input."""
        data = self._input
        while self._socket is not None and len(data) >= 2:
            first, second = data[0], data[1]
            if second & 0x80 or first & 0x70:
                raise _Refused("the worker sent a frame that RFC 6455 does not allow")
            length, at = second & 0x7F, 2
            if length == 126:
                if len(data) < 4:
                    return
                length, at = int.from_bytes(data[2:4], "big"), 4
            elif length == 127:
                if len(data) < 10:
                    return
                length, at = int.from_bytes(data[2:10], "big"), 10
            if length > MESSAGE_MAX:
                raise _Refused(f"the worker announced a message of {length:,} bytes", too_large=True)
            opcode = first & 0x0F
            self._final = bool(first & 0x80)
            if opcode & 0x8:
                if length > 125 or not self._final:
                    raise _Refused("the worker sent a control frame that RFC 6455 does not allow")
            elif length >= BLOB_MIN:
                blob = self._new_blob(length)
                there = min(len(data) - at, length)
                blob.map[:there] = data[at : at + there]
                del data[: at + there]
                self._target_opcode = opcode
                if there < length:
                    self._target, self._got = blob, there
                    return
                self._whole(opcode, blob)
                continue
            end = at + length
            if len(data) < end:
                return
            payload = bytes(data[at:end])
            del data[:end]
            if opcode & 0x8:
                self._on_control(opcode, payload)
            else:
                self._whole(opcode, payload)

    def _whole(self, opcode: int, payload: bytes | Blob) -> None:
        """A data frame is complete: hand its message on, or wait for the rest of it."""
        if (opcode == _CONTINUATION) != bool(self._fragments) or opcode > _BINARY:
            raise _Refused("the worker mixed up the frames of its messages")
        if self._final and not self._fragments:
            self._deliver(payload)
            return
        self._fragments.append(payload)
        total = sum(one.size if isinstance(one, Blob) else len(one) for one in self._fragments)
        if total > MESSAGE_MAX:
            raise _Refused(f"the worker sent a message of more than {MESSAGE_MAX:,} bytes", too_large=True)
        if self._final:
            self._deliver(self._joined(total))

    def _joined(self, total: int) -> bytes | Blob:
        parts, self._fragments = self._fragments, []
        if total < BLOB_MIN:
            return b"".join(one for one in parts if isinstance(one, bytes))
        blob = self._new_blob(total)
        at = 0
        for one in parts:
            if isinstance(one, Blob):
                blob.map[at : at + one.size] = one.map[: one.size]
                at += one.size
                one.close()
            else:
                blob.map[at : at + len(one)] = one
                at += len(one)
        return blob

    def _deliver(self, payload: bytes | Blob) -> None:
        self._spoken = True
        self._tries = 0
        # It goes on: the answer it had before was not lost.
        self._forget_written()
        if isinstance(payload, Blob):
            self._listener.on_link_message(Message(b"", payload))
        else:
            self._listener.on_link_message(Message(payload))
        if self._outbox and not self._is_soon:
            self._pump()

    def _on_control(self, opcode: int, payload: bytes) -> None:
        if opcode == _PING:
            self._control.append(_frame(_PONG, payload))
            self._pump()
        elif opcode == _CLOSE:
            code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005
            text = payload[2:].decode("utf-8", "replace")
            self._say_close(code if code != 1005 else 1000)
            least_s = REFUSED_S if code == 4001 else 0.0
            self._drop(
                f"the worker closed the connection ({code}{': ' + text if text else ''})", least_s=least_s
            )
        elif opcode != _PONG:
            raise _Refused("the worker sent a frame that RFC 6455 does not allow")

    def _say_close(self, code: int) -> None:
        # Politeness only: between two frames, and without waiting.
        if self._socket is not None and not self._chunk:
            with contextlib.suppress(OSError):
                self._socket.send(_frame(_CLOSE, struct.pack("!H", code)))

    # ---- the memory of large messages

    def _new_blob(self, size: int) -> Blob:
        """Return a blob for this many bytes: the kept one if it fits, whose pages are there already."""
        blob, self._blob = self._blob, None
        if blob is not None and not size <= blob.capacity <= max(4 * size, 16 * 1024**2):
            blob.close()
            blob = None
        if blob is None:
            blob = Blob(size, self._keep_blob)
        blob.size = size
        return blob

    def _keep_blob(self, blob: Blob) -> None:
        if self._blob is not None or self.state is State.CLOSED:
            blob.close()
            return
        self._blob = blob
        if self._blob_timer is not None:
            self._blob_timer.cancel()
        self._blob_timer = self._loop.after(KEEP_BLOB_S, self._forget_blob)

    def _forget_blob(self) -> None:
        if self._blob_timer is not None:
            self._blob_timer.cancel()
            self._blob_timer = None
        if self._blob is not None:
            self._blob.close()
            self._blob = None


class _Refused(Exception):
    """The worker's bytes break the WebSocket protocol."""

    def __init__(self, text: str, *, too_large: bool = False) -> None:
        super().__init__(text)
        self.too_large = too_large


def _frame(opcode: int, payload: bytes | memoryview, *, last: bool = True) -> bytes:
    """Return a masked client frame (RFC 6455, 5.2)."""
    length = len(payload)
    first = opcode | (0x80 if last else 0)
    if length < 126:
        head = struct.pack("!BB", first, 0x80 | length)
    elif length < 65536:
        head = struct.pack("!BBH", first, 0x80 | 126, length)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, length)
    key = os.urandom(4)
    return b"".join((head, key, _masked(payload, key)))


def _masked(data: bytes | memoryview, key: bytes) -> bytes:
    length = len(data)
    if length > 2048:
        try:  # imported when first needed; in C where its wheel has that
            from websockets.speedups import apply_mask
        except ImportError:
            from websockets.utils import apply_mask
        return apply_mask(data, key)
    # As one large number: for short messages faster than anything that has to be imported.
    pad = key * (length // 4 + 1)
    number = int.from_bytes(data, "little") ^ int.from_bytes(pad[:length], "little")
    return number.to_bytes(length, "little")


def _watch_peer(sock: socket.socket) -> None:
    """Have the kernel notice a peer that fell silent: no frame of ours is allowed to ask it first."""
    with contextlib.suppress(OSError, AttributeError):  # not TCP, or a kernel without the option
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)


def _reason(error: BaseException) -> str:
    """Return what went wrong in a few words for a user."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, socket.gaierror):
        return f"the host name is not known ({error.strerror})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
