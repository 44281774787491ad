"""An allocation beyond the limit fails inside the algorithm, as its own error."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable

import pytest
from hkrunner.sandbox.shared.limits import MI, Limits
from hkrunner.sandbox.usage.sampler import TreeSampler
from hkrunner.sandbox.usage.usage import breach
from hkrunner.sandbox.warden.memory_brake import Brake
from support.trees import Tree

pytestmark = pytest.mark.alone

LIMITS = Limits(memory_bytes=128 * MI)

WAITS_FOR_A_LINE = "import signal, sys; signal.alarm(20); sys.stdin.readline()\n"


class Braked:
    """One piece of code on the brake, with a pipe to its stdin and its output."""

    def __init__(self, code: str) -> None:
        self.sampler = TreeSampler(os.getpid(), LIMITS)
        self.brake = Brake(128 * MI)
        self._tree = Tree(self.sampler)
        self._in_read, self._in = os.pipe()
        self._out, self._out_write = os.pipe()
        self.pid = self._tree.start(code=WAITS_FOR_A_LINE + code, before_exec=self._connect)

    def _connect(self) -> None:
        os.dup2(self._in_read, 0)
        os.dup2(self._out_write, 1)

    def __enter__(self) -> Braked:
        return self

    def __exit__(self, *_: object) -> None:
        self._tree.__exit__(None, None, None)
        for fd in (self._in_read, self._in, self._out, self._out_write):
            os.close(fd)
        self.sampler.close()

    def go(self) -> None:
        os.write(self._in, b"\n")

    def watch(self, until: Callable[[], object], what: str) -> None:
        self._tree.watch(lambda: self.brake.adjust(self.sampler, time.monotonic()) or until(), what=what)

    @property
    def is_over(self) -> bool:
        return self._tree.ended.get(self.pid) is not None

    def output(self) -> str:
        return os.read(self._out, 4096).decode()


def soft(pid: int) -> int:
    return resource.prlimit(pid, resource.RLIMIT_DATA)[0]


def test_one_large_allocation_fails_as_memory_error_and_the_process_goes_on() -> None:
    code = """
try:
    bytearray(b"x") * (200 << 20)
except MemoryError:
    print("MemoryError")
small = bytearray(b"x") * (40 << 20)
print("went on")
"""
    with Braked(code) as one:
        one.watch(lambda: soft(one.pid) != resource.RLIM_INFINITY, "the brake")
        one.go()
        one.watch(lambda: one.is_over, "its end")
        assert one.output() == "MemoryError\nwent on\n"
        assert one.sampler.peak_bytes < 128 * MI


def test_small_steps_run_into_the_brake_before_they_run_into_the_limit() -> None:
    code = """
kept = []
try:
    while True:
        kept.append(bytearray(50_000))
except MemoryError:
    kept = None
    print("MemoryError")
"""
    with Braked(code) as one:
        seen = []
        one.watch(lambda: soft(one.pid) != resource.RLIM_INFINITY, "the brake")
        one.go()
        one.watch(lambda: seen.append(breach(one.sampler.usage, LIMITS)) or one.is_over, "its end")
        assert one.output() == "MemoryError\n"
        # What was reserved before and touched now is no allocation: it passes the brake, and is little.
        over = [found.used - found.allowed for found in seen if found is not None]
        assert max(over, default=0) <= 4 * MI


def test_the_hard_limit_is_never_touched_and_the_soft_one_given_back() -> None:
    with Braked("") as one:
        before = resource.prlimit(one.pid, resource.RLIMIT_DATA)
        one.watch(lambda: soft(one.pid) != before[0], "the brake")
        assert resource.prlimit(one.pid, resource.RLIMIT_DATA)[1] == before[1]
        one.brake.off()
        assert resource.prlimit(one.pid, resource.RLIMIT_DATA) == before


def test_room_comes_back_when_memory_is_given_back() -> None:
    code = """
for _ in range(4):
    kept = bytearray(b"x") * (80 << 20)
    del kept
print("four times")
"""
    with Braked(code) as one:
        one.watch(lambda: soft(one.pid) != resource.RLIM_INFINITY, "the brake")
        one.go()
        one.watch(lambda: one.is_over, "its end")
        assert one.output() == "four times\n"


def test_the_users_own_lower_limit_is_never_raised() -> None:
    calls: list[tuple[int, int]] = []

    def prlimit(pid: int, which: int, pair: tuple[int, int] | None = None) -> tuple[int, int]:
        if pair is not None:
            calls.append(pair)
        return 30 * MI, 40 * MI

    sampler = TreeSampler(os.getpid(), LIMITS)
    with Tree(sampler) as tree:
        tree.start(code=WAITS_FOR_A_LINE)
        sampler.look(0.0)
        brake = Brake(128 * MI, prlimit=prlimit)
        brake.adjust(sampler, 0.0)
        brake.off()
    sampler.close()
    assert all(soft <= 30 * MI and hard == 40 * MI for soft, hard in calls)


def test_processes_that_are_gone_or_anothers_are_passed_over() -> None:
    def prlimit(pid: int, which: int, pair: tuple[int, int] | None = None) -> tuple[int, int]:
        raise PermissionError(pid)

    sampler = TreeSampler(os.getpid(), LIMITS)
    with Tree(sampler) as tree:
        tree.start(code=WAITS_FOR_A_LINE)
        sampler.look(0.0)
        brake = Brake(128 * MI, prlimit=prlimit)
        brake.adjust(sampler, 0.0)
        assert brake.refused == 1
        brake.off()
    sampler.close()
