"""socket.io 2 (Engine.IO 3) on the link's WebSocket: the packets that HKube's messages are in.

HKube's worker serves it instead of its plain WebSocket if WORKER_ALGORITHM_PROTOCOL is `socket` (core/worker
lib/algorithm-communication/socket-io.js). Each packet is a WebSocket message:

    0{"sid":…,"pingInterval":…,"pingTimeout":…}    worker: the first packet; times in ms
    40                                             worker: the second one; the default namespace is open
    42["initialize",{"command":"initialize",…}]    both: a message of HKube's; the event is its command
    451-["done",{…{"_placeholder":true,"num":0}…}]  both: a message with one value of bytes, which is
    04 then the bytes                              an attachment: a binary message after it
    2 and 3                                        our ping and the worker's pong
    41, 44"…" and 1                                goodbye, refusal, end of the connection

hkrunner opens the WebSocket at once: Engine.IO's polling, and its upgrade to a WebSocket, are not needed.
The first two packets are awaited in the connecting thread (socketio_greeting.py). This file is imported only
with --transport socketio.
"""

from __future__ import annotations

import binascii
import json
import re
import socket
from collections.abc import Callable

from ..io.loop import Loop
from ..protocol import encoding
from ..protocol.messages import printable
from .frames import BLOB_MIN, MESSAGE_MAX, Reader, Refused
from .message_memory import MessageMemoryPool, WorkerMessage
from .outbox import MessageSource
from .sender import LinkSender
from .socketio_greeting import Greeting, receive_greeting

#: Most attachments, which are values of bytes, in one message.
ATTACHMENTS_MAX = 100_000
#: Bytes of a wrong packet that a message shows.
_SHOWN = 60
_EVENT = re.compile(rb'(?:/,)?\d*\[\s*"((?:[^"\\]|\\.)*)"\s*([,\]])')
_COUNT = re.compile(rb"(\d{1,9})-")
_PLACEHOLDER = re.compile(rb'\{"_placeholder":true,"num":(\d{1,9})\}')
_PING = b"2"
_DISCONNECT = b"41"


class EventSource:
    """A large message as the event that it is sent in."""

    def __init__(self, source: MessageSource) -> None:
        """Own the source."""
        self._before = _before_source(source)
        self._source = source
        self.size = len(self._before) + source.size + 1

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly this piece. Raises OSError when it cannot be read."""
        at, end, before = offset, offset + length, self._before
        data = before[at:end]
        begin, stop = max(at - len(before), 0), min(end - len(before), self._source.size)
        if stop > begin:
            data += self._source.read(begin, stop - begin)
        return data + b"]" if end == self.size else data

    def close(self) -> None:
        """Release the message."""
        self._source.close()


class SocketIo:
    """The packets of the present connection."""

    def __init__(
        self,
        loop: Loop,
        blobs: MessageMemoryPool,
        sender: LinkSender,
        *,
        on_message: Callable[[WorkerMessage], None],
        on_end: Callable[[str], None],
    ) -> None:
        """on_message: HKube's message has arrived. on_end(reason): the connection is to be dropped."""
        self._blobs = blobs
        self._sender = sender
        self._on_message = on_message
        self._on_end = on_end
        self._greeting: Greeting | None = None
        self._alarm = loop.alarm(self._check_worker)
        self._awaits_pong = False
        self._was_heard = False
        self._position: tuple[int, ...] = ()  #: how much of the next message was there at the last ping
        self._text = b""  #: of the event whose attachments have not all arrived
        self._missing = 0  #: number of them
        self._attachments: list[bytes] = []
        self._total = 0  #: bytes of the event so far

    # ---- the connection

    def greet(self, sock: socket.socket) -> None:
        """Receive the first two packets. Runs in the connecting thread; raises Refused or OSError."""
        self._greeting = receive_greeting(sock)

    def begin(self, reader: Reader) -> None:
        """The connection is open, and this is what reads it."""
        assert self._greeting is not None, "the thread has greeted the worker"
        self._reader = reader
        self._forget_event()
        self._awaits_pong = False
        self._alarm.set(self._greeting.ping_interval_s)

    def end(self) -> None:
        """The connection is gone."""
        self._alarm.cancel()
        self._forget_event()

    def say_goodbye(self) -> None:
        """Tell the worker that no packet follows."""
        self.end()
        self._sender.say(_DISCONNECT)

    @property
    def is_amid(self) -> bool:
        """Whether part of a message has arrived."""
        return self._missing > 0

    def _check_worker(self) -> None:
        """Send a ping when it is due; drop the connection if nothing has come since the last one."""
        assert self._greeting is not None, "the alarm was set in begin()"
        position = (self._missing, *self._reader.position)
        if not self._awaits_pong:
            # It waits while a large answer is being sent: then there is no pong to wait for.
            self._awaits_pong = self._sender.ping(_PING)
            self._was_heard, self._position = False, position
            self._alarm.set(self._greeting.ping_timeout_s)
        elif position == self._position and self._missing:
            self._on_end(f"the worker sent half a message: attachments are missing ({self._missing})")
        elif position == self._position and not self._was_heard:
            self._on_end(f"the worker answered no ping within {self._greeting.ping_timeout_s:g} s")
        else:
            self._awaits_pong = False
            self._alarm.set(self._greeting.ping_interval_s)

    # ---- sending

    def events(
        self, data: bytes, source: MessageSource | None, prelude: bytes
    ) -> tuple[bytes, MessageSource | None, bytes]:
        """Return a message, and the one that goes right before it, as the events that they are sent in."""
        if source is None:
            return _event(data), None, _event(prelude) if prelude else b""
        return data, EventSource(source), _event(prelude) if prelude else b""

    # ---- receiving

    def take(self, message: WorkerMessage) -> None:
        """Take a WebSocket message, and pass on the message of HKube's that is complete with it.

        Raises Refused for what is no packet of socket.io 2.
        """
        self._was_heard = True
        head = message.head
        kind = head[:1]
        if kind == b"4":
            self._take_packet(message, head)
            return
        if kind == b"\x04":
            self._take_attachment(message)
            return
        message.release()
        if kind == b"1":
            self._on_end("the worker closed the connection (1: Engine.IO's close)")
        elif kind == b"2":
            raise Refused(
                "the worker sent a ping, which it does only from socket.io 3 on; hkrunner speaks socket.io 2"
            )
        elif kind not in (b"3", b"6"):
            raise Refused(f"the worker sent what is no packet of socket.io 2: {_shown(head)}")

    def _take_packet(self, message: WorkerMessage, head: bytes) -> None:
        kind = head[1:2]
        if self._missing and kind in b"0123456":
            message.release()
            raise Refused("the worker sent another packet where attachments of a message were due")
        if kind == b"2":
            self._take_event(message, head, 2)
        elif kind == b"5":
            count = _COUNT.match(head, 2)
            if count is None or int(count.group(1)) > ATTACHMENTS_MAX:
                message.release()
                raise Refused(f"the worker sent what is no event of socket.io 2: {_shown(head)}")
            self._begin_event(message, int(count.group(1)), count.end())
        elif kind == b"1":
            message.release()
            self._on_end("the worker closed the connection (41: socket.io's disconnect)")
        elif kind == b"4":
            text = printable(message.data[2:300].decode("utf-8", "replace"))
            message.release()
            self._on_end(f"the worker reported an error and ended the conversation: {text}")
        else:
            message.release()
            # 40: once more, or of another namespace. 43: an acknowledgement; nothing was to be acknowledged.
            if kind not in (b"0", b"3"):
                raise Refused(f"the worker sent what is no packet of socket.io 2: {_shown(head)}")

    def _take_event(self, message: WorkerMessage, head: bytes, at: int) -> None:
        """Pass on the message in an event; a large one stays in its memory, with spaces before it."""
        begin = _event_begins(message, head, at)
        if message.blob is None:
            self._on_message(WorkerMessage(message.data[begin:-1]))
            return
        message.blob.map[:begin] = b" " * begin
        message.blob.size -= 1
        self._on_message(message)

    def _begin_event(self, message: WorkerMessage, count: int, at: int) -> None:
        if count == 0:
            self._take_event(message, message.head, at)
            return
        begin = _event_begins(message, message.head, at)
        self._text = message.whole()[begin:-1]
        message.release()
        self._missing, self._total = count, len(self._text)

    def _take_attachment(self, message: WorkerMessage) -> None:
        """Keep the bytes that belong to an event; pass on its message when it is complete."""
        data = message.whole()[1:]
        message.release()
        if not self._missing:
            raise Refused("the worker sent an attachment that belongs to no message")
        self._attachments.append(data)
        self._missing -= 1
        self._total += len(data)
        if self._total > MESSAGE_MAX:
            raise Refused(f"the worker sent a message of more than {MESSAGE_MAX:,} bytes", too_large=True)
        if self._missing:
            return
        text = _with_values(self._text, self._attachments)
        self._forget_event()
        if len(text) < BLOB_MIN:
            self._on_message(WorkerMessage(text))
        else:
            blob = self._blobs.new(len(text))
            blob.map[: len(text)] = text
            self._on_message(WorkerMessage(b"", blob))

    def _forget_event(self) -> None:
        self._text, self._missing, self._attachments, self._total = b"", 0, [], 0


def _event_begins(message: WorkerMessage, head: bytes, at: int) -> int:
    """Return where the message in an event begins; at its end there is one more character.

    Raises Refused, with the message released.
    """
    found = _EVENT.match(head, at)
    last = message.data[-1:] if message.blob is None else message.blob.map[message.size - 1 : message.size]
    if found is None or last != b"]":
        message.release()
        raise Refused(f"the worker sent what is no event of socket.io 2: {_shown(head)}")
    # An event without a message has its bracket there: the message is empty, and is reported as such.
    return found.start(2) + 1 if found.group(2) == b"," else found.start(2)


def _with_values(text: bytes, values: list[bytes]) -> bytes:
    """Return the message with base64 texts where the values of bytes belong.

    It is what becomes of bytes in the other direction: JSON has none.
    """

    def value(found: re.Match[bytes]) -> bytes:
        number = int(found.group(1))
        if number >= len(values):
            raise Refused(f"the worker sent a message without its attachment no. {number}")
        return b'"%b"' % binascii.b2a_base64(values[number], newline=False)

    # In a text of JSON the quotes would be escaped: what matches is an object.
    return _PLACEHOLDER.sub(value, text)


def _event(data: bytes) -> bytes:
    return b"%b%b]" % (_before(data[:256], lambda: data), data)


def _before(head: bytes, whole: Callable[[], bytes]) -> bytes:
    """Return what comes before a message in its event, which has the name of the command."""
    try:
        name = encoding.command_of("json", head, whole)
    except ValueError:
        name = "message"  # which HKube's worker does not listen to
    return b"42[%b," % json.dumps(name).encode()


def _before_source(source: MessageSource) -> bytes:
    try:
        head = source.read(0, min(256, source.size))
        return _before(head, lambda: source.read(0, source.size))
    except OSError:  # the sender meets it again, and handles it
        return b""


def _shown(data: bytes) -> str:
    return repr(printable(data[:_SHOWN].decode("utf-8", "replace"))) if data else "an empty message"
