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
before the worker has spoken: it ends a worker that has just been started (PROTOCOL, rule 1), and an answer
would count for another task there, since messages carry no task id. Only after a drop, and only to a worker
that is certainly the same (identity.py), something goes out sooner:
* a final answer that it cannot have heard, at once: HKube's worker gives the task up after 5 s;
* one that it may have heard, if it stays silent for SETTLE_S;
* everything, if it stays silent for SILENT_S: it waits for us (DEV_MODE: it says nothing again after a
  reconnect).
A worker that is not certainly the same never gets the answers of tasks that have ended, whatever it says.

Here: the connection and its states. connect.py is the thread, identity.py whose worker it is, frames.py the
frames in both directions, outbox.py what waits to be sent, message_memory.py the memory of large messages.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Protocol

from ..io.loop import Loop, Timer
from ..protocol.messages import printable
from .connect import CONNECT_TIMEOUT_S, Attempt, all_has_arrived, reason_of, watch_peer
from .frames import BINARY, BLOB_MIN, CLOSE, MESSAGE_MAX, PING, PONG, TEXT, TURN_BYTES, Reader, Refused, frame
from .identity import Identity
from .message_memory import KEEP_BLOB_S, MessageMemory, MessageMemoryPool, WorkerMessage
from .outbox import PIECE, MessageSource, Outbox, Outgoing

__all__ = [
    "BLOB_MIN",
    "KEEP_BLOB_S",
    "MESSAGE_MAX",
    "PIECE",
    "Link",
    "LinkListener",
    "LinkState",
    "MessageMemory",
    "MessageSource",
    "WorkerMessage",
]

#: First try after a drop at once, then these pauses, the last one for ever.
BACKOFF_S = (0.0, 0.01, 0.02, 0.05, 0.05, 0.1, 0.1, 0.2, 0.3, 0.5, 1.0)
#: An answer written this shortly before a drop may not have been read.
LOST_S = 1.0
#: The peer's kernel may have handed data on for so long before it says so (TCP_DELACK_MAX of Linux).
DELAYED_ACK_S = 0.2
#: The same worker, back after a drop, is given so long to speak first.
SILENT_S = 1.0
#: After a reconnect, wait this long for a word of the worker before such an answer is sent again.
SETTLE_S = 0.1
#: A refusal by the worker itself (4001: another client is connected) is not asked again so soon.
REFUSED_S = 1.0
#: A message up to this size is sent at once, in one piece, when nothing waits before it.
SMALL = 16 * 1024
#: How long one of those may wait for another.
SOON_S = 0.001


class LinkState(Enum):
    """Where the link stands."""

    DISCONNECTED = auto()
    CONNECTING = auto()
    OPEN = auto()
    BACKOFF = auto()
    CLOSED = auto()  #: for good


class LinkListener(Protocol):
    """Who is told, from the loop."""

    def on_link_open(self) -> None: ...
    def on_link_message(self, message: WorkerMessage) -> None:
        """A message; the listener releases it, and calls worker_spoke() if it is one of HKube's worker."""

    def on_link_resumed(self, *, all_written: bool) -> None:
        """The same worker is back after a drop, and silent: it takes up where it was.

        `all_written`: nothing waited to be sent when the connection was lost; what was sent last may be lost.
        """

    def on_link_answer_lost(self) -> None:
        """An answer that waited is not sent any more: the worker does not wait for it."""

    def on_link_drop(self, reason: str) -> None: ...
    def on_link_unreachable(self, reason: str) -> None:
        """A try has failed; the next one follows."""

    def on_link_given_up(self, reason: str) -> None:
        """No worker within the connect timeout; no further try follows."""


class Link:
    """The connection to one URL, kept up until close()."""

    def __init__(
        self,
        loop: Loop,
        listener: LinkListener,
        url: str,
        *,
        text: bool,
        connect_timeout_s: float | None = None,
    ) -> None:
        """`text`: messages go out in text frames (json). Nothing happens before open()."""
        self._loop = loop
        self._listener = listener
        self.url = url
        self._opcode = TEXT if text else BINARY
        self._connect_timeout_s = connect_timeout_s
        self.state = LinkState.DISCONNECTED
        self._attempt: Attempt | None = None  #: to connect
        self._client: Any = None  # websocket.WebSocket, which owns the socket
        self._socket: socket.socket | None = None
        self._fd = -1
        self._is_tls = False
        self._not_now: tuple[type[OSError], ...] = (BlockingIOError,)
        self._tries = 0
        self._since = 0.0
        self._timer: Timer | None = None
        self._outbox = Outbox(self._opcode, loop.clock)
        self._held: bytes | None = None  #: a small message that waits for the next one
        self._soon = loop.alarm(self._hold_no_longer)
        self._spoken = False
        self._identity = Identity(loop.clock)
        self._arrived: bool | None = None  #: all that was sent, before our goodbye; None: not said
        self._all_written = False  #: at the last drop nothing waited to be sent
        self._resume = loop.alarm(self._resumed)
        self._again = loop.alarm(self._send_again)
        self._blobs = MessageMemoryPool(loop)
        self._reader = Reader(self._blobs, self._deliver, self._on_control)

    # ---- connecting

    def open(self) -> None:
        """Begin to connect, and keep at it."""
        assert self.state is LinkState.DISCONNECTED
        self._since = self._loop.clock()
        self._connect()

    def _connect(self) -> None:
        self.state = LinkState.CONNECTING
        self._attempt = Attempt(self._loop, self.url, self._connected, self._not_connected)
        self._be_patient()

    def _be_patient(self) -> None:
        patience_s = CONNECT_TIMEOUT_S
        if self._connect_timeout_s is not None:
            patience_s = min(patience_s, max(self._connect_timeout_s - self._waited_s, 0.05))
        self._timer = self._loop.after(patience_s, self._overdue)

    @property
    def _waited_s(self) -> float:
        """For a worker, since there was one."""
        return self._loop.clock() - self._since

    def _overdue(self) -> None:
        """Whoever is there does not get on with it: a handshake in small pieces has no end of its own."""
        assert self._attempt is not None, "the timer was set with it"
        given_up = self._connect_timeout_s is not None and self._waited_s >= self._connect_timeout_s
        if given_up or self._attempt.has_socket:
            self._attempt.give_up()
            self._not_connected("no answer in time")
        else:
            # Names and addresses come to an end by themselves; a second try beside it could have two sockets.
            self._listener.on_link_unreachable("no answer in time")
            self._be_patient()

    def _connected(self, client: Any) -> None:
        assert self._timer is not None and self._attempt is not None, "both were set with the attempt"
        self._timer.cancel()
        self._identity.connected(self._attempt.listener)
        self._client, self._attempt = client, None
        sock: socket.socket = client.sock
        sock.setblocking(False)
        self._socket = sock
        self._fd = sock.fileno()
        self._is_tls = hasattr(sock, "pending")  # an ssl.SSLSocket, also after a redirect to wss://
        if self._is_tls:
            import ssl  # the connecting thread has it already

            self._not_now = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
        watch_peer(sock)
        self._reader.begin()
        self.state = LinkState.OPEN
        self._spoken = False
        if self._identity.is_certain:
            self._resume.set(SILENT_S)
        else:
            self._outbox.forget_written()
        self._loop.on_readable(self._fd, self._on_readable)
        self._listener.on_link_open()
        # First what the worker has to say: if it begins another task, the old one's answer must not go out.
        self._on_readable()
        if self.state is LinkState.OPEN:
            self._pump()
            if self._outbox.written is not None and not self._spoken:
                self._again.set(SETTLE_S)

    def _is_waiting(self) -> bool:
        """The worker is certainly the one before the drop, and has not begun to speak since."""
        if self.state is LinkState.OPEN:
            self._on_readable()  # a busy machine: it may have spoken since the loop last looked
        is_silent = self.state is LinkState.OPEN and not self._spoken and not self._reader.is_amid
        return is_silent and self._identity.is_certain

    def _send_again(self) -> None:
        """The last answer may have been lost with the old connection: a second one in ready is harmless
        (PROTOCOL 3.8). Only while the worker is silent: whatever it says first, it is not waiting for it."""
        if self._is_waiting() and self._outbox.written is not None:
            self._outbox.put_last_again()
            self._pump()

    def _resumed(self) -> None:
        """It is the worker that it was, and waits for us."""
        if self._is_waiting():
            self._spoken = True
            self._pump()
            self._listener.on_link_resumed(all_written=self._all_written)

    def worker_spoke(self) -> None:
        """It has said something that only HKube's worker says: from now on it is sent what waits.

        Answers of tasks that have ended only if it is certainly the worker that has handed them out.
        """
        if self._spoken or self.state is not LinkState.OPEN:
            return
        self._spoken = True
        if not self._identity.is_certain and self._outbox.forget_ended():
            self._listener.on_link_answer_lost()

    def _not_connected(self, reason: str) -> None:
        assert self._timer is not None, "it was set with the attempt"
        self._timer.cancel()
        self._attempt = None
        self._identity.failed()
        waited_s = self._waited_s
        if self._connect_timeout_s is not None and waited_s >= self._connect_timeout_s:
            self.state = LinkState.CLOSED
            self._listener.on_link_given_up(reason)
            return
        self.state = LinkState.BACKOFF
        pause_s = BACKOFF_S[min(self._tries, len(BACKOFF_S) - 1)]
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
        if self.state is not LinkState.OPEN:
            return
        arrived, self._arrived = self._arrived, None
        if arrived is None:
            arrived = all_has_arrived(self._socket)
        self._close_socket()
        self._since = self._loop.clock()
        self._all_written = self.idle
        self._let_go()
        self._resume.cancel()
        self._again.cancel()
        self._identity.dropped(spoken=self._spoken)
        self._spoken = False
        self._outbox.dropped()
        if self._timer is not None:
            self._timer.cancel()
        self._judge_last_answer(arrived=arrived)
        self.state = LinkState.DISCONNECTED
        self._listener.on_link_drop(reason)
        if self.state is LinkState.DISCONNECTED:
            self.state = LinkState.BACKOFF
            pause_s = max(BACKOFF_S[min(self._tries, len(BACKOFF_S) - 1)], least_s)
            self._tries += 1
            self._timer = self._loop.after(pause_s, self._connect)

    def _judge_last_answer(self, *, arrived: bool) -> None:
        """An answer that the worker cannot have heard waits again; one that it has heard is forgotten."""
        if self._outbox.written is None:
            return
        age_s = self._since - self._outbox.written[1]
        if not arrived and age_s > DELAYED_ACK_S:
            self._outbox.put_last_first()
        elif age_s > LOST_S:
            self._outbox.forget_written()

    def _close_socket(self) -> None:
        self._loop.on_readable(self._fd, None)
        self._loop.on_writable(self._fd, None)
        assert self._socket is not None
        with contextlib.suppress(OSError):
            self._socket.close()
        self._client.sock = None
        self._socket, self._client, self._fd = None, None, -1
        self._reader.forget()

    def close(self) -> None:
        """Say goodbye (1000) and close, for good. What is in the outbox is dropped."""
        if self._timer is not None:
            self._timer.cancel()
        self._resume.cancel()
        self._again.cancel()
        if self._attempt is not None:
            self._attempt.give_up()
            self._attempt = None
        if self.state is LinkState.OPEN:
            assert self._socket is not None
            with contextlib.suppress(OSError):
                if not self._outbox.chunk:
                    self._socket.send(frame(CLOSE, struct.pack("!H", 1000)))
            self._close_socket()
        self.state = LinkState.CLOSED
        self.clear()
        self._blobs.close()

    # ---- posting

    def post(
        self, data: bytes, source: MessageSource | None = None, *, final: bool = False, soon: bool = False
    ) -> bool:
        """Send a message as soon as the worker can take it; `source` instead of data for a large one.

        `final`: the answer of a task, which is worth sending again when it may have been lost.
        `soon`: a small message that waits up to SOON_S for the next one, to go out with it: a system call,
        and a wake-up of the worker, less for a task that is over in no time.

        True when so much waits to be sent now that nothing should be added (see `congested`).
        """
        if self._spoken and source is None and len(data) <= SMALL and self._outbox.is_empty:
            if soon and self._held is None:
                self._held = data
                self._soon.set(SOON_S)
                return False
            if self._post_now(data, final):
                return False
        if self.state is LinkState.CLOSED:
            if source is not None:
                source.close()
            return False
        self._let_go()
        self._outbox.put(Outgoing(data, source, final))
        self._pump()
        return self._outbox.congested

    def _post_now(self, data: bytes, final: bool) -> bool:
        """Send a small message past the outbox, with the one that is held; False: it has to queue."""
        assert self._socket is not None, "a worker that has spoken is connected"
        held, self._held = self._held, None
        frames = frame(self._opcode, data)
        if held is not None:
            self._soon.cancel()
            first = frame(self._opcode, held)
            frames = first + frames
        try:
            count = self._socket.send(frames)
        except OSError:
            self._held = held
            return False  # the queue meets the same trouble, and deals with it
        if count == len(frames):
            if final:
                self._outbox.keep(Outgoing(data, None, True))
            return True
        # What is cut is the first in the outbox, and the chunk the rest of its frame.
        if held is not None and count < len(first):
            self._outbox.put_cut(Outgoing(held, None, False), memoryview(first)[count:])
            self._outbox.put(Outgoing(data, None, final))
        else:
            self._outbox.put_cut(Outgoing(data, None, final), memoryview(frames)[count:])
        self._pump()
        return True

    def _let_go(self) -> None:
        """What is held for the next message waits in the outbox from now on."""
        if self._held is not None:
            held, self._held = self._held, None
            self._soon.cancel()
            self._outbox.put(Outgoing(held, None, False))

    def _hold_no_longer(self) -> None:
        self._let_go()
        self._pump()

    def _may_begin(self) -> bool:
        """The next message may go out; a final answer goes first where nothing else may."""
        if self._spoken:
            return True
        is_silent = self._identity.is_certain and not self._reader.is_amid
        return is_silent and self._outbox.lead_with_answer()

    def clear(self) -> None:
        """Forget everything that is not sent: it belongs to a task that the worker has given up.

        If an old answer has begun to go out it must not be completed: the connection is dropped instead.
        """
        self._held = None
        had_answer = self._outbox.has_answer
        has_begun = self._outbox.clear()
        if had_answer and self.state is not LinkState.CLOSED:
            self._listener.on_link_answer_lost()
        if has_begun:
            self._drop("the worker began another task in the middle of an answer")

    @property
    def is_open(self) -> bool:
        """A worker is connected, and has spoken."""
        return self.state is LinkState.OPEN and self._spoken

    @property
    def congested(self) -> bool:
        """So much waits to be sent that nothing should be added; on_relieved is called when it is less."""
        return self._outbox.congested

    @property
    def on_relieved(self) -> Callable[[], None] | None:
        """Called once when what waits has become little again, after `congested` was seen."""
        return self._outbox.on_relieved

    @on_relieved.setter
    def on_relieved(self, callback: Callable[[], None] | None) -> None:
        self._outbox.on_relieved = callback

    @property
    def idle(self) -> bool:
        """Nothing waits to be sent."""
        return self._held is None and self._outbox.idle

    def _pump(self) -> None:
        """Write what the kernel takes now; the rest when it takes more."""
        sock = self._socket
        if sock is None:
            return
        outbox, written = self._outbox, 0
        try:
            while outbox.chunk or outbox.next_chunk(self._may_begin):
                count = sock.send(outbox.chunk)
                outbox.chunk = outbox.chunk[count:]
                written += count
                if written >= TURN_BYTES:
                    self._loop.on_writable(self._fd, self._pump)
                    return
        except self._not_now:
            self._loop.on_writable(self._fd, self._pump)
            return
        except OSError as error:
            self._drop(reason_of(error))
            return
        self._loop.on_writable(self._fd, None)

    # ---- receiving

    def _on_readable(self) -> None:
        """Read what is there, at most TURN_BYTES, and hand on the messages that are complete."""
        taken = 0
        sock = self._socket
        try:
            while sock is not None and sock is self._socket and taken < TURN_BYTES:
                count, more = self._reader.receive(sock)
                if not count:
                    self._drop("the worker closed the connection without a word")
                    return
                taken += count
                # A TLS socket may hold bytes that the selector cannot see: read until it says so.
                if not more and not self._is_tls:
                    return
        except self._not_now:
            return
        except Refused as error:
            self._say_close(1009 if error.too_large else 1002)
            self._drop(str(error))
        except OSError as error:
            self._drop(reason_of(error))

    def _deliver(self, message: WorkerMessage) -> None:
        # Whatever it says, it is not waiting: nothing is said again.
        self._resume.cancel()
        self._again.cancel()
        self._tries = 0
        self._outbox.forget_written()
        self._listener.on_link_message(message)
        if self._outbox:
            self._pump()

    def _on_control(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self._outbox.put_control(frame(PONG, payload))
            self._pump()
        elif opcode == CLOSE:
            code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005
            text = printable(payload[2:].decode("utf-8", "replace"))
            self._say_close(code if code != 1005 else 1000)
            least_s = REFUSED_S if code == 4001 else 0.0
            self._drop(
                f"the worker closed the connection ({code}{': ' + text if text else ''})", least_s=least_s
            )
        elif opcode != PONG:
            raise Refused("the worker sent a frame that RFC 6455 does not allow")

    def _say_close(self, code: int) -> None:
        self._arrived = all_has_arrived(self._socket)
        # Politeness only: between two frames, and without waiting.
        if self._socket is not None and not self._outbox.chunk:
            with contextlib.suppress(OSError):
                self._socket.send(frame(CLOSE, struct.pack("!H", code)))
