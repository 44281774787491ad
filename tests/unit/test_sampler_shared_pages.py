"""Memory that several processes share, or that belongs to none, is counted once, and only for its tree."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from pathlib import Path

import psutil
import pytest
from hkrunner.runner.serving import task_usage
from hkrunner.sandbox.linux import procfs
from hkrunner.sandbox.shared.limits import MI, Limits
from hkrunner.sandbox.usage.sampler import TreeSampler
from hkrunner.sandbox.usage.shared_memory import SharedMemory
from hkrunner.sandbox.usage.usage import breach
from support.trees import Tree
from support.waiting import wait_until

pytestmark = pytest.mark.alone
FILLS_A_SHARED_MAP = """
import mmap, signal, time
signal.alarm(30)
memory = mmap.mmap(-1, 200 << 20)
for _ in range(200):
    memory.write(b"x" * (1 << 20))
    time.sleep(0.002)
time.sleep(20)
"""
SLEEPER = "import signal, time; signal.alarm(30); time.sleep(20)"


def test_a_pool_that_shares_its_memory_is_not_over_the_limit() -> None:
    limits = Limits(memory_bytes=200 * MI)
    sampler = TreeSampler(os.getpid(), limits)
    seen = []
    with Tree(sampler) as tree:
        tree.start("sandbox_pool.py", "120", "4")
        # Five times 120 MiB by RSS, all of it shared.
        tree.watch(
            lambda: seen.append(breach(sampler.usage, limits)) or sampler.usage.rss_bytes > 500 * MI,
            what="the pool to have read everything",
        )
        until = time.monotonic() + 0.5
        tree.watch(
            lambda: seen.append(breach(sampler.usage, limits)) or time.monotonic() > until,
            what="half a second",
        )
        assert not any(seen)
        assert 100 * MI < sampler.usage.memory_bytes < 200 * MI
        assert sampler.peak_bytes < 200 * MI
    sampler.close()


def test_a_process_that_ends_while_the_exact_sums_are_read_is_not_counted_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = """
import os, signal, time
signal.alarm(20)
memory = bytearray(b"x") * (100 << 20)
if os.fork():
    os.wait()
else:
    signal.alarm(20)
time.sleep(15)
"""
    sampler = TreeSampler(os.getpid(), Limits())
    with Tree(sampler) as tree:
        parent = tree.start(code=code)
        read = procfs.pss

        def after_its_end(pid: int) -> procfs.Pss:
            if pid != parent and os.path.exists(f"/proc/{pid}"):
                os.kill(pid, signal.SIGKILL)
                wait_until(lambda: not os.path.exists(f"/proc/{pid}"), what="the child's end")
            return read(pid)

        monkeypatch.setattr(procfs, "pss", after_its_end)
        tree.watch(lambda: sampler.usage.pss_bytes, what="the exact sums")
        assert 100 * MI < sampler.usage.pss_bytes < 120 * MI
        assert sampler.peak_bytes < 120 * MI
    sampler.close()


def test_a_pool_that_stops_sharing_exceeds_the_limit_though_its_rss_does_not_grow() -> None:
    code = """
import os, signal, time
signal.alarm(20)
memory = bytearray(b"x") * (90 << 20)
for _ in range(4):
    if os.fork() == 0:
        signal.alarm(20)
        for at in range(0, len(memory), 4096):
            if at % (4 << 20) == 0:
                os.read(0, 1)
            memory[at] = 121
        time.sleep(15)
time.sleep(15)
"""
    limits = Limits(memory_bytes=200 * MI)
    sampler = TreeSampler(os.getpid(), limits)
    reading, writing = os.pipe()

    def is_over() -> bool:
        """Whether it exceeds the limit; if not, have one of them write to 4 MiB, once the last one does."""
        if breach(sampler.usage, limits) is not None:
            return True
        if not select.select([reading], [], [], 0)[0]:
            os.write(writing, b".")
        return False

    with Tree(sampler) as tree:
        tree.start(code=code, before_exec=lambda: os.dup2(reading, 0))
        tree.watch(lambda: sampler.usage.processes == 5, what="all processes")
        rss = sampler.usage.rss_bytes
        tree.watch(is_over, what="a breach")
        assert sampler.usage.is_judged
        assert sampler.usage.memory_bytes < 240 * MI
        assert sampler.usage.rss_bytes < rss + 20 * MI
    for fd in (reading, writing):
        os.close(fd)
    sampler.close()


def test_pages_of_a_file_that_was_mapped_and_read_do_not_count(tmp_path: Path) -> None:
    big = tmp_path / "big"
    with open(big, "wb") as file:
        file.write(b"x" * (150 * MI))
    reader = f"""
import mmap, signal, time
signal.alarm(20)
with open({str(big)!r}, "rb") as file:
    memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
sum(memory[::4096])
time.sleep(15)
"""
    limits = Limits(memory_bytes=64 * MI)
    sampler = TreeSampler(os.getpid(), limits)
    seen = []
    with Tree(sampler) as tree:
        tree.start(code=reader)
        tree.watch(
            lambda: seen.append(breach(sampler.usage, limits)) or sampler.usage.rss_bytes > 140 * MI,
            what="the file to be mapped",
        )
    sampler.close()
    assert not any(seen)


def test_shared_memory_that_was_filled_between_two_looks_is_not_taken_for_pages_of_a_file() -> None:
    code = """
import mmap, signal, time
signal.alarm(20)
memory = mmap.mmap(-1, 40 << 20)
for at in range(0, 40 << 20, 4096):
    memory[at] = 1
time.sleep(15)
"""
    sampler = TreeSampler(os.getpid(), Limits())
    with Tree() as tree:
        pid = tree.start(code=code)
        sampler.look(0.0)
        wait_until(
            lambda: (procfs.status_field(pid, b"RssShmem") or 0) >= 40 << 10, what="the map to be full"
        )
        sampler.look(1.0)
        assert sampler.usage.memory_bytes > 40 * MI
        assert sampler.files_peak_bytes < 20 * MI
    sampler.close()


@pytest.mark.parametrize("how", ["tmpfs", "memfd"])
def test_shared_memory_that_no_rss_shows_is_counted_and_named(how: str) -> None:
    limits = Limits(memory_bytes=64 * MI)
    shared = SharedMemory()
    sampler = TreeSampler(os.getpid(), limits, shared=shared)
    with Tree(sampler) as tree:
        pid = tree.start("sandbox_hog.py", how, "100")
        tree.watch(lambda: breach(sampler.usage, limits), what="a breach")
        found = breach(sampler.usage, limits)
        assert found is not None and found.kind == "shared_memory"
        assert sampler.usage.shared_bytes > 50 * MI
        expected = f"/dev/shm/hkrunner_hog_{pid}" if how == "tmpfs" else "hog"
        assert [one.name for one in shared.objects()][:1] == [expected]
    removed, _ = shared.remove_left_over()
    assert [one.name for one in removed] == ([expected] if how == "tmpfs" else [])
    assert not os.path.exists(f"/dev/shm/hkrunner_hog_{pid}")
    sampler.close()
    shared.close()


def test_a_shared_map_counts_once_though_two_map_it() -> None:
    code = """
import mmap, os, signal, time
signal.alarm(20)
fd = os.memfd_create("both")
os.ftruncate(fd, 60 << 20)
memory = mmap.mmap(fd, 60 << 20)
for at in range(0, 60 << 20, 1 << 20):
    memory[at : at + (1 << 20)] = b"x" * (1 << 20)
if os.fork() == 0:
    signal.alarm(20)
    sum(memory[::4096])
time.sleep(15)
"""
    limits = Limits(memory_bytes=110 * MI)
    shared = SharedMemory()
    sampler = TreeSampler(os.getpid(), limits, shared=shared)
    seen = []
    with Tree(sampler) as tree:
        tree.start(code=code)
        tree.watch(
            lambda: (
                seen.append(breach(sampler.usage, limits))
                or (sampler.usage.shared_bytes >= 60 * MI and sampler.usage.rss_bytes > 120 * MI)
            ),
            what="both to have mapped it",
        )
        until = time.monotonic() + 0.3
        tree.watch(
            lambda: seen.append(breach(sampler.usage, limits)) or time.monotonic() > until, what="a while"
        )
        assert not any(seen)
    sampler.close()
    shared.close()


def test_memory_that_one_process_has_mapped_three_times_counts_once() -> None:
    code = """
import mmap, os, signal, time
signal.alarm(30)
fd = os.memfd_create("thrice")
os.ftruncate(fd, 32 << 20)
held = [mmap.mmap(fd, 32 << 20) for _ in range(3)]
held[0].write(b"x" * (32 << 20))
time.sleep(0.1)
for one in held[1:]:
    sum(one[::4096])
time.sleep(25)
"""
    shared = SharedMemory()
    sampler = TreeSampler(os.getpid(), Limits(), shared=shared)
    with Tree(sampler) as tree:
        pid = tree.start(code=code)
        tree.watch(lambda: sampler.files_peak_bytes > 64 * MI, what="the exact figures of all maps")
        assert 32 * MI < sampler.peak_bytes < 80 * MI
        high, _ = task_usage._high_water(pid, sampler.files_peak_bytes)
        assert high < 80 * MI
    sampler.close()
    shared.close()


def test_a_process_that_fills_a_shared_map_is_stopped_while_its_exact_figures_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states: list[bytes] = []
    read_books = procfs.pss

    def watched(pid: int) -> procfs.Pss:
        if not sampler.is_frozen:  # a signal takes a moment to reach another processor
            with contextlib.suppress(AssertionError):
                wait_until(lambda: procfs.stat(pid).state == b"T", what="the stop")
        states.append(procfs.stat(pid).state)
        return read_books(pid)

    monkeypatch.setattr(procfs, "pss", watched)
    limits = Limits(memory_bytes=64 * MI)
    sampler = TreeSampler(os.getpid(), limits)
    with Tree(sampler) as tree:
        pid = tree.start(code=FILLS_A_SHARED_MAP)
        tree.watch(lambda: breach(sampler.usage, limits), what="a breach")
        assert states[-1] == b"T"
        wait_until(lambda: procfs.stat(pid).state != b"T", what="the process to go on")
        # A tree that another process has stopped stays stopped.
        sampler.is_frozen = True
        tree.watch(lambda: sampler.usage.memory_bytes > 100 * MI, what="growth")
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: procfs.stat(pid).state == b"T", what="the stop")
        sampler.look(time.monotonic())
        assert procfs.stat(pid).state == b"T"
    sampler.close()


def test_shared_memory_of_another_program_is_neither_counted_nor_removed() -> None:
    shared = SharedMemory()
    path = f"/dev/shm/hkrunner_of_somebody_else_{os.getpid()}"
    with Tree() as tree, open(path, "wb") as other:
        other.write(b"x" * (8 * MI))
        other.flush()
        pid = tree.start(code=SLEEPER)
        # Until exec it has what this process has open.
        wait_until(lambda: psutil.Process(pid).cmdline()[-1:] == [SLEEPER], what="the child's exec")
        shared.scan([pid], 0.0)
        assert path not in str(shared.objects())
        removed, kept = shared.remove_left_over()
        assert path not in str(removed) + str(kept)
        assert os.path.exists(path)
    os.unlink(path)
    shared.close()


def test_a_system_v_segment_that_the_run_left_is_removed() -> None:
    code = """
import ctypes, signal, sys, time
signal.alarm(20)
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
shmid = libc.shmget(0, 4 << 20, 0o1600)
ctypes.memset(libc.shmat(shmid, None, 0), 1, 4 << 20)
time.sleep(15)
"""
    shared = SharedMemory()
    with Tree() as tree:
        pid = tree.start(code=code)
        wait_until(
            lambda: shared.scan([pid], 0.0) or shared.total_bytes >= 4 * MI, what="the segment to be seen"
        )
        assert [one.kind for one in shared.objects()] == ["sysv"]
    removed, kept = shared.remove_left_over()
    # A file of another program may be among what is kept.
    assert [one.kind for one in removed] == ["sysv"] and "sysv" not in [one.kind for one in kept]
    shared.close()
