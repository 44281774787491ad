"""The marks by which a worker of a pool and the user's process agree on who runs a task."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from hkrunner.sandbox.shared import task_marks
from hkrunner.sandbox.shared.task_marks import TaskMarks


@pytest.fixture
def file() -> Iterator[int]:
    fd = os.memfd_create("marks", os.MFD_CLOEXEC)
    yield fd
    os.close(fd)


def test_a_task_that_was_recalled_before_it_began_does_not_begin(file: int) -> None:
    worker, user = TaskMarks(file), TaskMarks(file)
    assert user.begun() == 0
    assert worker.begin(4)
    assert user.recall(5, 7) == 4  # so 5 to 7 are given to others
    assert [worker.begin(one) for one in (5, 6, 7, 8)] == [False, False, False, True]


def test_a_task_that_began_before_it_was_recalled_is_not_given_to_others(file: int) -> None:
    worker, user = TaskMarks(file), TaskMarks(file)
    assert worker.begin(5)
    assert user.recall(5, 7) == 5


def test_a_task_that_is_recalled_while_it_begins_is_run_by_neither_without_the_other_knowing(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, user = TaskMarks(file), TaskMarks(file)
    read, seen = os.pread, []

    def recall_first(*args: int) -> bytes:
        monkeypatch.setattr(task_marks.os, "pread", read)
        seen.append(user.recall(5, 7))
        return read(*args)

    monkeypatch.setattr(task_marks.os, "pread", recall_first)
    # The user's process takes it for begun, and waits; the worker does not begin it, and says so.
    assert not worker.begin(5)
    assert seen == [5]


def test_a_third_process_sees_since_when_a_task_runs_and_how_long_it_may(file: int) -> None:
    worker, user, supervisor = TaskMarks(file), TaskMarks(file), TaskMarks(file)
    assert supervisor.running() == (0, 0.0, 0.0)
    for task, limit in ((1, 2.5), (2, 0.0), (257, 4.0)):
        user.set_timeout(task, limit)
    before = time.monotonic()
    found = {}
    for task in (1, 2, 3, 257):
        assert worker.begin(task)
        number, began, limit = supervisor.running()
        assert number == task and before <= began <= time.monotonic()
        found[task] = limit
    # Of task 1 it was read too late: the place is that of task 257 by then, which is never sent as early.
    assert found == {1: 4.0, 2: 0.0, 3: 0.0, 257: 4.0}
    worker.end()
    assert supervisor.running()[:2] == (257, 0.0)


def test_a_task_that_was_recalled_does_not_run(file: int) -> None:
    worker, user = TaskMarks(file), TaskMarks(file)
    user.recall(5, 7)
    assert not worker.begin(6)
    assert user.running()[:2] == (6, 0.0)
