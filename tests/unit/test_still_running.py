"""What is left running after a task is named, whatever it is called."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator

import pytest
from hkrunner.sandbox.child import still_running
from hkrunner.sandbox.child.frame_socket import FrameSocket
from hkrunner.sandbox.shared.channel import INLINE_MAX, FrameReader
from hkrunner.sandbox.shared.message_format import decode
from hkrunner.sandbox.shared.messages import FROM_CHILD, Done, StillRunning
from support.child_process import StartChild, done, one_task


@pytest.fixture
def end() -> Iterator[threading.Event]:
    end = threading.Event()
    yield end
    end.set()


def test_a_long_name_is_cut_and_moves_no_cursor(end: threading.Event) -> None:
    thread = threading.Thread(target=end.wait, name="\x1b[2J" + "x" * 300_000, daemon=True)
    thread.start()
    names, count = still_running.named(frozenset(), adopted=False)
    assert "thread ?[2J" + "x" * (still_running.NAME_MAX - 4) in names
    assert count >= 1
    end.set()
    thread.join()


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_process_that_a_task_leaves_is_named_whatever_descriptors_it_has_closed(
    serving_child: StartChild, is_closed: bool
) -> None:
    child = serving_child("""
import os, subprocess
lists = []
def start(args, api):
    if args["input"] == "close":
        for fd in os.listdir("/proc/self/fd"):
            path = f"/proc/self/fd/{fd}"
            if os.path.exists(path) and os.readlink(path).endswith("/children"):
                os.close(int(fd))
                lists.append(fd)
        return len(lists)
    return subprocess.Popen(["sleep", "600"]).pid
""")
    if is_closed:
        assert one_task(child, 1, "close") == done(1)
    answer = one_task(child, 2, "leave")
    assert isinstance(answer, Done) and isinstance(answer.wire, bytes)
    pid = json.loads(answer.wire)["data"]
    os.kill(pid, signal.SIGKILL)
    assert f"process sleep (pid {pid})" in child.still_running[-1].names


def test_names_that_are_too_long_for_the_channel_are_cut_there() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = FrameSocket(ours.detach())
        sender = threading.Thread(target=child.send, args=(1, StillRunning(["\u4e16" * 100_000, "b"], 7)))
        sender.start()
        reader, frames = FrameReader(), []
        while not frames:
            frames = reader.feed(theirs.recv(1 << 16))
        sender.join()
        child._socket.close()
    assert frames[0].size <= INLINE_MAX
    message = decode(frames[0], FROM_CHILD)
    assert isinstance(message, StillRunning)
    assert message.count == 7 and message.names[0].startswith("\u4e16" * 100) and message.names[1] == "b"
