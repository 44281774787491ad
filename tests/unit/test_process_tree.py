"""Finding and ending the processes below one, without touching any other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest
from hkrunner.sandbox.linux import process_tree, procfs
from hkrunner.sandbox.shared.channel import LAST_STACK_SIGNAL
from support.processes import runs
from support.waiting import wait_until

pytestmark = pytest.mark.alone

# Four below the first: two children, each with one of its own.
FAMILY = """
import os, signal
signal.alarm(60)
os.fork() and os.fork() or os.fork()
signal.alarm(60)
print("x", flush=True, end="")
while True: signal.pause()
"""
ENDING = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from hkrunner.sandbox.linux import kernel, process_tree
kernel.become_subreaper()
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(60)
        os._exit(3)
reaped = []
there, left = process_tree.kill_all(reaped=lambda pid, status, usage: reaped.append(pid), wait=time.sleep)
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print(len(set(reaped)) >= 5, left)
"""


@pytest.fixture
def family() -> Iterator[psutil.Process]:
    with subprocess.Popen([sys.executable, "-I", "-c", FAMILY], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        root = psutil.Process(process.pid)
        count = 0
        while count < 5:
            count += len(os.read(process.stdout.fileno(), 10))
        members = [*root.children(recursive=True), root]
        yield root
        for one in members:
            one.kill()
        wait_until(lambda: not any(map(runs, members)), what="the end of the family")


def test_all_descendants_are_found_and_no_other_process(family: psutil.Process) -> None:
    expected = {one.pid for one in family.children(recursive=True)}
    assert set(process_tree.descendants(family.pid)) == expected and len(expected) == 4
    assert set(process_tree.children(family.pid)) == {one.pid for one in family.children()}


def test_a_branch_can_be_left_out(family: psutil.Process) -> None:
    branch = next(one for one in family.children() if one.children())
    spared = {branch.pid, *(one.pid for one in branch.children(recursive=True))}
    found = set(process_tree.descendants(family.pid, except_for=frozenset({branch.pid})))
    assert found == {one.pid for one in family.children(recursive=True)} - spared


def test_freezing_stops_all_descendants_and_not_the_root(family: psutil.Process) -> None:
    found = process_tree.freeze(family.pid, deadline=time.monotonic() + 5)
    members = family.children(recursive=True)
    assert set(found) == {one.pid for one in members}
    wait_until(lambda: {one.status() for one in members} == {"stopped"}, what="all stopped")
    assert family.status() != "stopped"
    assert all(one.rss_bytes > 0 and "python" in one.name for one in found.values())


def test_a_process_that_has_ended_has_no_children_and_no_size() -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    assert process_tree.children(process.pid) == []
    assert process_tree.look(process.pid) == process_tree.Left(process.pid, "?", 0)
    process_tree.signal_to(process.pid, signal.SIGKILL)


def test_a_process_that_ended_by_itself_is_told_from_one_that_was_killed() -> None:
    for number, name in ((0, process_tree.ENDED), (signal.SIGKILL, "cat"), (LAST_STACK_SIGNAL, "cat")):
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
            wait_until(lambda one=process: procfs.name(one.pid) == "cat", what="the program runs")
            assert process_tree.look(process.pid).name == "cat"
            process.send_signal(number)
            assert process.stdin is not None
            process.stdin.close()
            wait_until(lambda one=process: procfs.is_ending(one.pid), what="its end, which nobody has reaped")
            assert process_tree.look(process.pid).name == name


def test_a_process_whose_main_thread_alone_has_ended_has_not_ended() -> None:
    code = (
        "import ctypes, threading\n"
        "threading.Thread(target=input).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        wait_until(lambda: procfs.is_ending(process.pid), what="the end of its main thread")
        assert process_tree.look(process.pid).name != process_tree.ENDED
        process.kill()


def test_ending_a_tree_reaps_every_process() -> None:
    import hkrunner

    place = os.path.dirname(os.path.dirname(hkrunner.__file__))
    ended = subprocess.run(
        [sys.executable, "-I", "-c", ENDING, place], capture_output=True, text=True, timeout=20, check=False
    )
    assert ended.stdout == "True []\n", ended.stderr


def test_a_process_counts_as_ending_until_it_is_reaped() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert not procfs.is_ending(process.pid)
        process.kill()
        wait_until(lambda: procfs.is_ending(process.pid), what="its end is seen, though nobody has reaped it")
    with pytest.raises(OSError):
        procfs.is_ending(process.pid)


def test_a_process_of_a_user_in_a_thousand_groups_is_read_like_any_other() -> None:
    """They are a line of its status, which filled all that was read: what follows counted as missing."""
    code = (
        "import contextlib, os, signal\n"
        "with contextlib.suppress(PermissionError):\n"  # who may not join groups is read like others, too
        "    os.setgroups(range(10**9, 10**9 + 1000))\n"
        "signal.signal(signal.SIGUSR1, print)\n"
        "print(flush=True); input()\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert procfs.catches(process.pid, signal.SIGUSR1)
        assert procfs.handles_signal(process.pid, signal.SIGUSR1)
        assert procfs.status_field(process.pid, b"RssShmem") is not None
        process.kill()
