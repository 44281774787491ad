"""A link to a worker that the test plays in the same thread, with a clock that the test turns."""

from __future__ import annotations

import _thread
import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator

from hkrunner.runner.io.loop import Loop
from hkrunner.runner.link.connection import ConnectionState, Link, WorkerMessage
from websockets.utils import accept_key, apply_mask

from .clock import Clock
from .ports import HeldPort
from .worker_wire import CONTINUATION, TEXT, frame

PONG = 10
DEADLINE_S = 10.0
#: What the link and the test speak: ws, or socketio.
transport = "ws"
#: With socketio: messages are in the encoding socket.io.
with_attachments = False
#: The first two packets of a worker that serves socket.io.
GREETING = (b'0{"sid":"a","upgrades":[],"pingInterval":60000,"pingTimeout":30000}', b"40")


def text(payload: bytes) -> bytes:
    """Return what brings the link this message."""
    return frame(TEXT, payload if transport == "ws" else b'42["command",%b]' % payload)


class Listener:
    """Records its calls."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.kinds: list[str] = []
        self.opened = 0
        self.drops: list[str] = []
        self.resumed: list[bool] = []
        self.lost = 0
        self.link: Link | None = None
        self.on_task: Callable[[bytes], None] | None = None
        self.unreachable: list[str] = []
        self.given_up: list[str] = []

    def on_link_open(self) -> None:
        self.opened += 1

    def on_link_message(self, message: WorkerMessage) -> None:
        self.kinds.append("bytes" if message.blob is None else "blob")
        assert message.whole().startswith(message.head)
        self.messages.append(message.whole())
        message.release()
        if self.link is not None and self.messages[-1] != b"noise":
            self.link.worker_spoke()
        if self.on_task is not None:
            self.on_task(self.messages[-1].removeprefix(b"task "))

    def on_link_answer_lost(self, why: str) -> None:
        self.lost += 1

    def on_link_drop(self, reason: str) -> None:
        self.drops.append(reason)

    def on_link_resumed(self, *, all_written: bool) -> None:
        self.resumed.append(all_written)

    def on_link_unreachable(self, reason: str) -> None:
        self.unreachable.append(reason)

    def on_link_given_up(self, reason: str) -> None:
        self.given_up.append(reason)


class Wire:
    """The server's end of a connection."""

    def __init__(self, world: World, sock: socket.socket) -> None:
        self.world = world
        self.sock = sock
        self.data = bytearray()

    def send(self, data: bytes) -> None:
        """Send, and let the link read as it goes."""
        self.sock.setblocking(False)
        view = memoryview(data)
        while view:
            with contextlib.suppress(BlockingIOError):
                view = view[self.sock.send(view) :]
            self.world.turn()

    def frame(self) -> tuple[int, bool, bytes]:
        """Return the next frame of the link: opcode, whether it is the last of its message, payload."""
        self._read(2)
        assert self.data[1] & 0x80, "a client masks its frames"
        length, at = self.data[1] & 0x7F, 2
        if length >= 126:
            at = 4 if length == 126 else 10
            self._read(at)
            length = int.from_bytes(self.data[2:at], "big")
        self._read(at + 4 + length)
        payload = apply_mask(bytes(self.data[at + 4 : at + 4 + length]), bytes(self.data[at : at + 4]))
        first = self.data[0]
        del self.data[: at + 4 + length]
        return first & 0x0F, bool(first & 0x80), payload

    def message(self) -> bytes:
        """Return the next whole message, without what the transport has around it."""
        whole = self.whole(TEXT)
        if transport == "ws":
            return whole
        assert whole.startswith(b'42["') and whole.endswith(b"]"), whole[:100]
        return whole[whole.index(b",") + 1 : -1]

    def whole(self, kind: int) -> bytes:
        """Return the next whole message of the WebSocket, as it is."""
        parts, last = [], False
        while not last:
            opcode, last, payload = self.frame()
            assert opcode == (CONTINUATION if parts else kind)
            parts.append(payload)
        return b"".join(parts)

    def _read(self, size: int) -> None:
        def there() -> bool:
            with contextlib.suppress(BlockingIOError):
                data = self.sock.recv(1024 * 1024)
                assert data, "the link has closed the connection"
                self.data += data
            return len(self.data) >= size

        self.sock.setblocking(False)
        if len(self.data) < size:
            self.world.until(there, f"{size} bytes of the link")

    def is_silent(self) -> bool:
        """Nothing has come, also after the loop had its turns."""
        for _ in range(5):
            self.world.turn()
        self.sock.setblocking(False)
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return not self.data
        return False  # there is something, or the end

    def has_ended(self) -> bool:
        """The link has closed its end."""
        self.sock.setblocking(False)
        try:
            while data := self.sock.recv(65536):
                self.data += data
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """End it as the kernel does for a process that leaves something unread."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class World:
    """A loop, a link, and a listening socket."""

    def __init__(self, connect_timeout_s: float | None = None) -> None:
        self.clock = Clock()
        self.loop = Loop(clock=self.clock)
        self.listener = Listener()
        self._held = HeldPort()
        self.server: socket.socket | None = self._held.listen()
        self.address = self.server.getsockname()
        self.wires: list[Wire] = []
        self._threads = _thread._count()
        self.ticks = False  #: pauses between two tries pass by themselves
        url = f"ws://127.0.0.1:{self.address[1]}?storage=v1&encoding=json"
        self.link = Link(
            self.loop,
            self.listener,
            url,
            text=True,
            connect_timeout_s=connect_timeout_s,
            transport=transport,
            with_attachments=with_attachments,
        )
        self.listener.link = self.link

    def turn(self) -> None:
        self.loop.turn(0)

    def until(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end, f"{what}: not within {DEADLINE_S:g} s"
            if self.ticks and self.link.state is ConnectionState.BACKOFF:
                self.clock.now += 0.005
            self.loop.turn(0.001)

    def accept(self) -> Wire:
        """Play the server's part of the handshake."""
        opened = self.listener.opened
        wire = self.accept_socket()
        if transport == "socketio":
            wire.sock.sendall(b"".join(frame(TEXT, one) for one in GREETING))
        self.until(lambda: self.listener.opened > opened, "an open link")
        return wire

    def accept_socket(self) -> Wire:
        """Play the server's part of the WebSocket's handshake."""
        wire = self.accept_raw()
        request = wire.data
        key = next(
            line for line in bytes(request).split(b"\r\n") if line.lower().startswith(b"sec-websocket-key")
        )
        accepted = accept_key(key.split(b":", 1)[1].strip().decode())
        wire.data.clear()
        wire.sock.sendall(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accepted}\r\n\r\n".encode()
        )
        return wire

    def accept_raw(self) -> Wire:
        """Take a connection and its request, and answer nothing."""
        assert self.server is not None
        self.server.setblocking(False)
        found: list[socket.socket] = []

        def accepted() -> bool:
            with contextlib.suppress(BlockingIOError):
                found.append(self.server.accept()[0])  # type: ignore[union-attr]
            return bool(found)

        self.until(accepted, "a connection")
        found[0].setblocking(True)
        wire = Wire(self, found[0])
        self.wires.append(wire)
        while b"\r\n\r\n" not in wire.data:
            data = found[0].recv(4096)
            assert data, "the link has closed the connection"
            wire.data += data
        return wire

    def nobody_knocks(self) -> bool:
        """No connection is waiting."""
        assert self.server is not None
        for _ in range(5):
            self.turn()
        self.server.setblocking(False)
        try:
            self.server.accept()[0].close()
        except BlockingIOError:
            return True
        return False

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.turn()

    def refuse(self) -> None:
        """Close the listening socket."""
        assert self.server is not None
        self.server.close()
        self.server = None

    def listen(self) -> None:
        """Listen at the same port again."""
        self.server = self._held.listen()

    def restart(self) -> None:
        """Another worker listens, so soon that no connection was refused."""
        self.refuse()
        self.listen()

    def close(self) -> None:
        self.link.close()
        for wire in self.wires:
            wire.close()
        if self.server is not None:
            self.server.close()
        self._held.close()
        # A thread that was connecting hands its socket over before the loop goes.
        end = time.monotonic() + DEADLINE_S
        while _thread._count() > self._threads and time.monotonic() < end:
            self.loop.turn(0.001)
        self.turn()
        self.loop.close()


@contextlib.contextmanager
def connected(connect_timeout_s: float | None = None) -> Iterator[tuple[World, Wire]]:
    """A link that is open, and has not heard anything yet."""
    world = World(connect_timeout_s)
    try:
        world.link.open()
        yield world, world.accept()
    finally:
        world.close()


@contextlib.contextmanager
def conversing() -> Iterator[tuple[World, Wire]]:
    """A link that has heard a message."""
    with connected() as (world, wire):
        wire.send(text(b"hello"))
        world.until(lambda: world.listener.messages == [b"hello"], "the first message")
        world.listener.messages.clear()
        world.listener.kinds.clear()
        yield world, wire
