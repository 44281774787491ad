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
from collections.abc import Callable, Sequence

from ...sandbox.codec import attachments, codec
from ...sandbox.codec.attachments import Buffer
from ..io.loop import Loop
from ..protocol import encoding
from ..protocol.messages import Failure, printable
from .frames import BINARY, BLOB_MIN, MESSAGE_MAX, TEXT, Reader, Refused
from .message_memory import MessageMemoryPool, WorkerMessage
from .outbox import MessageSource
from .sender import LinkSender
from .socketio_greeting import Greeting, receive_greeting

#: Most attachments, which are values of bytes, in one message.
ATTACHMENTS_MAX = 100_000
#: Largest message that is sent: with its event, HKube's worker takes 100,000,000 bytes.
_MESSAGE_MAX = codec.MESSAGE_LIMIT - 64
#: Bytes of a wrong packet that a message shows.
_SHOWN = 60
_EVENT = re.compile(rb'(?:/,)?\d*\[\s*"((?:[^"\\]|\\.)*)"\s*([,\]])')
_COUNT = re.compile(rb"(\d{1,9})-")
_PLACEHOLDER = re.compile(rb'\{"_placeholder":true,"num":(\d{1,9})\}')
_PING = b"2"
_DISCONNECT = b"41"


class EventSource:
    """A large message, or one with attachments, as the packets that it is sent in."""

    def __init__(self, data: bytes, source: MessageSource | None, *, with_attachments: bool) -> None:
        """`with_attachments`: it is in the encoding socket.io. Own the source. Raises ValueError, OSError."""
        self._data, self._source = data, source
        size = len(data) if source is None else source.size
        places = attachments.split(size, self._read) if with_attachments else [(0, size)]
        _, text_size = places[0]
        count = len(places) - 1
        before = _before(self._read(0, min(256, text_size)), lambda: self._read(0, text_size), count)
        #: What is sent, one after the other: bytes, or a place in the message.
        self._segments: list[bytes | tuple[int, int]] = [before, places[0], b"]"]
        self.parts = [(TEXT, len(before) + text_size + 1)]
        for place in places[1:]:
            self._segments += [b"\x04", place]
            self.parts.append((BINARY, 1 + place[1]))
        self.size = sum(size for _, size in self.parts)

    def _read(self, offset: int, length: int) -> bytes:
        if self._source is None:
            return self._data[offset : offset + length]
        return self._source.read(offset, length) if length else b""

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly this piece. Raises OSError when it cannot be read."""
        found, at, end = [], 0, offset + length
        for segment in self._segments:
            size = len(segment) if isinstance(segment, bytes) else segment[1]
            begin, stop = max(offset - at, 0), min(end - at, size)
            if begin < stop:
                if isinstance(segment, bytes):
                    found.append(segment[begin:stop])
                else:
                    found.append(self._read(segment[0] + begin, stop - begin))
            at += size
        return b"".join(found)

    def close(self) -> None:
        """Release the message."""
        if self._source is not None:
            self._source.close()


class SocketIo:
    """The packets of the present connection."""

    def __init__(
        self,
        loop: Loop,
        blobs: MessageMemoryPool,
        sender: LinkSender,
        *,
        with_attachments: bool,
        on_message: Callable[[WorkerMessage], None],
        on_end: Callable[[str], None],
    ) -> None:
        """`with_attachments`: messages are in the encoding socket.io; otherwise json, where bytes are text.

        on_message: HKube's message has arrived. on_end(reason): the connection is to be dropped.
        """
        self._with_attachments = with_attachments
        self._blobs = blobs
        self._sender = sender
        self._on_message = on_message
        self._on_end = on_end
        self._greeting: Greeting | None = None
        self._alarm = loop.alarm(self._check_worker)
        self._awaits_pong = False
        self._was_heard = False
        self._position: tuple[int, ...] = ()  #: how much of the next message had arrived at the last ping
        self._text = b""  #: of the event whose attachments have not all arrived
        self._missing = 0  #: number of these attachments
        self._attachments: list[Buffer] = []
        self._total = 0  #: bytes of the event so far

    # ---- the connection

    def greet(self, sock: socket.socket) -> None:
        """Receive the first two packets. Runs in the connecting thread; raises Refused or OSError."""
        self._greeting = receive_greeting(sock)

    def begin(self, reader: Reader) -> None:
        """Begin with a new connection; `reader` reads it."""
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
        before = _event(prelude) if prelude else b""
        size = len(data) if source is None else source.size
        if size > _MESSAGE_MAX:
            if source is not None:
                source.close()
            return _failed("RESULT_TOO_LARGE", f"it has {size:,} bytes"), None, before
        if source is None and not data.endswith(b"\0"):
            return _event(data), None, before
        try:
            return b"", EventSource(data, source, with_attachments=self._with_attachments), before
        except (ValueError, OSError) as error:  # the child's memory, which its code can write
            if source is not None:
                source.close()
            return _failed("RESULT_INVALID", str(error)), None, before

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
        self._on_message(WorkerMessage(b"", message.blob))

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
        text, values = self._text, self._attachments
        self._forget_event()
        if self._with_attachments:
            self._pass_on(attachments.joined(text, values))
        else:
            self._pass_on([_with_texts(text, values)])

    def _pass_on(self, pieces: Sequence[Buffer]) -> None:
        """Join the pieces to one message, in the kind of memory for its size, and pass it on."""
        size = sum(map(len, pieces))
        if size < BLOB_MIN:
            self._on_message(WorkerMessage(b"".join(pieces)))
            return
        blob, at = self._blobs.new(size), 0
        for piece in pieces:
            blob.map[at : at + len(piece)] = piece
            at += len(piece)
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


def _with_texts(text: bytes, values: Sequence[Buffer]) -> bytes:
    """Return the message with base64 texts where the values of bytes belong, as codec.py has it for json."""

    def value(found: re.Match[bytes]) -> bytes:
        number = int(found.group(1))
        if number >= len(values):
            raise Refused(f"the worker sent a message without its attachment no. {number}")
        return b'"%b"' % binascii.b2a_base64(values[number], newline=False)

    # In a text of JSON the quotes would be escaped: what matches is an object.
    return _PLACEHOLDER.sub(value, text)


def _failed(code: str, reason: str) -> bytes:
    """Return the answer in place of a message that cannot be sent."""
    failure = Failure(code, f"{code}: the message cannot be sent over socket.io: {reason}")
    return _event(encoding.encode("json", failure.to_message()))


def _event(data: bytes) -> bytes:
    return b"%b%b]" % (_before(data[:256], lambda: data), data)


def _before(head: bytes, whole: Callable[[], bytes], count: int = 0) -> bytes:
    """Return what comes before a message with this many attachments in its event.

    The event has the name of the command.
    """
    try:
        name = encoding.command_of("json", head, whole)
    except ValueError:
        name = "message"  # which HKube's worker does not listen to
    return b"%b[%b," % (b"45%d-" % count if count else b"42", json.dumps(name).encode())


def _shown(data: bytes) -> str:
    return repr(printable(data[:_SHOWN].decode("utf-8", "replace"))) if data else "an empty message"
