"""A CPU quota stops no tree below it, and leaves no process stopped; tests/faults/test_cpu.py: it holds."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from hkrunner.sandbox.shared.limits import Limits
from hkrunner.sandbox.usage.sampler import TreeSampler
from hkrunner.sandbox.warden.cpu_throttle import CpuThrottle, ThrottleState
from support.trees import Tree
from support.waiting import wait_until

pytestmark = pytest.mark.alone


def drive(throttle: CpuThrottle, sampler: TreeSampler, tree: Tree, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        if now >= sampler.next_at:
            sampler.look(now)
        if now >= throttle.next_at:
            throttle.tick(now)
        tree.reap()
        time.sleep(max(0.0, min(sampler.next_at, throttle.next_at) - time.monotonic()))


#: Makes a file, and then uses little CPU.
LIGHT = """
import signal, sys, time
signal.alarm(60)
open(sys.argv[1], "w").close()
while True:
    time.sleep(0.005)
"""


def test_a_program_below_its_quota_is_never_stopped(tmp_path: Path) -> None:
    sampler = TreeSampler(os.getpid(), Limits())
    throttle = CpuThrottle(0.5, sampler, cpus=2)
    with Tree(sampler) as tree:
        tree.start(str(tmp_path / "begun"), code=LIGHT)

        def has_begun() -> bool:
            drive(throttle, sampler, tree, 0.02)
            return (tmp_path / "begun").exists()

        wait_until(has_begun, deadline_s=60, what="the end of the interpreter's start, which may use it all")
        drive(throttle, sampler, tree, 0.5)  # until that is paid for
        stops = throttle._stops
        drive(throttle, sampler, tree, 1.5)
        assert throttle._stops == stops
        throttle.close()
    sampler.close()


def test_a_closed_throttle_lets_all_processes_run_for_good() -> None:
    sampler = TreeSampler(os.getpid(), Limits())
    throttle = CpuThrottle(0.05, sampler, cpus=2)
    with Tree(sampler) as tree:
        tree.start("sandbox_spin.py", "processes", "10")

        def are_stopped() -> bool:
            drive(throttle, sampler, tree, 0.02)  # who begins while the others are stopped is stopped next
            statuses = {psutil.Process(pid).status() for pid in sampler.pids()}
            return throttle.state is ThrottleState.STOPPED and statuses == {psutil.STATUS_STOPPED}

        wait_until(are_stopped, what="everybody to be stopped")
        throttle.close()
        throttle.close()
        wait_until(
            lambda: all(psutil.Process(pid).status() != psutil.STATUS_STOPPED for pid in sampler.pids()),
            what="everybody to run",
        )
        assert throttle.tick(time.monotonic()) > time.monotonic() + 1000
        assert throttle.state is not ThrottleState.STOPPED
    sampler.close()


class Account:
    """A tree of one process that uses CPU as a test says."""

    def __init__(self) -> None:
        self.used_s = 0.0
        self.sent: list[int] = []

    def walk_if_born(self) -> bool:
        return False

    def pids(self) -> list[int]:
        return [1]

    def cpu_ns(self) -> int:
        return int(self.used_s * 1e9)


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Account:
    one = Account()
    monkeypatch.setattr(os, "kill", lambda pid, number: one.sent.append(number))
    return one


def test_a_debt_is_paid_before_any_process_continues(account: Account) -> None:
    throttle = CpuThrottle(0.5, account, cpus=2)
    throttle.tick(0.0)
    account.used_s = 0.1
    throttle.tick(0.05)
    assert account.sent == [signal.SIGSTOP]
    now = 0.05
    while throttle.state is ThrottleState.STOPPED:
        now = throttle.next_at
        throttle.tick(now)
    # 0.1 s at half a processor take 0.2 s, and a little for the next stretch.
    assert 0.2 <= now <= 0.26
    assert account.sent == [signal.SIGSTOP, signal.SIGCONT]


def test_unused_quota_is_kept_up_to_the_burst_only(account: Account) -> None:
    throttle = CpuThrottle(0.5, account, cpus=2)
    throttle.tick(0.0)
    throttle.tick(100.0)
    account.used_s = 0.11  # 0.2 s at half a processor are 0.1
    throttle.tick(100.0)
    assert throttle.state is ThrottleState.STOPPED


def test_a_tree_that_another_process_continues_is_stopped_again(account: Account) -> None:
    throttle = CpuThrottle(0.1, account, cpus=2)
    throttle.tick(0.0)
    account.used_s = 0.2
    throttle.tick(0.05)
    account.used_s = 0.25
    throttle.tick(0.06)
    assert account.sent == [signal.SIGSTOP, signal.SIGSTOP]
    assert throttle._stops == 1


def test_a_quota_of_all_processors_needs_no_stops(account: Account) -> None:
    throttle = CpuThrottle(2, account, cpus=2)
    assert not throttle.is_needed
    account.used_s = 50
    throttle.tick(1.0)
    assert account.sent == []


def test_the_quota_is_corrected_for_what_is_lost(account: Account) -> None:
    """A machine that wakes us late each time costs the tree time, which the correction gives back."""
    throttle = CpuThrottle(0.5, account, cpus=2)
    now = 0.0
    while now < 40.0:
        throttle.tick(now)
        late = 0.004
        step = max(throttle.next_at - now, 0.0) + late
        if throttle.state is not ThrottleState.STOPPED:
            account.used_s += step
        now += step
    assert account.used_s / now == pytest.approx(0.5, rel=0.02)
