"""Messages between a pool and its supervising process."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

import pytest
from hkrunner.runner.app.pool_supervisor import TEXT_MAX
from hkrunner.runner.io.loop import Loop
from hkrunner.runner.io.message_socket import MessageSocket
from hkrunner.sandbox.shared.channel import ChannelError
from hkrunner.sandbox.shared.datagrams import DATAGRAM_MAX, cut, datagram_of, message_of
from hkrunner.sandbox.shared.message_format import PROTOCOL_VERSION, ProcessMessage
from hkrunner.sandbox.shared.supervision_messages import (
    TO_POOL,
    TO_SUPERVISOR,
    EndWorkers,
    PoolReady,
    PoolRefused,
    WorkerEnded,
    WorkerLoaded,
)

KNOWN = {**TO_POOL, **TO_SUPERVISOR}


def received(loop: Loop, sock: socket.socket) -> list[Any]:
    """Return all messages with the number of their descriptors, and "end"."""
    found: list[Any] = []

    def take(message: ProcessMessage, fds: list[int]) -> None:
        found.append((message, len(fds)))
        for fd in fds:
            os.close(fd)

    def end(error: ChannelError | None) -> None:
        found.append("end" if error is None else str(error))
        loop.stop()

    channel = MessageSocket(loop, sock, KNOWN, take, end)
    channel.send(EndWorkers(now=False))  # never read
    loop.run()
    loop.close()
    return found


def test_the_last_messages_of_a_process_that_has_ended_are_read() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    loop = Loop()
    other = MessageSocket(loop, theirs, KNOWN, lambda message, fds: None, lambda error: None)
    with open(os.devnull, "rb") as file:
        other.send(WorkerLoaded(1), [file.fileno(), file.fileno()])
    other.send(PoolRefused(2, "no"))
    ours.send(b"x")  # it closes without having read this: the kernel reports a reset
    other.close()
    assert received(loop, ours) == [(WorkerLoaded(1), 2), (PoolRefused(2, "no"), 0), "end"]


def test_what_is_no_message_is_told_as_the_end_and_its_descriptors_are_closed() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    loop = Loop()
    reading, writing = os.pipe()
    socket.send_fds(theirs, [b"\xff{}"], [writing])
    os.close(writing)
    assert received(loop, ours) == ["frame 255 with a bad body: a kind nobody sends"]
    assert os.read(reading, 1) == b"", "nobody has the other end of the pipe"
    os.close(reading)
    theirs.close()


def test_a_text_of_any_length_fits_into_a_message() -> None:
    assert cut("short", TEXT_MAX) == "short"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    loop = Loop()
    other = MessageSocket(loop, theirs, KNOWN, lambda message, fds: None, lambda error: None)
    sent = []
    for letter in ("a", "\x01", "\U0001f600", "\udc80"):
        for count in (TEXT_MAX // 12 + 1, TEXT_MAX, 1_000_000):
            text = cut(letter * count, TEXT_MAX)
            assert TEXT_MAX // 4 < len(json.dumps(text)) <= TEXT_MAX or text == letter * count
            sent.append(WorkerEnded(1, True, "CODE", text, text, text, False))
    for message in sent:
        other.send(message)
        assert not other._queue, "the kernel has taken it"
        data = ours.recv(DATAGRAM_MAX)
        assert message_of(data, KNOWN) == message
    other.close()
    ours.close()
    loop.close()


def test_a_message_of_another_version_is_refused_before_its_fields_are_read() -> None:
    data = datagram_of(PoolReady(PROTOCOL_VERSION + 1, {}))
    with pytest.raises(ChannelError, match="was hkrunner replaced while it ran"):
        message_of(data, KNOWN)
    with pytest.raises(ChannelError, match="a kind nobody sends"):
        message_of(b"\xff{}", KNOWN)
