"""Frames of RFC 6455: makes those of a client and of a server, and reads those of either.

The payload of a large frame is received into the memory that it stays in, without a copy.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator

from ...sandbox.shared.channel import read_buffer
from ..io.lean_imports import import_late
from .message_memory import MessageMemory, MessageMemoryPool, WorkerMessage

#: A message from this size on is received into a memfd, and passed on without a copy.
BLOB_MIN = 256 * 1024
#: Largest message that is accepted. HKube's worker has no limit of its own in this direction.
MESSAGE_MAX = 2 * 1024**3
#: Read or write at most this much before the loop serves other descriptors.
TURN_BYTES = 1024 * 1024

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

#: The first byte of a message in one frame.
_WHOLE = (0x80 | TEXT, 0x80 | BINARY)


class Refused(Exception):
    """The other side's bytes break the WebSocket protocol, or are too many."""

    def __init__(self, text: str, *, too_large: bool = False) -> None:
        super().__init__(text)
        self.too_large = too_large


def _new_keys() -> Iterator[bytes]:
    """Yield masking keys that nobody can predict (RFC 6455, 5.3); one system call serves for many."""
    while True:
        random = os.urandom(1024)
        for at in range(0, len(random), 4):
            yield random[at : at + 4]


_keys = _new_keys()
#: Applies a mask in C, once prepare_masking() was called, where the wheel of websockets has that.
_apply_mask: Callable[[bytes | memoryview, bytes], bytes] | None = None


def prepare_masking() -> None:
    """Import what makes masking fast: 2 ms, once, and 20 kB."""
    global _apply_mask
    import_late("importlib.metadata")  # which websockets imports for its unreleased versions: 50 ms, 1.8 MB
    try:
        from websockets.speedups import apply_mask
    except ImportError:
        from websockets.utils import apply_mask
    _apply_mask = apply_mask


def frame(opcode: int, payload: bytes | memoryview, *, last: bool = True) -> bytes:
    """Return a masked client frame (RFC 6455, 5.2)."""
    first, length, key = opcode | 0x80 if last else opcode, len(payload), next(_keys)
    if length > 125:
        return b"".join((_head(first, length, 0x80), key, _masked(payload, key)))
    return bytes((first, 0x80 | length)) + key + _masked(payload, key)


def server_head(opcode: int, length: int) -> bytes:
    """Return what comes before the payload in the only frame of a server's message."""
    return _head(opcode | 0x80, length, 0)


def _head(first: int, length: int, mask_bit: int) -> bytes:
    if length < 126:
        return bytes((first, mask_bit | length))
    if length < 65536:
        return struct.pack("!BBH", first, mask_bit | 126, length)
    return struct.pack("!BBQ", first, mask_bit | 127, length)


def _masked(data: bytes | memoryview, key: bytes) -> bytes:
    length = len(data)
    if _apply_mask is None and length > 2048:
        prepare_masking()
    if _apply_mask is not None:
        return _apply_mask(data, key)
    # XOR of one large number: for short messages faster than importing anything.
    pad = key * (length // 4 + 1)
    number = int.from_bytes(data, "little") ^ int.from_bytes(pad[:length], "little")
    return number.to_bytes(length, "little")


class Reader:
    """Reads the other side's bytes from a socket, and passes on whole messages and control frames."""

    def __init__(
        self,
        blobs: MessageMemoryPool,
        on_message: Callable[[WorkerMessage], None],
        on_control: Callable[[int, bytes], None],
        *,
        sender: str = "the worker",
        is_client: bool = False,
        most_bytes: int = MESSAGE_MAX,
    ) -> None:
        """Both are called in the order of the bytes; either may call forget().

        `sender`: the name of the other side, for Refused. `is_client`: it masks its frames, as a client does.
        `most_bytes`: of a message.
        """
        self._blobs = blobs
        self._on_message = on_message
        self._on_control = on_control
        self._sender = sender
        self._mask_bit = 0x80 if is_client else 0
        self._most_bytes = most_bytes
        # So large that most messages below BLOB_MIN take one read.
        self._scratch = read_buffer(BLOB_MIN)
        self._scratch_view = memoryview(self._scratch)
        self.begin()

    def begin(self) -> None:
        """Forget everything of the connection before: a new one begins."""
        self._is_open = True
        self._input = bytearray()  # bytes of a frame whose header or small payload is not complete
        self._parts: bytearray | None = None  #: of a message in several frames, whose last one is to come
        self._target: MessageMemory | None = None  # the payload that is being received
        self._got = 0
        self._key = b""  #: the mask of the payload
        self._final = True

    def forget(self) -> None:
        """Drop what is incomplete: the connection is gone."""
        if self._target is not None:
            self._target.close()
        self.begin()
        self._is_open = False

    @property
    def is_amid(self) -> bool:
        """Whether part of a message or of a frame has arrived: the worker has begun to send."""
        return bool(self._input) or self._parts is not None or self._target is not None

    @property
    def is_amid_message(self) -> bool:
        """The same, but for a part of a control frame."""
        return self.is_amid and not (self._input and self._input[0] & 0x8 and self._parts is None)

    @property
    def position(self) -> tuple[int, int, int]:
        """How far the reader is in a message that is arriving: it moves on if this value changes."""
        return self._got if self._target is not None else 0, len(self._input), len(self._parts or b"")

    def receive(self, sock: socket.socket) -> tuple[int, bool]:
        """Read once; return how many bytes, 0 at the end, and whether there may be more at once.

        Raises Refused when the bytes break the protocol, and what the socket raises.
        """
        if self._target is not None:
            count = self._receive_into(sock, self._target)
            return count, bool(count)
        count = sock.recv_into(self._scratch)
        if count and (self._input or self._parts is not None or not self._took_whole(count)):
            self._input += self._scratch_view[:count]
            self._parse()
        return count, count == BLOB_MIN

    def _took_whole(self, count: int) -> bool:
        """Deal with what was read if it is one small message in one frame, which is nearly always the case,
        or begins a large one."""
        scratch, mask_bit = self._scratch, self._mask_bit
        if count < 4 or scratch[0] not in _WHOLE:
            return False
        # Without the bit of its mask it is the length alone; a wrong bit makes it too long.
        length, at = scratch[1] ^ mask_bit, 2
        if length == 126:
            length, at = scratch[2] << 8 | scratch[3], 4
        elif length == 127 and count >= 10 and not mask_bit:
            length, at = int.from_bytes(scratch[2:10], "big"), 10
            if BLOB_MIN <= length <= self._most_bytes and at + length >= count:
                self._final = True
                self._begin_large(length, self._scratch_view[at:count])
                return True
        elif length > 125:
            return False
        if mask_bit:
            at += 4
        if at + length != count:
            return False
        payload = scratch[at:count]
        if mask_bit:
            payload = _masked(payload, scratch[at - 4 : at])
        self._on_message(WorkerMessage(payload))
        return True

    def _begin_large(self, length: int, beginning: bytes | memoryview) -> None:
        """Receive a large payload into memory of its own from here on, or pass it on if it is all there."""
        blob, there = self._blobs.new(length), len(beginning)
        blob.map[:there] = beginning
        if self._key:
            blob.is_ascii = True  # as far as it is there
            with memoryview(blob.map)[:there] as view:
                self._unmask(blob, view, 0)
        if there < length:
            self._target, self._got = blob, there
        else:
            self._whole(blob)

    def _receive_into(self, sock: socket.socket, blob: MessageMemory) -> int:
        view = memoryview(blob.map)[self._got : min(blob.size, self._got + TURN_BYTES)]
        try:
            count = sock.recv_into(view)
            if self._key and count:
                self._unmask(blob, view[:count], self._got)
        finally:
            view.release()
        self._got += count
        if self._got == blob.size:
            self._target = None
            self._whole(blob)
        return count

    def _unmask(self, blob: MessageMemory, part: memoryview, offset: int) -> None:
        """Remove the mask from a part of the payload, which begins this far into it; note what it is."""
        turn = offset & 3
        plain = _masked(part, self._key[turn:] + self._key[:turn])
        blob.is_ascii = blob.is_ascii and plain.isascii()
        part[:] = plain

    def _parse(self) -> None:
        """Remove the complete frames from the input, and pass them on."""
        data = self._input
        while self._is_open and len(data) >= 2:
            first, second = data[0], data[1]
            if second & 0x80 != self._mask_bit or first & 0x70:
                raise Refused(f"{self._sender} sent a frame that RFC 6455 does not allow")
            length, at = second & 0x7F, 2
            if length == 126:
                if len(data) < 4:
                    return
                length, at = int.from_bytes(data[2:4], "big"), 4
            elif length == 127:
                if len(data) < 10:
                    return
                length, at = int.from_bytes(data[2:10], "big"), 10
            if length > self._most_bytes:
                text = f"{self._sender} announced a message of {length:,} bytes"
                raise Refused(text, too_large=True)
            if self._mask_bit:
                if len(data) < at + 4:
                    return
                self._key = bytes(data[at : at + 4])
                at += 4
            opcode = first & 0x0F
            self._final = bool(first & 0x80)
            if opcode & 0x8:
                if length > 125 or not self._final:
                    raise Refused(f"{self._sender} sent a control frame that RFC 6455 does not allow")
            elif (opcode == CONTINUATION) != (self._parts is not None) or opcode > BINARY:
                raise Refused(f"{self._sender} mixed up the frames of its messages")
            elif length >= BLOB_MIN:
                beginning = bytes(data[at : at + length])
                del data[: at + length]
                self._begin_large(length, beginning)
                if self._target is not None:
                    return
                continue
            end = at + length
            if len(data) < end:
                return
            payload = bytes(data[at:end])
            if self._key:
                payload = _masked(payload, self._key)
            del data[:end]
            if opcode & 0x8:
                self._on_control(opcode, payload)
            else:
                self._whole(payload)

    def _whole(self, payload: bytes | MessageMemory) -> None:
        """Pass on the message of a complete data frame, or wait for its other frames."""
        parts = self._parts
        if self._final and parts is None:
            self._deliver(payload)
            return
        if parts is None:
            parts = self._parts = bytearray()
        # Together: an object, or a descriptor, for each of a million frames would be too many.
        if isinstance(payload, MessageMemory):
            with payload.view() as view:
                parts += view
            payload.release()
        else:
            parts += payload
        if len(parts) > self._most_bytes:
            text = f"{self._sender} sent a message of more than {self._most_bytes:,} bytes"
            raise Refused(text, too_large=True)
        if self._final:
            self._parts = None
            self._deliver(self._in_memory(parts))

    def _in_memory(self, parts: bytearray) -> bytes | MessageMemory:
        if len(parts) < BLOB_MIN:
            return bytes(parts)
        blob = self._blobs.new(len(parts))
        blob.map[: len(parts)] = parts
        return blob

    def _deliver(self, payload: bytes | MessageMemory) -> None:
        self._on_message(
            WorkerMessage(b"", payload) if isinstance(payload, MessageMemory) else WorkerMessage(payload)
        )
