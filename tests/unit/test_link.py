"""The link, with a server played by the test in the same thread, and a clock that the test turns."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hkrunner.runner.io.loop import Loop
from hkrunner.runner.link import connection as links
from hkrunner.runner.link.connection import SETTLE_S, SILENT_S, ConnectionState, Link, WorkerMessage
from hkrunner.runner.link.identity import RESTART_S, listener_of, listening_at
from hkrunner.runner.link.sender import SMALL, SOON_S
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clock import Clock
from support.scripted_worker import BINARY, CLOSE, CONTINUATION, PING, TEXT, frame
from websockets.utils import accept_key, apply_mask

PONG = 10
DEADLINE_S = 10.0


class Listener:
    """Keeps what it is told."""

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

    def on_link_answer_lost(self) -> None:
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
        """Return the next whole message."""
        parts, last = [], False
        while not last:
            opcode, last, payload = self.frame()
            assert opcode == (CONTINUATION if parts else TEXT)
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
            return not self.data and self.sock.recv(1, socket.MSG_PEEK) == b"?"
        except BlockingIOError:
            return not self.data

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
        self.server: socket.socket | None = socket.create_server(("127.0.0.1", 0))
        self.address = self.server.getsockname()
        self.wires: list[Wire] = []
        self.ticks = False  #: pauses between two tries pass by themselves
        url = f"ws://127.0.0.1:{self.address[1]}?storage=v1&encoding=json"
        self.link = Link(self.loop, self.listener, url, text=True, connect_timeout_s=connect_timeout_s)
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
        assert self.server is not None
        opened = self.listener.opened
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
        self.until(lambda: self.listener.opened > opened, "an open link")
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
            wire.data += found[0].recv(4096)
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
        """From here on nobody listens."""
        assert self.server is not None
        self.server.close()
        self.server = None

    def listen(self) -> None:
        """Somebody listens at the port again."""
        self.server = socket.create_server(self.address)

    def restart(self) -> None:
        """Another worker listens, so soon that nobody was refused."""
        self.refuse()
        self.listen()

    def close(self) -> None:
        self.link.close()
        for wire in self.wires:
            wire.close()
        if self.server is not None:
            self.server.close()
        # A thread that was connecting hands its socket over before the loop goes.
        end = time.monotonic() + DEADLINE_S
        while any(t.name == "hkrunner-connect" for t in threading.enumerate()) and time.monotonic() < end:
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
        wire.send(frame(TEXT, b"hello"))
        world.until(lambda: world.listener.messages == [b"hello"], "the first message")
        world.listener.messages.clear()
        world.listener.kinds.clear()
        yield world, wire


# ---- who speaks first


def test_nothing_is_sent_before_the_worker_has_spoken() -> None:
    with connected() as (world, wire):
        world.link.post(b"early")
        assert wire.is_silent()
        wire.send(frame(TEXT, b"hello"))
        assert wire.message() == b"early"


def test_a_ping_before_the_first_message_is_answered_and_is_no_speaking() -> None:
    with connected() as (world, wire):
        world.link.post(b"early")
        wire.send(frame(PING, b"there?"))
        assert wire.frame() == (PONG, True, b"there?")
        assert wire.is_silent()


def test_noise_before_the_first_message_is_no_speaking() -> None:
    with connected() as (world, wire):
        world.link.post(b"early")
        wire.send(frame(TEXT, b"noise"))
        world.until(lambda: world.listener.messages, "the noise")
        assert wire.is_silent()


def test_the_same_worker_gets_an_answer_at_once_and_nothing_else() -> None:
    with conversing() as (world, wire):
        wire.close()
        world.until(lambda: world.listener.drops, "the drop")
        world.link.post(b"progress")
        world.link.post(b"undelivered", final=True)
        again = world.accept()
        assert again.message() == b"undelivered"
        world.link.post(b"alive")
        assert again.is_silent() and not world.link.is_open


def test_a_silent_worker_whose_port_was_never_closed_gets_what_waits_after_a_moment() -> None:
    with conversing() as (world, wire):
        wire.close()
        world.until(lambda: world.listener.drops, "the drop")
        again = world.accept()
        world.link.post(b"call")
        world.pass_time(SILENT_S - 0.01)
        assert again.is_silent() and world.listener.resumed == []
        world.pass_time(0.02)
        assert again.message() == b"call"
        assert world.listener.resumed == [True]
        world.link.post(b"alive")
        assert again.message() == b"alive"


def away_and_back(world: World, wire: Wire) -> Wire:
    """Drop the connection, refuse a try at least, and listen at the same port again."""
    world.refuse()
    wire.close()
    world.until(lambda: world.listener.unreachable, "a refused try")
    world.listen()
    world.pass_time(0.1)
    return world.accept()


def test_a_worker_that_was_away_may_be_another_one_and_has_to_speak_first() -> None:
    with conversing() as (world, wire):
        again = away_and_back(world, wire)
        world.link.post(b"call")
        world.pass_time(SILENT_S + 0.1)
        assert again.is_silent() and world.listener.resumed == []
        again.sock.sendall(frame(TEXT, b"a word"))
        assert again.message() == b"call"


def test_an_answer_is_not_for_a_worker_that_was_away_whatever_it_says() -> None:
    with conversing() as (world, wire):
        again = away_and_back(world, wire)
        world.link.post(b"undelivered", final=True)
        world.link.post(b"of the next task")
        world.pass_time(SILENT_S + 0.1)
        assert again.is_silent()
        again.sock.sendall(frame(TEXT, b"a word"))
        assert again.message() == b"of the next task"
        assert world.listener.lost == 1 and again.is_silent()


def test_a_worker_that_was_started_anew_at_once_is_another_one() -> None:
    with conversing() as (world, wire):
        world.restart()
        wire.close()
        world.until(lambda: world.listener.drops, "the drop")
        world.link.post(b"undelivered", final=True)
        again = world.accept()
        world.pass_time(SILENT_S + 0.1)
        assert world.listener.unreachable == [] and again.is_silent()


def test_an_answer_waits_for_the_word_of_a_worker_that_is_speaking_already() -> None:
    word = frame(TEXT, b"x" * 70_000)
    with conversing() as (world, wire):
        wire.close()
        world.until(lambda: world.listener.drops, "the drop")
        again = world.accept()
        again.send(word[:1000])
        world.link.post(b"undelivered", final=True)
        world.pass_time(SILENT_S + 0.1)
        assert again.is_silent() and world.listener.resumed == []
        world.link.clear()
        again.send(word[1000:])
        assert again.is_silent() and world.listener.lost == 1


def test_a_worker_that_never_spoke_gets_no_answer_of_an_old_task_after_its_first_drop() -> None:
    with conversing() as (world, wire):
        wire.close()
        world.until(lambda: world.listener.drops, "the drop")
        world.clock.now += RESTART_S
        again = world.accept()
        world.link.post(b"undelivered", final=True)
        assert again.is_silent()
        again.close()
        world.until(lambda: len(world.listener.drops) == 2, "the second drop")
        world.pass_time(0.1)
        assert world.accept().is_silent()


def test_a_worker_that_was_away_and_drops_once_more_is_still_not_the_same() -> None:
    with conversing() as (world, wire):
        away_and_back(world, wire).close()
        world.until(lambda: len(world.listener.drops) == 2, "the second drop")
        world.pass_time(0.1)
        again = world.accept()
        world.link.post(b"call")
        world.pass_time(SILENT_S + 0.1)
        assert again.is_silent()


def test_who_was_made_to_wait_is_relieved_when_what_waits_is_forgotten() -> None:
    relieved: list[bool] = []
    with conversing() as (world, wire):
        wire.close()
        world.until(lambda: world.listener.drops, "the drop")
        while not world.link.post(b"x" * 100_000):
            pass
        world.link.on_relieved = lambda: relieved.append(True)
        world.link.clear()
        assert relieved == [True] and world.link.on_relieved is None


def test_an_answer_that_has_not_left_this_machine_is_sent_again_however_old_it_is() -> None:
    with conversing() as (world, wire):
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        payload = b"x" * 400_000
        world.link.post(payload, final=True)
        world.until(lambda: world.link.idle, "an answer that the kernel has taken")
        world.clock.now += 10.0
        wire.reset()
        world.until(lambda: world.listener.drops, "the drop")
        assert world.accept().message() == payload


@pytest.mark.parametrize("speaks", [False, True])
def test_a_last_answer_is_sent_again_unless_the_worker_speaks_at_the_last_moment(speaks: bool) -> None:
    with conversing() as (world, wire):
        world.link.post(b"done", final=True)
        assert wire.message() == b"done"
        wire.reset()
        world.until(lambda: world.listener.drops, "the drop")
        again = world.accept()
        assert again.is_silent()
        if speaks:
            again.sock.sendall(frame(TEXT, b"next task"))
        world.link._send_again()  # the loop has not looked at the socket since
        assert again.is_silent() if speaks else again.message() == b"done"
        assert world.listener.messages == [b"next task"] * speaks


def test_nothing_is_said_again_once_the_worker_has_spoken() -> None:
    with conversing() as (world, wire):
        world.link.post(b"done", final=True)
        assert wire.message() == b"done"
        wire.reset()
        world.until(lambda: world.listener.drops, "the drop")
        again = world.accept()
        again.send(frame(TEXT, b"next task"))
        world.until(lambda: world.listener.messages, "the next task")
        world.link.post(b"next answer", final=True)
        assert again.message() == b"next answer"
        world.pass_time(SETTLE_S + 0.1)
        assert again.is_silent()


def test_back_late_the_worker_has_to_speak_first() -> None:
    with conversing() as (world, wire):
        wire.close()
        world.until(lambda: world.listener.drops, "the drop")
        world.link.post(b"undelivered")
        world.clock.now += RESTART_S
        again = world.accept()
        assert again.is_silent()
        again.send(frame(TEXT, b"hello"))
        assert again.message() == b"undelivered"


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::", "::1"])
def test_the_socket_that_took_a_connection_is_known_by_its_number(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, dualstack_ipv6=host == "::") as server:
        port = server.getsockname()[1]
        with socket.create_connection(("::1" if host == "::1" else "127.0.0.1", port)) as sock:
            before = listening_at(port)
            assert listener_of(sock, port, before) == os.fstat(server.fileno()).st_ino
            assert listener_of(sock, port + 1, before) is None
            assert listener_of(sock, port, frozenset()) is None


def test_of_two_sockets_at_one_port_none_is_known_to_have_taken_a_connection() -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as first:
        port = first.getsockname()[1]
        with (
            socket.create_server(("127.0.0.1", port), reuse_port=True),
            socket.create_connection(("127.0.0.1", port)) as sock,
        ):
            assert listener_of(sock, port, listening_at(port)) is None


# ---- whose answer it is


class Workers:
    """Workers at one port, one life after the other, which hand out tasks and hear answers."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.life = 0
        self.task = (0, 0)  #: the last one this worker has handed out
        self.ours: tuple[int, int] | None = None  #: the one we work on
        self.answered: tuple[int, int] | None = None  #: the last one that we have an answer for
        self.heard: tuple[int, int] | None = None
        self.is_known = False  #: what is said on this connection is for this worker
        world.listener.on_task = self._begin
        world.ticks = True
        world.link.open()
        self.wire = world.accept()

    def hand_out(self) -> None:
        """This worker says what the next task is."""
        self.listen()
        self.task = (self.life, self.task[1] + 1)
        self.wire.send(frame(TEXT, b"task %d %d" % self.task))
        self.world.until(lambda: self.ours == self.task, "the task")
        self.is_known = True

    def _begin(self, words: bytes) -> None:
        life, number = words.split()
        self.ours = (int(life), int(number))
        self.world.link.clear()

    def answer(self) -> None:
        """Our task ends, whoever is there now."""
        if self.ours is not None:
            self.answered, self.ours = self.ours, None
            self.world.link.post(b"%d %d" % self.answered, final=True)

    def listen(self) -> None:
        """Hear what has come: it has to be the answer to what this worker has handed out last."""
        for _ in range(3):
            self.world.turn()
        while not self.wire.is_silent():
            life, number = self.wire.message().split()
            self.heard = (int(life), int(number))
            assert self.heard == self.task, "another task's answer"

    def drop(self, way: str, after_s: float, *, unread: bool, reset: bool) -> None:
        """End the connection, and have the same worker or another one take the next."""
        world, listener = self.world, self.world.listener
        if not unread:
            self.listen()
        drops, failures, was_known = len(listener.drops), len(listener.unreachable), self.is_known
        if way == "refuses":
            world.refuse()
        elif way == "restarts":
            world.restart()
        (self.wire.reset if reset else self.wire.close)()
        world.until(lambda: len(listener.drops) > drops, "the drop")
        dropped_at = world.clock.now
        if way == "restarts unseen":
            after_s += RESTART_S  # behind a port that only passes on; as long as it takes at least
        if way == "refuses":
            world.until(lambda: len(listener.unreachable) > failures, "a refused try")
            world.listen()
        if way != "stays":
            self.life, self.task, self.heard = self.life + 1, (0, 0), None
        world.clock.now += after_s
        self.wire = world.accept()
        came_back_s = world.clock.now - dropped_at
        self.is_known = was_known and way == "stays" and came_back_s < RESTART_S

    def has_its_answer(self) -> bool:
        """The worker that is certainly the same is not left without the answer to its task."""
        return not self.is_known or self.answered != self.task or self.heard == self.task


drops = st.tuples(
    st.sampled_from(["stays", "stays", "restarts", "restarts unseen", "refuses"]),
    st.sampled_from([0.0, 0.01, RESTART_S - 0.05, RESTART_S, 2.0]),
    st.booleans(),
    st.booleans(),
)
waits = st.sampled_from([0.01, SETTLE_S, SILENT_S, 3.0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.just("hand out") | st.just("answer") | waits | drops, max_size=12))
def test_no_worker_ever_hears_the_answer_to_a_task_that_it_has_not_handed_out(
    steps: list[str | float | tuple[str, float, bool, bool]],
) -> None:
    world = World()
    try:
        workers = Workers(world)
        workers.hand_out()
        for step in steps:
            if step == "hand out":
                workers.hand_out()
            elif step == "answer":
                workers.answer()
            elif isinstance(step, tuple):
                way, after_s, unread, reset = step
                workers.drop(way, after_s, unread=unread, reset=reset)
            elif isinstance(step, float):
                world.pass_time(step)
                workers.listen()
        workers.listen()
        world.pass_time(SETTLE_S)
        workers.listen()
        assert workers.has_its_answer()
    finally:
        world.close()


# ---- receiving


SIZES = [0, 1, 125, 126, 65535, 65536, links.BLOB_MIN - 1, links.BLOB_MIN, links.BLOB_MIN + 1, 3_000_000]


@pytest.mark.parametrize("size", SIZES)
def test_a_message_of_any_size_arrives_as_it_is(size: int) -> None:
    payload = os.urandom(size)
    with conversing() as (world, wire):
        wire.send(frame(TEXT, payload) + frame(TEXT, b"after"))
        world.until(lambda: len(world.listener.messages) == 2, "both messages")
        assert world.listener.messages == [payload, b"after"]
        assert world.listener.kinds == ["blob" if size >= links.BLOB_MIN else "bytes", "bytes"]


def test_frames_may_be_cut_at_every_byte() -> None:
    data = frame(TEXT, b"a") + frame(PING, b"p") + frame(BINARY, b"x" * 130) + frame(TEXT, b"")
    with conversing() as (world, wire):
        for at in range(1, len(data)):
            world.listener.messages.clear()
            wire.send(data[:at])
            wire.send(data[at:])
            world.until(lambda: len(world.listener.messages) == 3, "the messages")
            assert world.listener.messages == [b"a", b"x" * 130, b""]
            assert wire.frame() == (PONG, True, b"p")


piece = st.integers(0, 3) | st.integers(120, 130) | st.just(links.BLOB_MIN + 7) | st.integers(0, 70_000)


@settings(max_examples=40)
@given(
    sizes=st.lists(piece, min_size=1, max_size=6),
    pings=st.booleans(),
    cuts=st.lists(st.integers(1, 100_000), max_size=8),
)
def test_a_message_may_come_in_any_fragments_and_any_packets(
    sizes: list[int], pings: bool, cuts: list[int]
) -> None:
    parts = [bytes([65 + i]) * size for i, size in enumerate(sizes)]
    data = b""
    for i, part in enumerate(parts):
        data += frame(TEXT if i == 0 else CONTINUATION, part, last=i == len(parts) - 1)
        if pings and i < len(parts) - 1:
            data += frame(PING, bytes([i]))
    with conversing() as (world, wire):
        at = 0
        for cut in sorted(cut % len(data) for cut in cuts):
            wire.send(data[at:cut])
            at = max(at, cut)
        wire.send(data[at:])
        world.until(lambda: world.listener.messages, "the message")
        assert world.listener.messages == [b"".join(parts)]
        for i in range(len(parts) - 1 if pings else 0):
            assert wire.frame() == (PONG, True, bytes([i]))


@pytest.mark.parametrize(
    "data",
    [
        frame(TEXT, b"x")[:1] + b"\x81\0\0\0\0x",
        b"\xc1\x01x",
        frame(3, b"x"),
        frame(0xB, b"x"),
        frame(CONTINUATION, b"x"),
        frame(TEXT, b"x", last=False) + frame(TEXT, b"y"),
        frame(PING, b"x", last=False),
        frame(PING, b"x" * 126),
        b"\x81\x7f" + struct.pack("!Q", links.MESSAGE_MAX + 1),
    ],
    ids=[
        *("masked", "reserved bit", "unknown opcode", "unknown control frame", "continuation of nothing"),
        *("message in a message", "ping in pieces", "large ping", "too large"),
    ],
)
def test_what_rfc_6455_forbids_ends_the_connection_and_begins_another(data: bytes) -> None:
    with conversing() as (world, wire):
        wire.send(data)
        world.until(lambda: world.listener.drops, "the drop")
        world.until(wire.has_ended, "the end of the connection")
        assert not world.listener.messages
        again = world.accept()
        again.send(frame(TEXT, b"well"))
        world.until(lambda: world.listener.messages == [b"well"], "the next message")


# ---- posting


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, links.PIECE, links.PIECE + 1, 5_000_000])
def test_a_post_of_any_size_is_masked_and_whole(size: int) -> None:
    payload = os.urandom(size)
    with conversing() as (world, wire):
        world.link.post(payload)
        world.link.post(b"after")
        assert wire.message() == payload
        assert wire.message() == b"after"
        assert world.link.idle


def test_a_pong_goes_between_the_pieces_of_a_large_post() -> None:
    with conversing() as (world, wire):
        world.link.post(b"x" * 20_000_000)
        wire.sock.setblocking(True)
        wire.sock.sendall(frame(PING, b"now"))
        opcodes = []
        last = False
        while not last:
            opcode, final, _ = wire.frame()
            opcodes.append(opcode)
            last = final and opcode != PONG
        assert PONG in opcodes[:-1]


def test_a_worker_that_does_not_read_holds_the_loop_up_for_no_time() -> None:
    with conversing() as (world, _):
        world.link.post(b"x" * 50_000_000)
        began = time.monotonic()
        for _ in range(100):
            world.turn()
        assert time.monotonic() - began < 1
        assert not world.link.idle


def test_a_post_that_was_cut_goes_out_again_whole() -> None:
    payload = os.urandom(10_000_000)
    with conversing() as (world, wire):
        world.link.post(payload)
        world.link.post(b"after")
        wire.frame()
        wire.close()
        world.until(lambda: world.listener.drops, "the drop")
        again = world.accept()
        world.pass_time(SILENT_S)
        assert again.message() == payload
        assert again.message() == b"after"


def test_a_source_is_closed_once_it_is_sent_or_cleared() -> None:
    class Source:
        size = 300_000
        closed = 0

        def read(self, offset: int, length: int) -> bytes:
            return b"s" * length

        def close(self) -> None:
            self.closed += 1

    sent, cleared, closed = Source(), Source(), Source()
    with conversing() as (world, wire):
        world.link.post(b"", sent)
        assert wire.message() == b"s" * 300_000
        wire.close()
        world.until(lambda: world.listener.drops, "the drop")
        world.link.post(b"", cleared)
        world.link.clear()
        assert cleared.closed == 1
        world.link.close()
        world.link.post(b"", closed)
        assert closed.closed == 1
    assert sent.closed == 1


def test_clear_forgets_what_was_not_begun() -> None:
    with conversing() as (world, wire):
        wire.close()
        world.until(lambda: world.listener.drops, "the drop")
        world.link.post(b"of an old task")
        world.link.clear()
        again = world.accept()
        again.send(frame(TEXT, b"new"))
        world.link.post(b"new")
        assert again.message() == b"new"


# ---- coming back


@pytest.mark.parametrize("code", [1000, 1001, 1009, 1011, 1013, 3000])
def test_a_close_is_answered_and_the_next_connection_made(code: int) -> None:
    with conversing() as (world, wire):
        wire.send(frame(CLOSE, struct.pack("!H", code) + b"why"))
        assert wire.frame()[2][:2] == struct.pack("!H", code)
        world.until(wire.has_ended, "the end of the connection")
        assert str(code) in world.listener.drops[0]
        assert "why" in world.listener.drops[0]
        world.accept()


def test_the_first_socket_is_closed_before_the_second_is_opened() -> None:
    with conversing() as (world, wire):
        for _ in range(20):
            wire.send(frame(CLOSE, struct.pack("!H", 1001)))
            again = world.accept()
            assert wire.has_ended()
            again.send(frame(TEXT, b"hello"))
            world.turn()
            wire = again


def test_refused_connections_are_tried_again_with_growing_bounded_pauses_for_ever() -> None:
    world = World()
    try:
        world.refuse()
        world.link.open()
        pauses = []
        for number in range(1, 40):
            world.until(lambda n=number: len(world.listener.unreachable) >= n, "a try")  # type: ignore[misc]
            waited = 0.0
            while world.link.state is ConnectionState.BACKOFF:
                world.pass_time(0.005)
                waited += 0.005
                assert waited < 5, "it does not try any more"
            pauses.append(waited)
        assert sum(pauses[:4]) <= 0.2
        assert max(pauses) <= 1.25
        assert min(pauses[-20:]) >= 0.75
        assert set(world.listener.unreachable) == {"connection refused"}
    finally:
        world.close()


def test_the_connect_timeout_holds_for_a_server_that_answers_in_small_pieces() -> None:
    world = World(connect_timeout_s=3.0)
    try:
        world.link.open()
        wire = world.accept_raw()
        for byte in b"HTTP/1.1 ":
            wire.sock.sendall(bytes([byte]))
            world.pass_time(0.1)
        assert not world.listener.given_up
        world.pass_time(3.0)
        assert world.listener.given_up == ["no answer in time"]
        world.until(wire.has_ended, "the end of the connection")
    finally:
        world.close()


def test_a_handshake_without_an_end_is_given_up_before_the_next_one_begins() -> None:
    world = World()
    try:
        world.link.open()
        first = world.accept_raw()
        world.pass_time(10.1)
        world.until(first.has_ended, "the end of the first connection")
        assert world.listener.unreachable == ["no answer in time"]
        world.pass_time(1.0)
        world.accept()
        assert world.link.state is ConnectionState.OPEN
    finally:
        world.close()


def test_a_message_in_a_hundred_thousand_fragments_is_put_together_at_once() -> None:
    count = 100_000
    with conversing() as (world, wire):
        began = time.process_time()
        wire.send(frame(TEXT, b"x", last=False) + frame(CONTINUATION, b"y", last=False) * count)
        wire.send(frame(CONTINUATION, b"z"))
        world.until(lambda: world.listener.messages, "the message")
        assert world.listener.messages[-1] == b"x" + b"y" * count + b"z"
        assert time.process_time() - began < DEADLINE_S


def test_large_fragments_take_no_descriptor_each() -> None:
    with conversing() as (world, wire):
        part = os.urandom(300_000)
        before = len(os.listdir("/proc/self/fd"))
        wire.send(frame(TEXT, part, last=False))
        for _ in range(20):
            wire.send(frame(CONTINUATION, part, last=False))
        assert len(os.listdir("/proc/self/fd")) <= before + 2
        wire.send(frame(CONTINUATION, b""))
        world.until(lambda: world.listener.messages, "the message")
        assert world.listener.messages[-1] == part * 21


def test_the_connect_timeout_is_reported_once_and_ends_it() -> None:
    world = World(connect_timeout_s=3.0)
    try:
        world.refuse()
        world.link.open()
        began = world.clock.now
        world.ticks = True
        world.until(lambda: world.listener.given_up, "the end of trying")
        assert world.listener.given_up == ["connection refused"]
        assert world.clock.now - began >= 3.0
        assert world.link.state is ConnectionState.CLOSED
    finally:
        world.close()


def test_a_refusal_with_4001_is_not_asked_again_so_soon() -> None:
    with connected() as (world, wire):
        wire.send(frame(CLOSE, struct.pack("!H", 4001)))
        world.until(lambda: world.listener.drops, "the drop")
        world.pass_time(links.REFUSED_S * 0.7)
        assert world.nobody_knocks()
        world.pass_time(links.REFUSED_S)
        world.accept()


@pytest.mark.parametrize("length", [10, 122, 123, 124, 1000])
def test_close_in_the_middle_of_a_task_says_that_we_go_away_and_why(length: int) -> None:
    with conversing() as (world, wire):
        world.link.close("é" + "x" * (length - 2))
        code, is_last, data = wire.frame()
        assert (code, is_last, data[:2]) == (CLOSE, True, struct.pack("!H", 1001))
        assert data[2:].decode() == ("é" + "x" * (length - 2)).encode()[:123].decode()


def test_close_says_1000_and_that_was_all() -> None:
    with conversing() as (world, wire):
        world.link.post(b"last word")
        world.link.close()
        assert wire.message() == b"last word"
        assert wire.frame() == (CLOSE, True, struct.pack("!H", 1000))
        world.until(wire.has_ended, "the end of the connection")
        world.pass_time(10)
        assert world.nobody_knocks()


def test_close_while_connecting_leaves_no_socket() -> None:
    world = World()
    try:
        world.link.open()
        wire = world.accept_raw()
        world.link.close()
        wire.sock.sendall(b"HTTP/1.1 503 no\r\n\r\n")
        world.until(wire.has_ended, "the end of the connection")
    finally:
        world.close()


def test_the_memory_kept_for_large_messages_is_given_back() -> None:
    with conversing() as (world, wire):
        wire.send(frame(TEXT, b"x" * 3_000_000))
        world.until(lambda: world.listener.messages, "the message")
        assert _memfds() > 0
        world.pass_time(links.KEEP_BLOB_S + 0.1)
        assert _memfds() == 0


def _memfds() -> int:
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += "memfd:hkrunner" in os.readlink(f"/proc/self/fd/{name}")
    return count


# ---- messages that wait for the next one


def test_a_message_that_may_wait_goes_out_with_the_next_one() -> None:
    with conversing() as (world, wire):
        world.link.post(b"started", soon=True)
        assert wire.is_silent()
        world.link.post(b"done", final=True)
        assert (wire.message(), wire.message()) == (b"started", b"done")
        assert world.link.idle


def test_a_message_that_may_wait_does_not_wait_for_long() -> None:
    with conversing() as (world, wire):
        world.link.post(b"started", soon=True)
        assert wire.is_silent()
        world.pass_time(SOON_S)
        assert wire.message() == b"started" and world.link.idle


@pytest.mark.parametrize("size", [10, SMALL + 1, links.PIECE + 1])
def test_a_message_that_may_wait_is_never_overtaken(size: int) -> None:
    with conversing() as (world, wire):
        world.link.post(b"first", soon=True)
        world.link.post(b"second", soon=True)
        world.link.post(b"x" * size)
        assert (wire.message(), wire.message(), wire.message()) == (b"first", b"second", b"x" * size)


@pytest.mark.parametrize("size", [10, SMALL + 1, 1_000_000])
def test_a_message_that_may_wait_does_not_make_the_next_one_wait(size: int) -> None:
    with conversing() as (world, wire):
        world.link.post(b"started", soon=True)
        world.link.post(b"x" * size)
        # The clock stands still: no timer helps.
        assert (wire.message(), wire.message()) == (b"started", b"x" * size)


def test_a_message_that_waits_when_the_connection_is_lost_goes_out_on_the_next() -> None:
    with conversing() as (world, wire):
        world.link.post(b"started", soon=True)
        wire.close()
        world.until(lambda: world.listener.drops, "the drop")
        wire = world.accept()
        wire.sock.sendall(frame(TEXT, b"a word"))
        world.until(lambda: world.listener.messages, "the word")
        world.link.post(b"done", final=True)
        assert (wire.message(), wire.message()) == (b"started", b"done")


@pytest.mark.parametrize("taken", [3, 14, 20])
def test_two_messages_cut_by_a_full_kernel_arrive_whole(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with conversing() as (world, wire):
        world.link.post(b"started", soon=True)
        sock = world.link._socket
        assert sock is not None
        sends = iter([taken])

        class Full:
            """Takes only so much of the first write."""

            def send(self, data: bytes, flags: int = 0) -> int:
                return sock.send(data[: next(sends, len(data))], flags)

            def __getattr__(self, name: str) -> object:
                return getattr(sock, name)

        monkeypatch.setattr(world.link._sender, "_socket", Full())
        world.link.post(b"done", final=True)
        assert (wire.message(), wire.message()) == (b"started", b"done")
        assert world.link.idle
