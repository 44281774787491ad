"""Which worker gets an answer after a reconnect: the one that handed the task out, and no other."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator

import pytest
from hkrunner.runner.link.connection import SETTLE_S, SILENT_S
from hkrunner.runner.link.identity import RESTART_S, listener_of, listening_at
from hypothesis import given, settings
from hypothesis import strategies as st
from support import link_peer
from support.link_peer import DEADLINE_S, PONG, Wire, World, connected, conversing, text
from support.worker_wire import PING, frame


@pytest.fixture(params=["ws", "socketio"], scope="module", autouse=True)
def transport(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every rule holds over both transports."""
    link_peer.transport = request.param
    yield
    link_peer.transport = "ws"


# ---- who speaks first


def test_nothing_is_sent_before_the_worker_has_spoken() -> None:
    with connected() as (world, wire):
        world.link.post(b"early")
        assert wire.is_silent()
        wire.send(text(b"hello"))
        assert wire.message() == b"early"


def test_a_ping_is_answered_and_does_not_count_as_the_first_message() -> None:
    with connected() as (world, wire):
        world.link.post(b"early")
        wire.send(frame(PING, b"there?"))
        assert wire.frame() == (PONG, True, b"there?")
        assert wire.is_silent()


def test_an_invalid_message_does_not_count_as_the_first_message() -> None:
    with connected() as (world, wire):
        world.link.post(b"early")
        wire.send(text(b"noise"))
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


def test_a_silent_worker_whose_port_was_never_closed_gets_the_waiting_messages_after_a_moment() -> None:
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


def test_a_worker_that_was_away_may_be_another_one_and_has_to_send_a_message_first() -> None:
    with conversing() as (world, wire):
        again = away_and_back(world, wire)
        world.link.post(b"call")
        world.pass_time(SILENT_S + 0.1)
        assert again.is_silent() and world.listener.resumed == []
        again.sock.sendall(text(b"a word"))
        assert again.message() == b"call"


def test_an_answer_is_not_sent_to_a_worker_that_was_away_whatever_it_sends() -> None:
    with conversing() as (world, wire):
        again = away_and_back(world, wire)
        world.link.post(b"undelivered", final=True)
        world.link.post(b"of the next task")
        world.pass_time(SILENT_S + 0.1)
        assert again.is_silent()
        again.sock.sendall(text(b"a word"))
        assert again.message() == b"of the next task"
        assert world.listener.lost == 1 and again.is_silent()


def test_a_worker_that_was_restarted_at_once_is_another_one() -> None:
    with conversing() as (world, wire):
        world.restart()
        wire.close()
        world.until(lambda: world.listener.drops, "the drop")
        world.link.post(b"undelivered", final=True)
        again = world.accept()
        world.pass_time(SILENT_S + 0.1)
        assert world.listener.unreachable == [] and again.is_silent()


def test_an_answer_waits_for_a_message_that_the_worker_has_begun_to_send() -> None:
    word = text(b"x" * 70_000)
    with conversing() as (world, wire):
        wire.close()
        world.until(lambda: world.listener.drops, "the drop")
        again = world.accept()
        again.send(word[:1000])
        world.until(lambda: world.link._is_amid, "the beginning of the message")
        world.link.post(b"undelivered", final=True)
        world.pass_time(SILENT_S + 0.1)
        assert again.is_silent() and world.listener.resumed == []
        world.link.clear()
        again.send(word[1000:])
        world.until(lambda: world.listener.messages, "the message")
        assert again.is_silent() and world.listener.lost == 1


def test_a_worker_that_sent_nothing_gets_no_answer_of_an_earlier_task() -> None:
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


def test_a_worker_that_was_away_and_disconnects_again_is_still_not_the_same() -> None:
    with conversing() as (world, wire):
        away_and_back(world, wire).close()
        world.until(lambda: len(world.listener.drops) == 2, "the second drop")
        world.pass_time(0.1)
        again = world.accept()
        world.link.post(b"call")
        world.pass_time(SILENT_S + 0.1)
        assert again.is_silent()


def test_a_paused_sender_continues_when_the_waiting_messages_are_dropped() -> None:
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
        world.until(lambda: world.link._sender.idle, "an answer that the kernel has taken")
        world.clock.now += 10.0
        wire.reset()
        world.until(lambda: world.listener.drops, "the drop")
        assert world.accept().message() == payload


@pytest.mark.parametrize("speaks", [False, True])
def test_a_last_answer_is_sent_again_unless_the_worker_sends_a_message_at_the_last_moment(
    speaks: bool,
) -> None:
    with conversing() as (world, wire):
        world.link.post(b"done", final=True)
        assert wire.message() == b"done"
        wire.reset()
        world.until(lambda: world.listener.drops, "the drop")
        again = world.accept()
        assert again.is_silent()
        if speaks:
            again.sock.sendall(text(b"next task"))
            assert select.select([world.link._socket], [], [], DEADLINE_S)[0]
        world.link._send_again()  # the loop has not looked at the socket since
        assert again.is_silent() if speaks else again.message() == b"done"
        assert world.listener.messages == [b"next task"] * speaks


def test_an_answer_with_a_message_before_it_is_not_sent_again_when_it_may_have_arrived() -> None:
    with conversing() as (world, wire):
        world.link.post(b"done", final=True, prelude=b"storing")
        assert (wire.message(), wire.message()) == (b"storing", b"done")
        wire.reset()
        world.until(lambda: world.listener.drops, "the drop")
        again = world.accept()
        world.link._send_again()
        assert again.is_silent()


def test_nothing_is_sent_again_once_the_worker_has_sent_a_message() -> None:
    with conversing() as (world, wire):
        world.link.post(b"done", final=True)
        assert wire.message() == b"done"
        wire.reset()
        world.until(lambda: world.listener.drops, "the drop")
        again = world.accept()
        again.send(text(b"next task"))
        world.until(lambda: world.listener.messages, "the next task")
        world.link.post(b"next answer", final=True)
        assert again.message() == b"next answer"
        world.pass_time(SETTLE_S + 0.1)
        assert again.is_silent()


def test_after_a_late_reconnect_the_worker_has_to_send_a_message_first() -> None:
    with conversing() as (world, wire):
        wire.close()
        world.until(lambda: world.listener.drops, "the drop")
        world.link.post(b"undelivered")
        world.clock.now += RESTART_S
        again = world.accept()
        assert again.is_silent()
        again.send(text(b"hello"))
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
        self.wire.send(text(b"task %d %d" % self.task))
        self.world.until(lambda: self.ours == self.task, "the task")
        self.is_known = True

    def _begin(self, words: bytes) -> None:
        life, number = words.split()
        self.ours = (int(life), int(number))
        self.world.link.clear()

    def answer(self) -> None:
        """Our task ends, whichever worker is connected now."""
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
def test_no_worker_ever_gets_the_answer_to_a_task_that_it_has_not_handed_out(
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
