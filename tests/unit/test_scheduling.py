"""The warden has priority over the algorithm; neither call may raise."""

from __future__ import annotations

import os

import pytest
from hkrunner.sandbox.linux import scheduling

pytestmark = pytest.mark.alone


def in_child(number: int, policy: int = os.SCHED_OTHER) -> int:
    """Do one of them in a forked process, which keeps it from this one; return the nice value after it.

    The process has this scheduling policy, and must have it still.
    """
    pid = os.fork()
    if pid == 0:
        os.sched_setscheduler(0, policy, os.sched_param(0))
        (scheduling.ask_for_short_slices, scheduling.step_back, scheduling.restore_slices)[number]()
        os._exit(os.getpriority(os.PRIO_PROCESS, 0) + 20 if os.sched_getscheduler(0) == policy else 255)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) - 20


@pytest.mark.parametrize("policy", [os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_IDLE])
@pytest.mark.parametrize("number", [0, 2])
def test_time_slices_change_neither_the_nice_value_nor_the_policy(number: int, policy: int) -> None:
    assert in_child(number, policy) == os.getpriority(os.PRIO_PROCESS, 0)


def test_the_child_gets_a_lower_priority_than_the_warden() -> None:
    assert in_child(1) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + scheduling.CHILD_NICE)


def test_an_unknown_machine_is_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "_SCHED_SETATTR", {})
    assert scheduling.ask_for_short_slices() is False
