"""Connections on which more comes than a message may have are closed, and no others."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from hkrunner.runner.io.connection_intake import GROWTH_FACTOR, GROWTH_MIN, WATCHED_MIN, ConnectionIntake

MOST = 4 * WATCHED_MIN


class Pair:
    """A connection: the other side's end, and ours, which is read."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.theirs = socket.create_connection(listener.getsockname())
            self.ours, _ = listener.accept()

    def sends(self, count: int) -> None:
        while count:
            sent = self.theirs.send(bytes(min(count, 65536)))
            count -= len(self.ours.recv(sent, socket.MSG_WAITALL))

    @property
    def is_open(self) -> bool:
        self.ours.setblocking(False)
        try:
            return self.ours.recv(1) != b""
        except BlockingIOError:
            return True
        finally:
            self.ours.setblocking(True)


@pytest.fixture
def pair() -> Iterator[Pair]:
    one = Pair()
    with one.theirs, one.ours:
        yield one


def test_what_comes_after_a_whole_message_counts_alone(pair: Pair) -> None:
    intake = ConnectionIntake(MOST)
    intake.opened(pair.ours.fileno())
    for _ in range(3):
        pair.sends(MOST)
        assert intake.check() == 0
        intake.took(pair.ours.fileno())
        assert intake.check() == 0
    pair.sends(MOST + 1)
    assert intake.check() == 1
    assert not pair.is_open and not intake


def test_memory_that_grows_more_than_what_comes_explains_is_the_end(pair: Pair) -> None:
    intake = ConnectionIntake(MOST)
    intake.opened(pair.ours.fileno())
    assert intake.check(memory=1000) == 0
    pair.sends(2 * WATCHED_MIN)
    most = 1000 + GROWTH_MIN + 2 * WATCHED_MIN * GROWTH_FACTOR
    assert intake.check(memory=most) == 0
    assert intake.check(memory=most + 1) == 1


def test_a_descriptor_that_is_another_connections_by_now_is_left_alone(pair: Pair) -> None:
    intake = ConnectionIntake(0)
    other = Pair()
    with other.ours, other.theirs:
        intake.opened(pair.ours.fileno())
        intake.opened(-1)
        pair.sends(1)
        other.sends(1)
        os.dup2(other.ours.fileno(), pair.ours.fileno())
        assert intake.check() == 0
        assert other.is_open and not intake
