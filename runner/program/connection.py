"""The accepted connection of a program: whole messages in both directions, never blocking.

A large message is read into a memfd, which goes on to the worker as it is; one of the worker's is written out
of its memfd.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from ...sandbox.parent.frame_sender import WAITING_MAX
from ..io.loop import Loop
from ..link.frames import BINARY, CLOSE, PING, PONG, TEXT, TURN_BYTES, Reader, Refused, server_head
from ..link.message_memory import MessageMemoryPool, WorkerMessage

#: Read what was sent before a task for at most this long: a program might write without end.
CATCH_UP_S = 0.05

OnSent = Callable[[], None]


class Piece(NamedTuple):
    """Bytes that wait to be written, and what is called once they are."""

    data: memoryview
    on_sent: OnSent | None = None


class ProgramConnection:
    """The WebSocket of one program, from its handshake to its end."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        *,
        text: bool,
        most_bytes: int,
        on_message: Callable[[WorkerMessage], None],
        is_more_due: Callable[[], bool],
        on_error: Callable[[str], None],
        on_end: Callable[[bool], None],
        on_pong: Callable[[], None] = lambda: None,
    ) -> None:
        """Own the socket; nothing is read before resume(). `text`: our messages go in text frames (json).
        `most_bytes`: of a message of the program.

        `on_message`: the message is the callee's to release. `is_more_due`: whether the program is to send
        something before it hears from us again. `on_error`: what came breaks RFC 6455, or is too
        large. `on_end(cut)`: the program has closed the connection, `cut`: amid a message.
        `on_pong`: it has answered ping().
        """
        self._loop = loop
        self._socket = sock
        self._opcode = TEXT if text else BINARY
        self._most_bytes = most_bytes
        self._is_more_due = is_more_due
        self._on_error = on_error
        self._on_end = on_end
        self._on_pong = on_pong
        self._blobs = MessageMemoryPool(loop)
        self._reader = Reader(
            self._blobs,
            on_message,
            self._on_control,
            sender="the program",
            is_client=True,
            most_bytes=most_bytes,
        )
        self._queue: deque[Piece] = deque()
        self._pong: bytes | None = None  #: the payload of a PONG that waits until the queue is empty
        self._is_reading = False
        self._is_amid_read = False  #: whether a message is being passed on
        self._is_over = False  #: nothing more will be read
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    # ---- writing

    def send(self, data: bytes | memoryview, on_sent: OnSent | None = None) -> None:
        """Send one message; `on_sent` is called once `data` is not read any more.

        Nothing is sent to a program that has closed the connection, though the kernel would take it.
        """
        if self._is_over:
            return
        head = server_head(self._opcode, len(data))
        if isinstance(data, bytes):
            self._put(Piece(memoryview(head + data), on_sent))
        else:
            # Not sendfile(), which sends references to pages: their memory is reused before they have left.
            self._put(Piece(memoryview(head)), Piece(data, on_sent))

    @property
    def is_behind(self) -> bool:
        """Whether the program reads nothing, as far as one can tell: descriptors should not wait for it."""
        return len(self._queue) >= WAITING_MAX

    def ping(self) -> None:
        """Ask the program for a pong."""
        self._put(Piece(memoryview(server_head(PING, 0))))

    def say_close(self) -> None:
        """Tell the program that nothing more will come."""
        self._put(Piece(memoryview(server_head(CLOSE, 2) + struct.pack("!H", 1000))))

    def _put(self, *pieces: Piece) -> None:
        was_idle = not self._queue
        self._queue.extend(pieces)
        if was_idle:
            self._write()

    def _write(self) -> None:
        written = 0
        try:
            while self._queue:
                piece = self._queue[0]
                count = self._socket.send(piece.data[:TURN_BYTES])
                written += count
                if count < len(piece.data):
                    self._queue[0] = piece._replace(data=piece.data[count:])
                    if written < TURN_BYTES:
                        continue
                    break
                self._queue.popleft()
                if piece.on_sent is not None:
                    piece.on_sent()
        except BlockingIOError:
            pass
        except OSError:
            self._queue.clear()  # the program is ending; the end of what it sends says so
        if self._socket.fileno() >= 0:
            self._loop.on_writable(self._socket, self._write if self._queue else None)
        if not self._queue and self._pong is not None:
            payload, self._pong = self._pong, None
            self._put(_pong(payload))

    # ---- reading

    @property
    def is_quiet(self) -> bool:
        """Whether all that the program sent was read."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def resume(self) -> None:
        """Read what comes from here on."""
        if not self._is_over and not self._is_reading:
            self._is_reading = True
            self._loop.on_readable(self._socket, self._read_turn)

    def pause(self) -> None:
        """Read nothing until resume()."""
        if self._is_reading:
            self._is_reading = False
            self._loop.on_readable(self._socket, None)

    def drain(self) -> None:
        """Read all that there is now."""
        while not self._is_over and self._read()[0]:
            pass

    def catch_up(self) -> bool:
        """Read what there is now, also while paused; return whether a message has begun and not ended."""
        end = time.monotonic() + CATCH_UP_S
        while self._read_some(while_paused=True) and time.monotonic() < end:
            pass
        return self._reader.is_amid_message

    def _read_turn(self) -> None:
        self._read_some()

    def _read_some(self, *, while_paused: bool = False) -> bool:
        """Read as much as in one turn of the loop; return whether there may be more now."""
        taken, may_be_more = 0, True
        while may_be_more and taken < TURN_BYTES and (self._is_reading or while_paused) and not self._is_over:
            count, may_be_more = self._read()
            taken += count
        return may_be_more and not self._is_over

    def _read(self) -> tuple[int, bool]:
        """Read once; return how many bytes, and whether there may be more now."""
        if self._is_amid_read:  # what a message leads to may read on: the reader is not done with that one
            return 0, False
        self._is_amid_read = True
        try:
            count, may_be_more = self._reader.receive(self._socket)
        except BlockingIOError:
            return 0, False
        except Refused as error:
            self._stop()
            self._on_error(
                f"{error}; at most {self._most_bytes:,} are taken" if error.too_large else f"{error}"
            )
            return 0, False
        except OSError:  # reset: it has ended with something unread
            count, may_be_more = 0, False
        finally:
            self._is_amid_read = False
        if not count and not self._is_over:
            self._end()
        elif count and not self._is_over and self._is_more_due():
            # A client that leaves Nagle's algorithm on sends its next small message once this one is
            # acknowledged, for which the kernel waits 40 ms; the flag holds for a while only.
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return count, may_be_more

    def _end(self) -> None:
        was_amid = self._reader.is_amid
        self._stop()
        self._on_end(was_amid)

    def _stop(self) -> None:
        self.pause()
        self._is_over = True
        self._reader.forget()

    def _on_control(self, opcode: int, payload: bytes) -> None:
        if opcode == PING and self._queue:
            # Only the latest PING needs an answer (RFC 6455, 5.5.3); a program may read none of them.
            self._pong = payload
        elif opcode == PING:
            self._put(_pong(payload))
        elif opcode == CLOSE:
            self._put(Piece(memoryview(server_head(CLOSE, len(payload[:2])) + payload[:2])))
            self._end()
        elif opcode == PONG:
            self._on_pong()
        else:
            raise Refused("the program sent a frame that RFC 6455 does not allow")

    def take_back(self) -> None:
        """Use the memory of the last answer again, which was lent: it has been sent or dropped."""
        self._blobs.take_back()

    def close(self) -> None:
        """Close the socket, and forget what was not written."""
        self._stop()
        self._queue.clear()
        self._loop.on_writable(self._socket, None)
        self._socket.close()
        self._blobs.close()


def _pong(payload: bytes) -> Piece:
    return Piece(memoryview(server_head(PONG, len(payload)) + payload))
