"""The enforcement of all limits: when it measures, what it finds, what it leaves."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hkrunner.sandbox.linux.oom_counter import OomWatch
from hkrunner.sandbox.shared.limits import MI, Limits
from hkrunner.sandbox.usage import psutil_walk
from hkrunner.sandbox.usage.psutil_walk import PsutilSampler
from hkrunner.sandbox.usage.usage import Breach
from hkrunner.sandbox.warden import limit_enforcer
from hkrunner.sandbox.warden.cpu_throttle import CpuThrottle
from hkrunner.sandbox.warden.limit_enforcer import LimitEnforcer
from support.trees import Tree
from support.waiting import wait_until

pytestmark = pytest.mark.alone

Make = Callable[[Limits], LimitEnforcer]
SLEEPER = "import signal, time; signal.alarm(20); time.sleep(15)"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[LimitEnforcer] = []

    def enforcer(limits: Limits) -> LimitEnforcer:
        made.append(LimitEnforcer(limits, folders=[str(tmp_path)], ours=[]))
        # Scans of shared memory take no time, whatever the machine does: a pause follows a long one.
        made[-1]._shared._perf = lambda: 0.0
        return made[-1]

    yield enforcer
    for one in made:
        one.finish()


def breach_of(enforcer: LimitEnforcer, tree: Tree, *, deadline_s: float = 15.0) -> Breach:
    """Look as the warden does until a limit is broken."""
    deadline = time.monotonic() + deadline_s
    while (now := time.monotonic()) < deadline:
        if now >= enforcer.next_at and (found := enforcer.check(now)) is not None:
            return found
        tree.reap()
        time.sleep(max(0.0, min(enforcer.next_at - time.monotonic(), 0.05)))
    raise AssertionError("no limit was broken")


def test_an_idle_tree_without_a_limit_needs_no_check(make: Make) -> None:
    enforcer = make(Limits())
    enforcer.check(time.monotonic())
    enforcer.idle = True
    assert enforcer.next_at == math.inf
    enforcer.idle = False
    assert enforcer.next_at < time.monotonic() + 0.2


def test_an_idle_tree_with_a_limit_on_cpu_time_is_checked_once_a_second(make: Make) -> None:
    enforcer = make(Limits(cpu_time_s=60.0))
    enforcer.idle = True
    now = time.monotonic()
    enforcer.check(now)
    assert enforcer.next_at == now + limit_enforcer.IDLE_CHECK_S


def test_shared_memory_made_while_no_check_ran_is_removed_at_the_end(make: Make) -> None:
    enforcer = LimitEnforcer(Limits(), folders=[], ours=[])
    enforcer.check(time.monotonic())
    enforcer.idle = True
    path = Path(f"/dev/shm/hkrunner-test-{os.getpid()}")
    with Tree() as tree:
        tree.start(code=f"held = open('{path}', 'w'); held.write('x' * 5000); held.flush(); {SLEEPER}")
        wait_until(lambda: path.exists() and path.stat().st_size == 5000, what="the file")
        enforcer.check_before_kill()
    assert [one.name for one in enforcer.finish().removed] == [str(path)]
    assert not path.exists()


@pytest.mark.parametrize("limits", [Limits(memory_bytes=512 * MI), Limits(pids=4000)])
def test_an_idle_tree_with_a_limit_is_checked_as_often_as_a_busy_one(make: Make, limits: Limits) -> None:
    enforcer = make(limits)
    enforcer.idle = True
    now = time.monotonic()
    enforcer.check(now)
    assert enforcer.next_at < now + 0.2


def test_a_limit_that_is_not_enforced_needs_no_check(make: Make) -> None:
    enforcer = make(Limits(memory_bytes=512 * MI, pids=1, enforced=False))
    enforcer.idle = True
    assert enforcer.check(time.monotonic()) is None
    assert enforcer.next_at == math.inf


def test_psutil_is_imported_for_a_limit_or_a_second_process(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Limits] = []

    class Noted(PsutilSampler):
        def __init__(self, root_pid: int, limits: Limits) -> None:
            made.append(limits)
            super().__init__(root_pid, limits)

    monkeypatch.setattr(psutil_walk, "PsutilSampler", Noted)
    free, limited = Limits(), Limits(pids=1000)
    enforcers = [make(free), make(limited)]
    now = time.monotonic()
    with Tree() as tree:
        pids = {tree.start(code=SLEEPER)}
        for at in (now, now + 1000):
            for one in enforcers:
                one._sampler.look(at)
                assert set(one._sampler.pids()) == pids
        assert made == [limited]
        pids.add(tree.start(code=SLEEPER))
        enforcers[0]._sampler.look(now + 2000)
        assert made == [limited, free] and set(enforcers[0]._sampler.pids()) == pids


def test_memory_beyond_the_limit_is_found_and_confirmed(make: Make) -> None:
    enforcer = make(Limits(memory_bytes=100 * MI, mem_mode="rss"))
    with Tree() as tree:
        tree.start("sandbox_hog.py", "pages", "300")
        found = breach_of(enforcer, tree)
        assert (found.kind, found.allowed) == ("memory", 100 * MI) and found.used > 100 * MI
        sure = enforcer.check_frozen_tree()
        assert sure is not None and sure.kind == "memory"
        assert enforcer.describe_breach(found).top[0].memory_bytes > 90 * MI
        assert enforcer.sample().peak_bytes >= 100 * MI


def test_too_many_processes_are_found_and_listed(make: Make) -> None:
    enforcer = make(Limits(pids=3))
    with Tree() as tree:
        for _ in range(5):
            tree.start(code=SLEEPER)
        found = breach_of(enforcer, tree)
        assert found.kind == "processes" and found.used > 3
        sure = enforcer.check_frozen_tree()
        assert sure is not None and sure.used == 5
        assert len(enforcer.describe_breach(found).top) == 5


def test_written_bytes_are_found(make: Make, tmp_path: Path) -> None:
    enforcer = make(Limits(disk_bytes=1 * MI))
    (tmp_path / "large").write_bytes(os.urandom(2 * MI))
    with Tree() as tree:
        found = breach_of(enforcer, tree)
    assert found.kind == "disk" and found.used >= 2 * MI


def test_a_suspended_cpu_limit_stays_suspended_when_a_kill_is_called_off(make: Make) -> None:
    enforcer = make(Limits(cpu_cores=0.01))
    assert isinstance(enforcer.cpu_limit.throttle, CpuThrottle)
    enforcer.cpu_limit.suspend()
    enforcer.cpu_limit.stop()
    enforcer.cpu_limit.restart()
    assert enforcer.cpu_limit.throttle is None
    enforcer.cpu_limit.resume()
    assert isinstance(enforcer.cpu_limit.throttle, CpuThrottle)


def test_a_kill_that_is_called_off_leaves_the_cpu_limit_on(make: Make) -> None:
    enforcer = make(Limits(cpu_cores=0.01))
    enforcer.cpu_limit.stop()
    enforcer.cpu_limit.restart()
    assert isinstance(enforcer.cpu_limit.throttle, CpuThrottle)


def test_enforcement_is_described_in_one_line(make: Make) -> None:
    told = make(Limits(memory_bytes=256 * MI, pids=9, task_timeout_s=60.0)).confinement.describe()
    assert told.line.startswith("limits: memory 256 MiB by ") and "\n" not in told.line
    assert "processes 9 by counting" in told.line and "task 60 s" in told.line
    assert told.level in ("sampling", "cgroup") and isinstance(told.signals_confined, bool)


def test_the_account_at_the_end_has_the_figures_of_the_answer(make: Make) -> None:
    enforcer = LimitEnforcer(Limits(memory_bytes=256 * MI), folders=[], ours=[])
    enforcer.check(time.monotonic())
    account = enforcer.finish()
    assert (account.removed, account.kept) == ([], [])
    assert (account.group_oom, account.peak_bytes) == (False, 0)


def test_an_oom_kill_elsewhere_is_not_taken_for_the_cause_of_a_later_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kills = [3]
    monkeypatch.setattr(limit_enforcer, "OomWatch", lambda now: OomWatch(now, count=lambda: kills[0]))
    first, second = (LimitEnforcer(Limits(), folders=[], ours=[]) for _ in range(2))
    began = time.monotonic()
    first.check(began + 1)
    kills[0] += 1
    for later in range(2, 5):
        first.check(began + later)
    assert (first.finish().machine_oom, second.finish().machine_oom) == (False, True)
