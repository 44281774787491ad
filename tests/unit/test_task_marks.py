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


def test_a_third_process_sees_since_when_a_task_runs(file: int) -> None:
    worker, supervisor = TaskMarks(file), TaskMarks(file)
    assert supervisor.running() == (0, 0.0)
    before = time.monotonic()
    assert worker.begin(3)
    number, began = supervisor.running()
    assert number == 3 and before <= began <= time.monotonic()
    worker.end()
    assert supervisor.running() == (3, 0.0)


def test_a_task_that_was_recalled_does_not_run(file: int) -> None:
    worker, user = TaskMarks(file), TaskMarks(file)
    user.recall(5, 7)
    assert not worker.begin(6)
    assert user.running() == (6, 0.0)
