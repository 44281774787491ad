"""A process that waits for a lock which no thread can release is distinguished from other waits."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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


BOTH_SEND = "os.fork(); one = ours if os.getppid() == parent else theirs; one.sendall(bytes(1 << 24))"
OVER_TCP = (
    "server = socket.create_server(('127.0.0.1', 0)); one = socket.create_connection(server.getsockname());"
    "other, _ = server.accept(); server.close()"
)
#: Ways in which a whole tree waits, and of how many processes it is. Only they themselves could wake any.
OVER = {
    "a pipe of its own": ("os.read(os.pipe()[0], 1)", 1),
    "a pipe that nobody empties": ("pipe = os.pipe(); os.write(pipe[1], bytes(1 << 20))", 1),
    "a program that waits for it": ("subprocess.run(['cat'], stdin=os.pipe()[0])", 2),
    "an event, beside a poll of a pipe": (
        "poll = select.poll(); poll.register(os.pipe()[0]); start(poll.poll); threading.Event().wait()",
        1,
    ),
    "both ends of a socket that send": (f"parent = os.getppid(); {BOTH_SEND}", 2),
    "both ends of a connection that read": (f"{OVER_TCP}; os.fork(); one.recv(1)", 2),
    "a selector": ("epoll = select.epoll(); epoll.register(ours, 1); epoll.poll()", 1),
    "select()": ("select.select([ours, os.pipe()[0]], [], [])", 1),
    "a lock that processes share": ("multiprocessing.Semaphore(0).acquire()", 1),
    "the end of a process that waits for it": (
        "one = os.fork(); os.waitpid(one, 0) if one else ours.recv(1)",
        2,
    ),
}
#: The same, where something outside the tree could.
ELSEWHERE = {
    "what the test may write": ("os.read(0, 1)", 1),
    "a selector with what the test may write": (
        "epoll = select.epoll(); epoll.register(ours, 1); epoll.register(0, 1); epoll.poll()",
        1,
    ),
    "a client": ("socket.create_server(('127.0.0.1', 0)).accept()", 1),
    "a datagram": ("one = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); one.bind(''); one.recv(1)", 1),
    "a poll with a time-out": ("select.poll().poll(60_000)", 1),
    "a time": ("time.sleep(60)", 1),
    "a program that sleeps": ("subprocess.run(['sleep', '60'])", 2),
    "a file's lock": (
        "fd, path = tempfile.mkstemp(); fcntl.flock(fd, fcntl.LOCK_EX); other = os.open(path, os.O_RDWR);"
        "os.unlink(path); fcntl.flock(other, fcntl.LOCK_EX)",
        1,
    ),
    "the end of the test": (
        "poll = select.poll(); poll.register(os.pidfd_open(os.getppid())); poll.poll()",
        1,
    ),
    "a signal of hkrunner's": ("signal.signal(signal.SIGUSR1, print); os.read(os.pipe()[0], 1)", 1),
    "an alarm": ("signal.signal(signal.SIGALRM, print); os.read(os.pipe()[0], 1)", 1),
}


@contextmanager
def waiting_tree(code: str, count: int) -> Iterator[list[int]]:
    """Have a tree of so many processes run this, and wait."""
    imports = "import fcntl, multiprocessing, os, select, subprocess, tempfile\n"
    program = [sys.executable, "-c", BEGIN + imports + code]
    ours, theirs = socket.socketpair()
    with ours, theirs, subprocess.Popen(program, stdin=theirs, start_new_session=True) as one:
        try:
            tree = [psutil.Process(one.pid)]
            wanted = count + code.count("start(")

            def all_wait() -> bool:
                tree[1:] = tree[0].children(recursive=True)
                is_whole = len(tree) == count and sum(each.num_threads() for each in tree) == wanted
                return is_whole and all(each.status() == psutil.STATUS_SLEEPING for each in tree)

            wait_until(all_wait, what="all wait")
            yield [each.pid for each in tree]
        finally:
            os.killpg(one.pid, signal.SIGKILL)


def waits(tree: list[int], *, control: int = 0, has_stop: bool = False, lost: bool = True) -> Waits | None:
    return waits_of_tree(tree, tree[0], control, has_stop=has_stop, is_explained=lost)


@pytest.mark.parametrize("which", OVER)
def test_a_tree_that_waits_only_for_itself_is_over(which: str) -> None:
    with waiting_tree(*OVER[which]) as tree:
        wait_until(lambda: (found := waits(tree)) is not None and found == waits(tree), what=which)


@pytest.mark.parametrize("which", ELSEWHERE)
def test_a_tree_that_something_outside_may_wake_is_not_over(which: str) -> None:
    with waiting_tree(*ELSEWHERE[which]) as tree:
        assert waits(tree) is None
        assert waits(tree) is None


def test_a_process_outside_of_the_tree_may_end_or_send_what_one_in_it_waits_for() -> None:
    with waiting_tree(*OVER["the end of a process that waits for it"]) as tree:
        wait_until(lambda: waits(tree) is not None, what="both wait")
        assert waits(tree[:1]) is None
    with waiting_tree("os.fork() and theirs.close(); ours.recv(1)", 2) as tree:
        assert waits(tree[:1]) is None


def test_a_semaphore_that_has_a_name_may_be_released_by_others() -> None:
    name = f"hkrunner-test-{os.getpid()}"
    code = f"import _multiprocessing; _multiprocessing.SemLock(1, 0, 1, '/{name}', False).acquire()"
    try:
        with waiting_tree(code, 1) as tree:
            wait_until(lambda: "futex" in Path(f"/proc/{tree[0]}/wchan").read_text(), what="it waits")
            assert waits(tree) is None
            os.unlink(f"/dev/shm/sem.{name}")
            assert waits(tree) is not None
    finally:
        Path(f"/dev/shm/sem.{name}").unlink(missing_ok=True)


def test_a_main_thread_that_waits_for_its_own_process_may_wait_for_a_stop() -> None:
    with waiting_tree("threading.Event().wait()", 1) as tree:
        wait_until(lambda: waits(tree, lost=False) is not None, what="it waits")
        assert waits(tree, lost=False, has_stop=True) is None, "the user's stop() may set it"
        assert waits(tree, lost=True, has_stop=True) is not None, "a thread is gone that would have set it"
    with waiting_tree(*OVER["a selector"]) as tree:
        wait_until(lambda: waits(tree) is not None, what="it waits")
        assert waits(tree, lost=False) is None, "a stop cancels a coroutine"
    with waiting_tree(*OVER["a program that waits for it"]) as tree:
        wait_until(lambda: waits(tree) is not None, what="both wait")
        assert waits(tree, lost=False, has_stop=True) is not None


def test_the_thread_that_waits_for_a_stop_is_hkrunners_own() -> None:
    code = "control = socket.socket(fileno=0); start(lambda: control.recvmsg(1)); threading.Event().wait()"
    with waiting_tree(code, 1) as tree:
        control = os.stat(f"/proc/{tree[0]}/fd/0").st_ino
        wait_until(lambda: waits(tree, control=control) is not None, what="both threads wait")
        assert waits(tree) is None, "anybody may send a message"


class StubWaits:
    """Stands for the kernel: what the threads of pid 10 wait for is what the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now: Waits | None = Waits((("10", b"202 0x1 0x80 0x2 0x0 0x0 0x0"),), 5)
        self.aborted: list[tuple[int, int]] = []
        monkeypatch.setattr(deadlock, "waits_of_deadlock", lambda pid: self.now)
        monkeypatch.setattr(deadlock, "waits_of_tree", lambda *given, **more: None)
        self.watch = DeadlockWatch(11, 0, kill=lambda pid, number: self.aborted.append((pid, number)))

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


def test_the_child_of_a_tree_that_is_over_is_ended_however_long_ago_it_was_refused_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stub = StubWaits(monkeypatch)
    monkeypatch.setattr(deadlock, "waits_of_tree", lambda *given, **more: stub.now)
    stub.look(50.0, 50.6, 51.2, held_at=0.0)
    assert stub.aborted == [(11, signal.SIGABRT)]


def test_a_thread_that_was_lost_since_the_task_began_explains_a_wait_until_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stub = StubWaits(monkeypatch)
    told: list[tuple[bool, bool]] = []
    monkeypatch.setattr(
        deadlock,
        "waits_of_tree",
        lambda *given, has_stop, is_explained: told.append((has_stop, is_explained)),
    )
    stub.watch.thread_lost(now=20.03)
    stub.watch.forget_lost_thread(before=20.0)  # by a parent that asks 50 ms after the task began
    stub.look(21.0)
    stub.watch.forget_lost_thread(before=25.0)
    stub.watch.has_stop = True
    stub.look(26.0)
    assert told == [(False, True), (True, False)]
