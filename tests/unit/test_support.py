"""The helpers of the tests, tested: what they promise to find, they find."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

import pytest
from support.leftovers import SHARED_MEMORY, Stock, is_held_by_others, leftovers, take_stock
from support.ports import HeldPort
from support.processes import MARKER, family, kill_all, marked, runs
from support.programs import Program, run
from support.waiting import wait_until

SLEEPER = [sys.executable, "-I", "-c", "import time; print('up', flush=True); time.sleep(60)"]
# Leaves a grandchild in a session of its own, which no longer has us among its parents.
DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)
os.wait()
"""


def left_here(before: Stock, marker: str = "none", *, name: str = "/name of nothing") -> list[str]:
    """Return what is left since then; of what tests beside this one may have, what has this name."""
    return [
        line
        for line in leftovers(before, marker)
        if name in line or not line.startswith(("shared memory ", "control group "))
    ]


def test_waiting_ends_at_its_deadline_and_says_for_what() -> None:
    with pytest.raises(AssertionError, match=r"a miracle: not within 0\.02 s"):
        wait_until(lambda: False, deadline_s=0.02, what="a miracle")


def test_what_comes_while_this_process_is_stopped_is_seen_after_the_deadline() -> None:
    asked: list[int] = []

    def comes_late() -> bool:
        if not asked:
            time.sleep(0.02)  # as if it had been stopped before it looked again
        asked.append(1)
        return len(asked) == 2

    assert wait_until(comes_late, deadline_s=0.01, what="it")


def test_waiting_returns_the_value() -> None:
    values = iter([0, None, "here"])
    assert wait_until(lambda: next(values), what="a value") == "here"


def test_a_child_left_running_is_found() -> None:
    before = take_stock()
    with subprocess.Popen(SLEEPER, stdout=subprocess.DEVNULL) as child:
        (line,) = left_here(before)
        assert f"process {child.pid} " in line and line.endswith("was left")
        child.kill()
    assert left_here(before) == []


def test_a_child_that_was_not_waited_for_is_found() -> None:
    before = take_stock()
    child = subprocess.Popen(["true"])
    zombie = f"process {child.pid} (ended, but nobody waits for it) was left"
    wait_until(lambda: left_here(before) == [zombie], what="the zombie")
    child.wait()
    assert left_here(before) == []


def test_a_daemon_is_found_by_the_marker_it_inherited() -> None:
    before, marker = take_stock(), uuid.uuid4().hex
    ended = subprocess.run(
        [sys.executable, "-I", "-c", DAEMON], env={**os.environ, MARKER: marker}, timeout=10, check=True
    )
    assert ended.returncode == 0
    (daemon,) = marked(marker)
    (line,) = left_here(before, marker)
    assert f"process {daemon.pid} " in line
    kill_all({daemon})
    wait_until(lambda: not marked(marker), what="the end of the daemon")


def test_a_thread_left_running_is_found() -> None:
    before, end = take_stock(), threading.Event()
    thread = threading.Thread(target=end.wait, name="left")
    thread.start()
    assert left_here(before) == ["thread 'left' was left running"]
    end.set()
    thread.join()


def test_a_descriptor_left_open_is_found() -> None:
    before = take_stock()
    number = os.open(os.devnull, os.O_RDONLY)
    assert left_here(before) == [f"descriptor {number} was left open: /dev/null"]
    os.close(number)


def test_shared_memory_and_temporary_files_left_are_found() -> None:
    before, name = take_stock(), f"hkrunner-{uuid.uuid4().hex}"
    files = [SHARED_MEMORY / name, Path(tempfile.gettempdir(), name)]
    strangers = SHARED_MEMORY / f"of another program {name}"
    for file in (*files, strangers):
        file.touch()
    assert left_here(before, name=name) == [
        f"shared memory {files[0]} was left behind",
        f"{files[1]} was left in the temporary folder",
    ]
    for file in (*files, strangers):
        file.unlink()


def test_shared_memory_of_a_unit_test_beside_this_one_is_not_ours() -> None:
    whose = {
        pid: is_held_by_others(SHARED_MEMORY / f"hkrunner_unit_{pid}", set())
        for pid in (os.getpid(), os.getppid(), 2**23)
    }
    assert whose == {os.getpid(): False, os.getppid(): True, 2**23: False}


def test_a_semaphore_of_another_program_is_not_ours() -> None:
    code = (
        "import _multiprocessing as m, sys; input(); name = sys.argv[1];"
        "lock = m.SemLock(1, 1, 1, name, False); print('made', flush=True); input(); m.sem_unlink(name)"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    name = f"/hkrunner-test-{uuid.uuid4().hex}"
    with subprocess.Popen([sys.executable, "-c", code, name], **pipes) as other:
        assert other.stdin is not None and other.stdout is not None
        before = take_stock()
        other.stdin.write(b"\n")
        other.stdin.flush()
        assert other.stdout.readline() == b"made\n"
        assert left_here(before, name=name[1:]) == []
        other.communicate(b"\n")


def test_a_held_port_refuses_connections_until_it_is_listened_at() -> None:
    with contextlib.closing(HeldPort()) as port:
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port.number))
            with port.listen(), socket.create_connection(("127.0.0.1", port.number)):
                pass


def test_a_program_gives_its_output_and_status() -> None:
    ended = run(["sh", "-c", "cat; echo two >&2; exit 3"], input="one\n")
    assert (ended.status, ended.stdout, ended.stderr) == (3, "one\n", "two\n")


def test_a_program_past_its_deadline_is_killed_with_all_it_started() -> None:
    program = Program(["sh", "-c", "sh -c 'echo up; exec sleep 60' & wait"])
    program.wait_for_line("up", stream="stdout")
    processes = program.family()
    assert len(processes) == 2
    with pytest.raises(AssertionError, match=r"its end: not within 0\.1 s"):
        program.wait(deadline_s=0.1)
    assert not any(runs(process) for process in processes)
    assert family(program.pid) == set()


def test_a_program_that_ends_early_is_not_waited_for() -> None:
    with (
        Program(["sh", "-c", "echo sorry >&2; exit 4"]) as program,
        pytest.raises(AssertionError, match=r"it ended with 4 before 'ready' came"),
    ):
        program.wait_for_line("ready")


def test_a_program_is_stopped_at_the_end_of_the_block() -> None:
    with Program(SLEEPER) as program:
        program.wait_for_line("up", stream="stdout")
    assert program.status == -signal.SIGTERM
