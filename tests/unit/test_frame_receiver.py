"""The two sides of a socket between two of the processes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from hkrunner.runner.io.loop import Loop
from hkrunner.sandbox.parent.child_channel import FramedChannel
from hkrunner.sandbox.parent.frame_receiver import MANY, FrameReceiver
from hkrunner.sandbox.parent.frame_sender import WAITING_MAX
from hkrunner.sandbox.shared.channel import ChannelError, FrameReader, fds_of
from hkrunner.sandbox.shared.message_format import Memfd, ProcessMessage, encode
from hkrunner.sandbox.shared.messages import FROM_CHILD, Problem
from support.waiting import wait_until


class Receiving:
    """A receiver, what it has passed on, and the other end of its socket."""

    def __init__(self) -> None:
        self.loop = Loop()
        ours, self.theirs = socket.socketpair()
        ours.setblocking(False)
        self.socket = ours
        self.messages: list[ProcessMessage] = []
        self.errors: list[ChannelError] = []
        self.ends: list[bool] = []
        self.receiver = FrameReceiver(
            self.loop,
            ours,
            FROM_CHILD,
            on_message=lambda task, message: self.messages.append(message),
            on_error=self.errors.append,
            on_end=self.ends.append,
        )

    def say(self, *texts: str) -> None:
        """Send a Problem with each of these texts, and let the loop serve what is ready."""
        self.theirs.sendall(b"".join(encode(0, Problem(text)) for text in texts))
        self.loop.turn(0)

    @property
    def texts(self) -> list[str]:
        """Return the texts that were passed on."""
        return [message.text for message in self.messages if isinstance(message, Problem)]


@pytest.fixture
def receiving() -> Iterator[Receiving]:
    made = Receiving()
    yield made
    made.receiver.close()
    made.socket.close()
    made.theirs.close()
    made.loop.close()


def test_nothing_is_read_before_the_first_resume(receiving: Receiving) -> None:
    receiving.say("one")
    receiving.receiver.pause()
    receiving.receiver.drain()
    assert not receiving.messages
    receiving.receiver.resume()
    receiving.loop.turn(0)
    assert receiving.texts == ["one"]


def test_what_comes_in_a_pause_is_read_by_drain_or_after_it(receiving: Receiving) -> None:
    receiving.receiver.resume()
    receiving.receiver.pause()
    receiving.say("one")
    assert not receiving.messages
    receiving.receiver.drain()
    assert receiving.texts == ["one"]
    receiving.say("two")
    assert receiving.texts == ["one"]
    receiving.receiver.resume()
    receiving.loop.turn(0)
    assert receiving.texts == ["one", "two"]


def test_nothing_is_read_after_an_error(receiving: Receiving) -> None:
    receiving.receiver.resume()
    receiving.theirs.sendall(b"garbage, and enough of it")
    receiving.loop.turn(0)
    assert len(receiving.errors) == 1
    receiving.receiver.pause()
    receiving.receiver.resume()
    receiving.say("one")
    receiving.receiver.drain()
    receiving.theirs.shutdown(socket.SHUT_WR)
    receiving.loop.turn(0)
    assert not receiving.messages and len(receiving.errors) == 1 and not receiving.ends


def test_the_end_comes_once_after_all_that_was_sent(receiving: Receiving) -> None:
    receiving.say("one")
    receiving.theirs.shutdown(socket.SHUT_WR)
    receiving.receiver.resume()
    receiving.receiver.drain()
    receiving.receiver.resume()
    receiving.loop.turn(0)
    assert receiving.texts == ["one"] and receiving.ends == [False] and receiving.receiver.has_ended


def test_a_flood_of_messages_is_handled_a_few_at_a_time(receiving: Receiving) -> None:
    receiving.receiver.resume()
    receiving.say(*["x"] * (MANY + 1))
    assert len(receiving.texts) == MANY + 1, "the first is seen only once it is there"
    receiving.messages.clear()
    receiving.say(*["x"] * (MANY + 1))
    assert 0 < len(receiving.texts) < MANY
    receiving.receiver.drain()
    assert len(receiving.texts) == MANY + 1


def test_after_a_flood_a_large_message_is_read_in_two_pieces_and_no_flood_after_it(
    receiving: Receiving,
) -> None:
    receiving.receiver.resume()
    receiving.say(*["x"] * (MANY + 1))
    receiving.messages.clear()
    receiving.say("y" * 100_000, *["x"] * (MANY + 1))
    assert receiving.texts == []
    receiving.loop.turn(0)
    assert receiving.texts == ["y" * 100_000]
    receiving.loop.turn(0)
    assert 1 < len(receiving.texts) < MANY


def test_large_replies_that_a_child_does_not_read_take_few_descriptors() -> None:
    loop = Loop()
    tasks, _ = pair = socket.socketpair()
    control, theirs = socket.socketpair()
    channel = FramedChannel(loop, tasks, control)
    channel.listen_with(lambda task, message: None, lambda error: None, lambda cut: None)
    contents = [str(number).encode() * 1000 for number in range(500)]
    before = len(os.listdir("/proc/self/fd"))
    for content in contents:
        with open(os.memfd_create("reply"), "w+b", buffering=0) as file:
            file.write(content)
            channel.reply(1, Memfd(file.fileno(), len(content)))
    assert len(os.listdir("/proc/self/fd")) <= before + WAITING_MAX
    theirs.setblocking(False)
    reader, found = FrameReader(), list[bytes]()

    def read() -> int:
        """Return how many descriptors have come."""
        count = 0
        while True:
            try:
                data, ancillary, _, _ = theirs.recvmsg(65536, socket.CMSG_LEN(4))
            except BlockingIOError:
                return count
            for frame in reader.feed(data, fds_of(ancillary)):
                assert frame.fd is not None
                with open(frame.fd, "rb") as file:
                    file.seek(0)
                    found.append(file.read())
                count += 1

    assert 0 < read() <= 100  # those on their way count for all processes of the user

    def have_come() -> bool:
        loop.turn(0)
        read()
        return len(found) == len(contents)

    wait_until(have_come, what="all replies")
    assert found == contents
    channel.close()
    for one in (*pair, theirs):
        one.close()
    loop.close()
