"""Writes what is to be sent to the socket: what fits into a frame at once, everything else by the outbox."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable

from ..io.loop import Loop
from .connect import reason_of
from .frames import CLOSE, TURN_BYTES, frame
from .outbox import PIECE, MessageSource, Outbox, Outgoing

#: How long a small message may wait for another.
SOON_S = 0.001


class LinkSender:
    """The outbox, and the socket of the present connection that it is written to."""

    def __init__(
        self, loop: Loop, opcode: int, *, may_begin: Callable[[], bool], on_error: Callable[[str], None]
    ) -> None:
        """`opcode`: of our messages. may_begin: asked before a message is begun. on_error(reason): the
        connection is lost."""
        self._loop = loop
        self._opcode = opcode
        self._may_begin = may_begin
        self._on_error = on_error
        self.outbox = Outbox(opcode, loop.clock)
        self._socket: socket.socket | None = None
        self._not_now: tuple[type[OSError], ...] = (BlockingIOError,)
        self._more = 0
        self._held: bytes | None = None  #: a small message that waits for the next one
        self._held_frame = b""  #: its frame, made while nothing waits for it
        self._soon = loop.alarm(self._hold_no_longer)
        _keep_freed_memory()

    def use(self, sock: socket.socket, not_now: tuple[type[OSError], ...]) -> None:
        """Write to this socket; `not_now`: what it raises when it takes no more for now."""
        self._socket, self._not_now = sock, not_now
        # The kernel then fills a packet with the beginning of what follows. TLS takes no flags.
        self._more = 0 if hasattr(sock, "pending") else socket.MSG_MORE

    def detach(self) -> None:
        """The connection is gone: write nothing until there is another."""
        if self._socket is not None:
            self._loop.on_writable(self._socket, None)
            self._socket = None

    def post(
        self,
        data: bytes,
        source: MessageSource | None,
        *,
        final: bool,
        soon: bool,
        at_once: bool,
        prelude: bytes = b"",
    ) -> bool:
        """Send a message; see Link.post. `at_once`: the worker accepts messages, as it has sent one."""
        if at_once and source is None and len(data) <= PIECE and self.outbox.is_empty:
            if soon and self._held is None:
                self._held = data
                self._soon.set(SOON_S)
                self._held_frame = frame(self._opcode, data)
                return False
            if self._post_now(data, final, prelude):
                return False
        self.release_held()
        self.outbox.put(Outgoing(data, source, final, prelude))
        self.pump()
        return self.outbox.congested

    def _post_now(self, data: bytes, final: bool, prelude: bytes) -> bool:
        """Send a message in one frame, and the one that is held, without the outbox; False: queue it."""
        assert self._socket is not None, "a worker that has spoken is connected"
        held, self._held = self._held, None
        frames = frame(self._opcode, data)
        if prelude:
            frames = frame(self._opcode, prelude) + frames
        if held is not None:
            self._soon.cancel()
            first = self._held_frame
            frames = first + frames
        try:
            count = self._socket.send(frames)
        except OSError as error:
            if not isinstance(error, self._not_now) or isinstance(error, BlockingIOError):
                self._held = held
                return False  # writing from the queue meets the same error, and handles it
            # TLS has encrypted these very bytes, and takes no others before they are sent.
            self.outbox.put_cut(Outgoing(data, None, final, prelude), memoryview(frames))
            self._loop.on_writable(self._socket, self.pump)
            return True
        if count == len(frames):
            if final:
                self.outbox.keep_written(Outgoing(data, None, True, prelude))
            return True
        # The message that was written in part becomes the first of the outbox; the rest of its frame is the
        # chunk.
        if held is not None and count < len(first):
            self.outbox.put_cut(Outgoing(held, None, False), memoryview(first)[count:])
            self.outbox.put(Outgoing(data, None, final, prelude))
        else:
            self.outbox.put_cut(Outgoing(data, None, final, prelude), memoryview(frames)[count:])
        self.pump()
        return True

    def release_held(self) -> None:
        """Put what is held for the next message into the outbox."""
        if self._held is not None:
            held, self._held = self._held, None
            self._soon.cancel()
            self.outbox.put(Outgoing(held, None, False))

    def _hold_no_longer(self) -> None:
        self.release_held()
        self.pump()

    def clear(self) -> bool:
        """Forget what is not sent; return whether an old answer has begun, which must not be completed."""
        self._held = None
        return self.outbox.clear()

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be sent."""
        return self._held is None and self.outbox.idle

    def pump(self) -> None:
        """Write what the kernel takes now; the rest when it takes more."""
        sock = self._socket
        if sock is None:
            return
        outbox, written = self.outbox, 0
        try:
            while outbox.chunk or outbox.next_chunk(self._may_begin):
                count = sock.send(outbox.chunk, self._more if outbox.more_follows else 0)
                outbox.chunk = outbox.chunk[count:]
                written += count
                if written >= TURN_BYTES:
                    self._loop.on_writable(sock, self.pump)
                    return
        except self._not_now:
            self._loop.on_writable(sock, self.pump)
            return
        except OSError as error:
            self._on_error(reason_of(error))
            return
        self._loop.on_writable(sock, None)

    def ping(self, packet: bytes) -> bool:
        """Send a ping of socket.io; return False if it waits for the end of a message that is being sent."""
        if not self.outbox.ping_waits:
            self.outbox.put_ping(frame(self._opcode, packet))
            self.pump()
        return not self.outbox.ping_waits

    def say(self, data: bytes) -> None:
        """Send a last small message, unless a frame is partly written or the kernel takes it only later."""
        if self._socket is not None and not self.outbox.chunk:
            with contextlib.suppress(OSError):
                self._socket.send(frame(self._opcode, data))

    def say_close(self, code: int, reason: str = "") -> None:
        """Send a close frame, if no frame is partly written and the kernel takes it at once."""
        if self._socket is not None and not self.outbox.chunk:
            with contextlib.suppress(OSError):
                self._socket.send(frame(CLOSE, struct.pack("!H", code) + _cut(reason)))


def _cut(reason: str) -> bytes:
    """Return the reason as UTF-8, not longer than a close frame takes (RFC 6455, 5.5: 125 bytes in all)."""
    return reason.encode("utf-8", "replace")[:123].decode("utf-8", "ignore").encode()


def _keep_freed_memory() -> None:
    """Have glibc keep up to 2 MiB of freed memory, and ask the kernel only for pieces of 1 MiB and more.

    It begins with 128 KiB for both, and adapts to the largest piece that has been freed (mallopt(3)): a
    message of 100 KB had 50 page faults.
    """
    bytes(1024 * 1024)
