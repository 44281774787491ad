"""Thread.start() in the algorithm's process raises where its thread ended without having begun."""

from __future__ import annotations

import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from hkrunner.sandbox.child import own_threads
from hkrunner.sandbox.child.stop_control import StopControl

#: A bootstrap that returns at once stands for one whose first allocation failed: start() waited for ever.
CODE = """
import os, threading
from hkrunner.sandbox.child.memory_reserve import notice_lost_threads
notice_lost_threads(stacks_count=False)
really = threading.Thread._bootstrap

def lose(thread):
    threading.Thread._bootstrap = lambda self: None
    try:
        thread.start()
    except RuntimeError as error:
        assert str(error) == "can't start new thread"
    else:
        raise AssertionError("it was started")
    finally:
        threading.Thread._bootstrap = really

def runs():
    ran = []
    thread = threading.Thread(target=ran.append, args=(1,))
    thread.start()
    thread.join()
    return ran == [1]
"""


@pytest.mark.parametrize(
    "action",
    [
        "lose(threading.Thread()); assert runs()",
        "lose(threading.Timer(0, print)); assert threading.enumerate() == [threading.main_thread()]",
        "one = threading.Thread(); lose(one); assert not one.is_alive()",
        "pid = os.fork() or os._exit(0 if runs() else 1); assert os.waitpid(pid, 0)[1] == 0",
        "from concurrent.futures import ThreadPoolExecutor as Pool; assert list(Pool(8).map(abs, range(99)))",
    ],
)
def test_a_thread_that_is_lost_is_an_error_and_all_others_run(action: str) -> None:
    subprocess.run([sys.executable, "-c", CODE + action], check=True, timeout=60)


def test_only_where_reserved_memory_counts_does_the_brake_refuse_a_thread_for_its_stack() -> None:
    code = """
import resource, sys, threading
from hkrunner.sandbox.child.memory_reserve import notice_lost_threads
from hkrunner.sandbox.child.own_threads import OwnThread
notice_lost_threads(stacks_count=sys.argv[1] == "True")
def near():  # the limit as the warden sets it near the memory limit
    data = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (data + (4 << 20), -1))
near()
waits = threading.Event()
threads = [threading.Thread(target=waits.wait) for _ in range(20)]
try:
    for one in threads: one.start()
    near()
    OwnThread(waits.wait, (), "own").start()
    print("all run")
except RuntimeError as error:
    print(error)
waits.set()
"""
    for stacks_count, said in ((False, "all run\n"), (True, "can't start new thread\n")):
        argv = [sys.executable, "-c", code, str(stacks_count)]
        assert subprocess.run(argv, check=True, timeout=60, capture_output=True, text=True).stdout == said


#: A result that cannot be read for want of memory ends the Pool's thread that reads the results.
POOL = """
import multiprocessing, os
from hkrunner.sandbox.child.memory_reserve import MemoryReserve, report_threads_without_memory

class Large:
    def __reduce__(self):
        return refuse, (os.getpid(), b"x" * 200_000)  # more than a pipe takes

def refuse(made_by, text):
    if made_by != os.getpid():
        raise MemoryError("of the result")
    return Large()

def give(number):
    return Large()

class Unreadable(Exception):
    def __init__(self, one, other):
        super().__init__(one)

def fail(number):
    raise Unreadable(number, number)

def fails(ask, kind=MemoryError, told="a thread of the Pool had no memory for a result"):
    try:
        ask()
    except kind as error:
        assert told in str(error), error
    else:
        raise AssertionError("it has a result")

lost = []
report_threads_without_memory(MemoryReserve(), lambda name, error: lost.append(name))
for ask in (
    lambda pool: pool.map(give, range(40)),
    lambda pool: pool.map(give, range(3), chunksize=1),
    lambda pool: pool.apply(give, (1,)),
    lambda pool: list(pool.imap(give, range(5))),
    lambda pool: list(pool.imap_unordered(give, range(5))),
    lambda pool: pool.starmap_async(give, [(1,), (2,)]).get(),
):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        fails(lambda: ask(pool))
        fails(lambda: pool.apply(abs, (1,)))
    assert len(lost) == 1, lost
    lost.clear()
pool = multiprocessing.get_context("fork").Pool(2)
fails(lambda: pool.map(give, range(40)))
pool.close()
pool.join()
lost.clear()
with multiprocessing.get_context("fork").Pool(2) as pool:
    fails(lambda: pool.map(fail, range(3)), TypeError, "missing 1 required positional argument")
assert not lost, "memory has nothing to do with it"
"""


def test_who_waits_for_a_pool_gets_the_error_of_its_thread() -> None:
    subprocess.run([sys.executable, "-c", POOL], check=True, timeout=60)


def test_a_thread_of_ours_that_ends_with_an_error_is_told_of_like_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise MemoryError("refused")

    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    nothing: Any = None
    socket: Any = SimpleNamespace(recvmsg=refuse, setblocking=lambda on: None)
    control = StopControl(socket, nothing, nothing, "bson", nothing)
    control.start()
    assert control.exit_known.wait(30)
    monkeypatch.setattr(threading, "current_thread", None)  # it would keep the thread
    one = own_threads.OwnThread(refuse, (), "hkrunner-stop")
    one.start()
    one.join()
    assert [(each.exc_type, each.thread.name) for each in told] == [
        (MemoryError, "hkrunner-control"),
        (MemoryError, "hkrunner-stop"),
    ]


def test_a_wait_that_may_have_no_end_is_many_with_one_where_gevent_has_replaced_events(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Replaced(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None, "gevent: this operation would block for ever"
            waits.append(timeout)
            if len(waits) == 3:
                self.set()
            return super().wait(0)

    waits: list[float] = []
    monkeypatch.setattr(own_threads, "are_replaced", lambda: True)
    assert own_threads.wait_for(Replaced())
    assert waits == [own_threads.LOOK_S] * 3
