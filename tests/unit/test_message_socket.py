"""Messages between a pool and its supervising process."""

from __future__ import annotations

import os
import socket
from typing import Any

from hkrunner.runner.io.loop import Loop
from hkrunner.runner.io.message_socket import MESSAGE_MAX, TEXT_MAX, MessageSocket, cut


def received(loop: Loop, sock: socket.socket) -> list[Any]:
    """Return all messages with the number of their descriptors, and "end"."""
    found: list[Any] = []

    def take(message: dict[str, Any], fds: list[int]) -> None:
        found.append((message, len(fds)))
        for fd in fds:
            os.close(fd)

    def end() -> None:
        found.append("end")
        loop.stop()

    channel = MessageSocket(loop, sock, take, end)
    channel.send({"never": "read"})
    loop.run()
    loop.close()
    return found


def test_the_last_messages_of_a_process_that_has_ended_are_read() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    loop = Loop()
    other = MessageSocket(loop, theirs, lambda message, fds: None, lambda: None)
    with open(os.devnull, "rb") as file:
        other.send({"say": "one"}, [file.fileno(), file.fileno()])
    other.send({"say": "refused"})
    ours.send(b"{}")  # it closes without having read this: the kernel reports a reset
    other.close()
    assert received(loop, ours) == [({"say": "one"}, 2), ({"say": "refused"}, 0), "end"]


def test_a_text_of_any_length_fits_into_a_message() -> None:
    assert cut("short") == "short"
    longest = {
        name: cut(one * 1_000_000) for name, one in (("a", "\x01"), ("b", "\U0001f600"), ("c", "\udc80"))
    }
    assert all("characters left out" in one and len(one) < TEXT_MAX + 100 for one in longest.values())
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    loop = Loop()
    other = MessageSocket(loop, theirs, lambda message, fds: None, lambda: None)
    other.send(longest)
    other.close()
    assert received(loop, ours) == [(longest, 0), "end"]
    assert 3 * 6 * (TEXT_MAX + 100) < MESSAGE_MAX
