"""A process that waits for a lock which no thread can release is distinguished from other waits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from hkrunner.sandbox.linux import deadlock
from hkrunner.sandbox.linux.deadlock import Waits, waits_of_deadlock, waits_of_tree
from hkrunner.sandbox.warden.deadlock_watch import ABORTED_S, DeadlockWatch
from hkrunner.sandbox.warden.memory_brake import HeldProcess
from support.waiting import wait_until

BEGIN = """
import ctypes, signal, socket, sys, threading, time
signal.alarm(60)
libc = ctypes.CDLL(None)
lock = ctypes.create_string_buffer(128)
def wait_for_itself():
    libc.pthread_mutex_lock(lock)
    libc.pthread_mutex_lock(lock)
ours, theirs = socket.socketpair()
def start(function):
    threading.Thread(target=function, daemon=True).start()
"""
#: One thread that waits for a message is hkrunner's own.
DEADLOCKS = {
    "the only thread": "wait_for_itself()",
    "the main thread": "start(lambda: ours.recvmsg(1)); wait_for_itself()",
    "a thread that is joined": "t = threading.Thread(target=wait_for_itself); t.start(); t.join()",
}
#: With a part of the name of the kernel's function in which the main thread waits.
OTHERS = {
    "a lock of Python's": ("start(lambda: ours.recvmsg(1)); threading.Event().wait()", "futex"),
    "a thread that sleeps with the lock": ("start(lambda: time.sleep(60)); wait_for_itself()", "futex"),
    "another process": (
        "from multiprocessing import Semaphore; start(Semaphore(0).acquire); wait_for_itself()",
        "futex",
    ),
    "messages in two threads": (
        "start(lambda: ours.recvmsg(1)); start(lambda: theirs.recvmsg(1)); wait_for_itself()",
        "futex",
    ),
    "a time": ("time.sleep(60)", "nanosleep"),
}


@contextmanager
def process(code: str) -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", BEGIN + code]) as one:
        try:
            yield one.pid
        finally:
            one.kill()


@pytest.mark.parametrize("which", DEADLOCKS)
def test_a_lock_that_nobody_can_release_is_a_deadlock(which: str) -> None:
    with process(DEADLOCKS[which]) as pid:

        def seen_twice() -> bool:
            first = waits_of_deadlock(pid)
            return first is not None and waits_of_deadlock(pid) == first

        wait_until(seen_twice, what="the process waits for its own lock, and nothing moves in it")


@pytest.mark.parametrize("which", OTHERS)
def test_any_other_wait_is_not_a_deadlock(which: str) -> None:
    code, where = OTHERS[which]
    with process(code) as pid:
        waits_in = Path(f"/proc/{pid}/wchan")
        threads = Path(f"/proc/{pid}/task")
        wanted = 1 + code.count("start(")
        wait_until(
            lambda: len(list(threads.iterdir())) == wanted and where in waits_in.read_text(),
            what=f"the process waits for {which}",
        )
        # Not at once: a thread that begins may wait for Python's own lock for a moment.
        wait_until(lambda: waits_of_deadlock(pid) is None, what=f"waiting for {which} is no deadlock")


def test_a_process_that_has_ended_is_not_in_a_deadlock() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as one:
        one.wait()
    assert waits_of_deadlock(one.pid) is None


#: Ways in which a whole tree waits, and whether no process outside could wake it.
TREES = {
    "a pipe of its own": ("import os; os.read(os.pipe()[0], 1)", True),
    "a program that waits for it": (
        "import subprocess; subprocess.run(['cat'], stdin=__import__('os').pipe()[0])",
        True,
    ),
    "an event, beside a poll of a pipe": (
        "import os, select; poll = select.poll(); poll.register(os.pipe()[0]); start(poll.poll);"
        "threading.Event().wait()",
        True,
    ),
    "a message on another socket": ("ours.recv(1)", False),
    "a poll with a time-out": ("import select; select.poll().poll(60_000)", False),
    "a time": ("time.sleep(60)", False),
}


def sockets_of(pid: int) -> list[int]:
    """Return the inodes of the sockets that the process has now: it may be about to open or close one."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            link = os.readlink(f"/proc/{pid}/fd/{fd}")
            found += [int(link[8:-1])] if link.startswith("socket:[") else []
    return found


@pytest.mark.parametrize("which", TREES)
def test_a_tree_that_nobody_can_wake_is_told_from_one_that_somebody_can(which: str) -> None:
    code, is_over = TREES[which]
    with process(code) as pid:
        tree = [psutil.Process(pid)]
        wanted = 1 + code.count("start(")

        def all_wait() -> bool:
            tree[1:] = tree[0].children()
            return (
                len(tree) == 1 + code.count("subprocess.run")
                and tree[0].num_threads() == wanted
                and all(one.status() == psutil.STATUS_SLEEPING for one in tree)
            )

        wait_until(all_wait, what="all wait")
        pids = [one.pid for one in tree]
        # The two of `ours` and `theirs` are the channel, unless they are what is waited for.
        channel = sockets_of if "socket" not in which else lambda pid: []
        if is_over:
            wait_until(lambda: waits_of_tree(pids, channel(pid)) is not None, what=which)
            assert waits_of_tree(pids, ()) is None, "the sockets are somebody else's"
        else:
            assert waits_of_tree(pids, channel(pid)) is None


class StubWaits:
    """Stands for the kernel: what the threads of pid 10 wait for is what the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now: Waits | None = Waits((("10", b"202 0x1 0x80 0x2 0x0 0x0 0x0"),), 5)
        self.aborted: list[tuple[int, int]] = []
        monkeypatch.setattr(deadlock, "waits_of_deadlock", lambda pid: self.now)
        self.watch = DeadlockWatch((), kill=lambda pid, number: self.aborted.append((pid, number)))

    def look(self, *times: float, held_at: float = 0.0) -> HeldProcess:
        held = HeldProcess(10, "python", 0, 100, held_at)
        for now in times:
            held = self.watch.check(held, now, [10])
        return held


def test_a_lasting_deadlock_ends_the_process_with_refused_memory_as_the_cause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stub = StubWaits(monkeypatch)
    assert stub.look(0.1, 0.7, 1.0).at == 0.0 and stub.aborted == []
    assert stub.look(1.3).at == 1.3 + ABORTED_S and stub.aborted == [(10, signal.SIGABRT)]


def test_a_wait_that_ends_and_begins_again_is_not_a_deadlock(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = StubWaits(monkeypatch)
    assert stub.now is not None
    for step in range(1, 9):
        stub.now = stub.now._replace(cpu_ns=step)
        stub.look(step * 1.0)
    assert stub.aborted == []


def test_a_process_that_was_not_refused_memory_lately_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = StubWaits(monkeypatch)
    stub.look(11.0, 12.0, 13.0, 14.0, held_at=0.0)
    assert stub.aborted == []


def test_a_thread_that_was_lost_since_the_task_began_is_remembered_when_the_task_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stub = StubWaits(monkeypatch)
    monkeypatch.setattr(deadlock, "waits_of_tree", lambda pids, channel: stub.now)
    monkeypatch.setattr(deadlock, "waits_of_deadlock", lambda pid: None)
    stub.watch.thread_lost(10, now=20.03)
    stub.watch.forget_lost_thread(before=20.0)  # by a parent that asks 50 ms after the task began
    stub.look(21.0, 22.0, 23.0, 24.5)
    assert stub.aborted == [(10, signal.SIGABRT)]
    stub.watch.forget_lost_thread(before=25.0)
    stub.look(26.0, 27.0, 28.0, 30.0, 34.0)
    assert len(stub.aborted) == 1


def test_a_lost_thread_is_noticed_though_the_process_that_was_refused_memory_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stub = StubWaits(monkeypatch)
    monkeypatch.setattr(deadlock, "waits_of_tree", lambda pids, channel: stub.now)
    stub.watch.thread_lost(11, now=0.0)
    for now in (0.1, 1.0, 2.0, 3.0, 3.6):
        stub.watch.check(HeldProcess(10, "cat", 0, 100, 0.0), now, [11])
    assert stub.aborted == [(11, signal.SIGABRT)]
