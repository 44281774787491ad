"""Small messages that wait for the next one, to leave this machine together with it."""

from __future__ import annotations

import pytest
from hkrunner.runner.link.outbox import PIECE
from hkrunner.runner.link.sender import SOON_S
from support.link_peer import conversing
from support.worker_wire import TEXT, frame


def test_a_message_that_may_wait_goes_out_with_the_next_one() -> None:
    with conversing() as (world, wire):
        world.link.post(b"started", soon=True)
        assert wire.is_silent()
        world.link.post(b"done", final=True)
        assert (wire.message(), wire.message()) == (b"started", b"done")
        assert world.link._sender.idle


def test_a_message_that_may_wait_does_not_wait_for_long() -> None:
    with conversing() as (world, wire):
        world.link.post(b"started", soon=True)
        assert wire.is_silent()
        world.pass_time(SOON_S)
        assert wire.message() == b"started" and world.link._sender.idle


@pytest.mark.parametrize("size", [10, PIECE, PIECE + 1])
def test_a_message_that_may_wait_is_never_overtaken(size: int) -> None:
    with conversing() as (world, wire):
        world.link.post(b"first", soon=True)
        world.link.post(b"second", soon=True)
        world.link.post(b"x" * size)
        assert (wire.message(), wire.message(), wire.message()) == (b"first", b"second", b"x" * size)


@pytest.mark.parametrize("size", [10, PIECE, 1_000_000])
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
        assert world.link._sender.idle


def test_an_answer_that_is_not_sent_to_its_end_is_lost_with_the_link() -> None:
    with conversing() as (world, wire):
        world.link.post(b"done", final=True)
        assert wire.message() == b"done" and not world.link.owes_answer
        world.link.post(bytes(20_000_000), final=True)
        assert world.link.owes_answer
        world.link.close()
        assert world.listener.lost == 1 and not world.link.owes_answer
