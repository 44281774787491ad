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
before the worker has spoken: a message ends a worker that has just been started, and an answer would count
for another task there, since messages carry no task id. Only after a drop, and only to a worker that is
certainly the same (identity.py), something goes out sooner:
* a final answer that it cannot have heard, at once: HKube's worker gives the task up after 5 s;
* one that it may have heard, if it stays silent for SETTLE_S (none of storage v3: _judge_last_answer());
* everything, if it stays silent for SILENT_S: it waits for us (in DEV_MODE it repeats nothing).
A worker that is not certainly the same never gets the answers of tasks that have ended, whatever it says.

Here: one connection, from its first message to its drop. connector.py makes connections, in the thread of
connect.py; identity.py says whose worker it is; frames.py has the frames in both directions; outbox.py is
what waits to be sent, and sender.py writes it; message_memory.py is the memory of large messages. With
--transport socketio, the WebSocket's messages are packets of socket.io, with HKube's in them: socketio.py.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..io.loop import Loop
from ..protocol.messages import printable
from .connect import all_has_arrived, reason_of, watch_peer
from .connector import ConnectionState, Connector
from .frames import BINARY, BLOB_MIN, CLOSE, PING, PONG, TEXT, TURN_BYTES, Reader, Refused, frame
from .identity import Identity
from .message_memory import MessageMemory, MessageMemoryPool, WorkerMessage
from .outbox import MessageSource
from .sender import LinkSender

if TYPE_CHECKING:
    from .listener import LinkListener
    from .socketio import SocketIo

__all__ = ["BLOB_MIN", "ConnectionState", "Link", "MessageMemory", "MessageSource", "WorkerMessage"]
#: An answer that was written at most this long before a drop may not have been read.
LOST_S = 1.0
#: The peer's kernel may acknowledge data this long after delivering it (TCP_DELACK_MAX of Linux).
DELAYED_ACK_S = 0.2
#: After a reconnect, the same worker has this long to send a message first.
SILENT_S = 1.0
#: After a reconnect, wait this long for a message before an answer that may be lost is sent again.
SETTLE_S = 0.1
#: Wait at least this long after the worker refused us (4001: another client is connected).
REFUSED_S = 1.0
_NOT_AWAITED = "the worker that is connected now does not wait for it"


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
        transport: str = "ws",
        with_attachments: bool = False,
    ) -> None:
        """`text`: messages go out in text frames. `transport`: ws, or socketio, whose messages are json;
        `with_attachments`: in the encoding socket.io, which has bytes too. Nothing happens before open().
        """
        self._loop = loop
        self._listener = listener
        self.url = url
        self._identity = Identity(loop.clock)
        self._blobs = MessageMemoryPool(loop)
        self._sender = LinkSender(
            loop, TEXT if text else BINARY, may_begin=self._may_begin, on_error=self._drop
        )
        self._outbox = self._sender.outbox
        self._socketio: SocketIo | None = None
        if transport == "socketio":
            from .socketio import SocketIo  # late: hardly any worker serves it

            self._socketio = SocketIo(
                loop,
                self._blobs,
                self._sender,
                with_attachments=with_attachments,
                on_message=self._deliver,
                on_end=self._drop,
            )
        self._connector = Connector(
            loop,
            url,
            connect_timeout_s,
            on_connected=self._connected,
            on_failed=self._identity.failed,
            on_unreachable=listener.on_link_unreachable,
            on_given_up=listener.on_link_given_up,
            greet=None if self._socketio is None else self._socketio.greet,
        )
        self._client: Any = None  # websocket.WebSocket, which owns the socket
        self._socket: socket.socket | None = None
        self._fd = -1
        self._hidden: Callable[[], int] | None = None  #: tells what a TLS socket holds that epoll cannot see
        self._not_now: tuple[type[OSError], ...] = (BlockingIOError,)
        self._spoken = False
        self._arrived: bool | None = None  #: all that was sent, as of our goodbye; None: not known
        self._all_written = False  #: whether nothing waited to be sent at the last drop
        self._resume = loop.alarm(self._resumed)
        self._again = loop.alarm(self._send_again)
        on_message = self._deliver if self._socketio is None else self._socketio.take
        self._reader = Reader(self._blobs, on_message, self._on_control)

    # ---- connecting

    def open(self) -> None:
        """Begin to connect, and stay connected."""
        self._connector.begin()

    @property
    def state(self) -> ConnectionState:
        """The state of the link."""
        return self._connector.state

    def _connected(self, client: Any, listener: int | None) -> None:
        self._identity.connected(listener)
        self._client = client
        sock = self._socket = client.sock
        sock.setblocking(False)
        self._fd = sock.fileno()
        self._hidden = getattr(sock, "pending", None)  # of an ssl.SSLSocket, also after a redirect to wss://
        if self._hidden is not None:
            import ssl  # the connecting thread has it already

            self._not_now = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
        watch_peer(sock)
        self._reader.begin()
        if self._socketio is not None:
            self._socketio.begin(self._reader)
        self._sender.use(sock, self._not_now)
        self._spoken = False
        if self._identity.is_certain:
            self._resume.set(SILENT_S)
        else:
            self._outbox.forget_written()
        self._loop.on_readable(self._fd, self._on_readable)
        self._listener.on_link_open()
        # First read what the worker sent: if it begins another task, the old one's answer must not go out.
        self._on_readable()
        if self.state is ConnectionState.OPEN:
            self._sender.pump()
            if self._outbox.written is not None and not self._spoken:
                self._again.set(SETTLE_S)

    def _is_waiting(self) -> bool:
        """Whether the worker is certainly the one from before the drop, and has sent nothing since."""
        if self.state is ConnectionState.OPEN:
            self._on_readable()  # on a busy machine, it may have sent something since the loop last read
        is_silent = self.state is ConnectionState.OPEN and not self._spoken and not self._is_amid
        return is_silent and self._identity.is_certain

    @property
    def _is_amid(self) -> bool:
        """Whether part of a message has arrived: the worker has begun to send."""
        return self._reader.is_amid or (self._socketio is not None and self._socketio.is_amid)

    def _send_again(self) -> None:
        """Send the last answer again if the worker is silent: it may have been lost with the old connection.

        A worker that speaks does not wait for an answer. HKube's worker ignores a second answer (core/worker
        lib/states/stateManager.js, state `ready`).
        """
        if self._is_waiting() and self._outbox.written is not None:
            self._outbox.put_last_again()
            self._sender.pump()

    def _resumed(self) -> None:
        """Send everything: it is the same worker, and it waits for us."""
        if self._is_waiting():
            self._spoken = True
            self._sender.pump()
            self._listener.on_link_resumed(all_written=self._all_written)

    def worker_spoke(self) -> None:
        """Send what waits: the worker has sent something that only HKube's worker sends.

        Answers of tasks that have ended are sent only to the worker that has certainly given the tasks.
        """
        if self._spoken or self.state is not ConnectionState.OPEN:
            return
        self._spoken = True
        if not self._identity.is_certain and self._outbox.forget_ended():
            self._listener.on_link_answer_lost(_NOT_AWAITED)

    # ---- losing the connection

    def _drop(self, reason: str, *, least_s: float = 0.0) -> None:
        """Close the socket, report why, and connect again."""
        if self.state is not ConnectionState.OPEN:
            return
        arrived, self._arrived = self._arrived, None
        if arrived is None:
            arrived = all_has_arrived(self._socket)
        self._close_socket()
        if self._socketio is not None:
            self._socketio.end()
        self._all_written = self._sender.idle
        self._sender.release_held()
        self._resume.cancel()
        self._again.cancel()
        self._identity.dropped(spoken=self._spoken)
        self._spoken = False
        self._outbox.dropped()
        self._judge_last_answer(arrived=arrived)
        self._connector.dropped()
        self._listener.on_link_drop(reason)
        if self._connector.state is ConnectionState.DISCONNECTED:  # the listener has not closed it
            self._connector.connect_again(least_s)

    def _judge_last_answer(self, *, arrived: bool) -> None:
        """Have an answer that the worker cannot have received wait again; forget one that it has received."""
        if self._outbox.written is None:
            return
        age_s = self._loop.clock() - self._outbox.written[1]
        if not arrived and age_s > DELAYED_ACK_S:
            self._outbox.put_last_first()
        elif age_s > LOST_S or self._outbox.written[0].prelude:
            # HKube's worker takes a `storing` for its current task: never repeat one that may have arrived.
            self._outbox.forget_written()

    def _close_socket(self) -> None:
        self._loop.on_readable(self._fd, None)
        self._sender.detach()
        assert self._socket is not None
        with contextlib.suppress(OSError):
            self._socket.close()
        self._client.sock = None
        self._socket, self._client, self._fd = None, None, -1
        self._reader.forget()

    def close(self, cut_short: str = "") -> None:
        """Send a close frame and close for good. The outbox is dropped.

        The frame says 1000; or 1001 (going away) with the reason `cut_short`, where a task has no answer.
        """
        self._resume.cancel()
        self._again.cancel()
        if self._outbox.has_answer:
            self._listener.on_link_answer_lost("hkrunner has ended before the worker had it")
        if self.state is ConnectionState.OPEN:
            if self._socketio is not None:
                self._socketio.say_goodbye()
            self._sender.say_close(1001 if cut_short else 1000, cut_short)
            self._close_socket()
        self._spoken = False
        self._connector.close()
        self.clear()
        self._blobs.close()

    # ---- posting

    def post(
        self,
        data: bytes,
        source: MessageSource | None = None,
        *,
        final: bool = False,
        soon: bool = False,
        prelude: bytes = b"",
    ) -> bool:
        """Send a message as soon as the worker can take it; `source` instead of data for a large one.

        `final`: the answer of a task, which is sent again when it may have been lost.
        `soon`: a small message may wait up to SOON_S for the next one, to be sent with it: that saves a
        system call, and a wake-up of the worker, for a task of a millisecond.
        `prelude`: a small message that goes right before this one, also when this one is sent again.

        Return whether so much waits now that nothing should be added (see `congested`).
        """
        if not self._spoken and self._connector.state is ConnectionState.CLOSED:
            if source is not None:
                source.close()
            return False
        if final:
            self._connector.was_of_use()
        if self._socketio is not None:
            data, source, prelude = self._socketio.events(data, source, prelude)
        return self._sender.post(data, source, final=final, soon=soon, at_once=self._spoken, prelude=prelude)

    def _may_begin(self) -> bool:
        """Whether the next message may be sent; where only a final answer may, it becomes the next."""
        if self._spoken:
            return True
        is_silent = self._identity.is_certain and not self._is_amid
        return is_silent and self._outbox.lead_with_answer()

    def clear(self) -> None:
        """Drop everything that is not sent: it belongs to a task that the worker has given up.

        An old answer that is partly sent must not be completed: the connection is dropped instead.
        """
        if self._sender.idle:
            self._outbox.forget_written()
            return
        had_answer = self._outbox.has_answer
        has_begun = self._sender.clear()
        if had_answer and self.state is not ConnectionState.CLOSED:
            self._listener.on_link_answer_lost(_NOT_AWAITED)
        if has_begun:
            self._drop("the worker began another task in the middle of an answer")

    @property
    def is_open(self) -> bool:
        """Whether a worker is connected and has sent a message."""
        return self.state is ConnectionState.OPEN and self._spoken

    @property
    def owes_answer(self) -> bool:
        """Whether an answer is on its way to the worker."""
        return self.is_open and self._outbox.has_answer

    @property
    def congested(self) -> bool:
        """Whether so much waits that nothing should be added; on_relieved is called when it is less."""
        return self._outbox.congested

    @property
    def on_relieved(self) -> Callable[[], None] | None:
        """Called once when the link is no longer congested."""
        return self._outbox.on_relieved

    @on_relieved.setter
    def on_relieved(self, callback: Callable[[], None] | None) -> None:
        self._outbox.on_relieved = callback

    # ---- receiving

    def _on_readable(self) -> None:
        """Read what has arrived, at most TURN_BYTES, and pass on the complete messages."""
        taken = 0
        sock = self._socket
        try:
            while sock is not None and sock is self._socket:
                count, more = self._reader.receive(sock)
                if not count:
                    self._drop("the worker closed the connection without a close frame")
                    return
                taken += count
                if (not more or taken >= TURN_BYTES) and (self._hidden is None or not self._hidden()):
                    return
        except self._not_now:
            return
        except Refused as error:
            self._say_close(1009 if error.too_large else 1002)
            self._drop(str(error))
        except OSError as error:
            self._drop(reason_of(error))

    def _deliver(self, message: WorkerMessage) -> None:
        had_spoken = self._spoken
        if not had_spoken:  # a worker that speaks does not wait for an answer: nothing is sent again
            self._resume.cancel()
            self._again.cancel()
        self._outbox.forget_written()
        self._listener.on_link_message(message)
        if not had_spoken:
            self._sender.pump()  # it may take now what has waited

    def _on_control(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self._outbox.put_control(frame(PONG, payload))
            self._sender.pump()
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
        self._sender.say_close(code)
