"""The warden comes first: neither call may ever be an error."""

from __future__ import annotations

import os

import pytest
from hkrunner.sandbox.linux import scheduling

pytestmark = pytest.mark.alone


def in_child(number: int) -> int:
    """Do one of the two in a forked process, which keeps it from this one; return the nice value after it."""
    pid = os.fork()
    if pid == 0:
        scheduling.ask_for_short_slices() if number == 0 else scheduling.step_back()
        os._exit(os.getpriority(os.PRIO_PROCESS, 0) + 20)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) - 20


def test_short_slices_leave_the_nice_value_alone() -> None:
    assert in_child(0) == os.getpriority(os.PRIO_PROCESS, 0)


def test_the_child_steps_back_behind_the_warden() -> None:
    assert in_child(1) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + scheduling.CHILD_NICE)


def test_a_machine_we_do_not_know_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "_SCHED_SETATTR", {})
    assert scheduling.ask_for_short_slices() is False
