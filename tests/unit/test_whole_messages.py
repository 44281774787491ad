"""A message of multiprocessing's for which there is no memory does not spoil the next one."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pytest
from hkrunner.sandbox.child import whole_messages

#: The child may reserve 24 MiB more than it has, and the parent sends 40 MiB, and then a small message.
PROGRAM = """
import multiprocessing, os, resource
from hkrunner.sandbox.child.whole_messages import keep_messages_whole
keep_messages_whole()
ours, theirs = multiprocessing.Pipe(duplex=DUPLEX)
child = os.fork()
if child == 0:
    with open("/proc/self/statm") as file:
        data = int(file.read().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (data + (24 << 20), resource.RLIM_INFINITY))
    for count in range(2):
        try:
            print(len(ours.recv_bytes()), flush=True)
        except MemoryError:
            print("no memory", flush=True)
    os._exit(0)
theirs.send_bytes(b"x" * (40 << 20))
theirs.send_bytes(b"12345")
os.waitpid(child, 0)
"""


def test_a_message_without_memory_is_lost_alone() -> None:
    for duplex in ("True", "False"):
        code = PROGRAM.replace("DUPLEX", duplex)
        ended = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
        )
        assert ended.stdout == "no memory\n5\n"


#: The call of os.read() that fails, how much it reads before, and the message that is read then.
FAILURES = {
    "before the head": (1, 0, b"first"),
    "within the head": (1, 2, b"second"),
    "after the head": (1, 4, b"second"),
    "before the body": (2, 0, b"second"),
    "within the body": (2, 3, b"second"),
    "after the body": (2, 5, b"second"),
}


@pytest.mark.parametrize("where", FAILURES)
def test_the_next_message_is_read_wherever_memory_has_failed(where: str) -> None:
    fails, most, expected = FAILURES[where]
    calls = 0

    def receive(connection: Any, size: int, read: Callable[[int, int], bytes]) -> Any:
        def failing(handle: int, count: int) -> bytes:
            nonlocal calls
            calls += 1
            if calls != fails:
                return read(handle, count)
            if most:
                read(handle, most)
            raise MemoryError

        return Connection._recv(connection, size, failing)  # type: ignore[attr-defined]

    class Failing(Connection):
        _recv = whole_messages._noting(receive)
        _recv_bytes = whole_messages._dropping(Connection._recv_bytes)  # type: ignore[attr-defined]

    ours, theirs = multiprocessing.Pipe()
    with theirs, ours:
        theirs.send_bytes(b"first")
        theirs.send_bytes(b"second")
        failing = Failing(ours.fileno())
        try:
            with pytest.raises(MemoryError):
                failing.recv_bytes()
            assert failing.recv_bytes() == expected
        finally:
            failing._handle = None  # the descriptor is that of `ours`
