"""What is measured of one task, from the answers of the warden."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace
from typing import Any

from hkrunner.runner.serving.task_usage import TaskUsage
from hkrunner.sandbox.shared.messages import Sample

MIB = 1 << 20


class AskedChild(SimpleNamespace):
    """A child whose warden answers when the test says so."""

    def __init__(self) -> None:
        super().__init__(pid=os.getpid(), asked=[])

    def __hash__(self) -> int:
        return id(self)

    def ask(self, number: int, *, began_at: float | None = None) -> None:
        self.asked.append(number)


def answer(number: int, cpu_s: float) -> Sample:
    return Sample(20 * MIB, 20 * MIB, 0, 1, cpu_s, answers=number)


def later(monkeypatch: Any, seconds: float) -> None:
    now = time.monotonic() + seconds
    monkeypatch.setattr(time, "monotonic", lambda: now)


def test_what_a_child_used_before_its_task_is_no_usage_of_the_task(monkeypatch: Any) -> None:
    child: Any = AskedChild()
    usage = TaskUsage(child, limit_bytes=None)
    usage.watch()
    usage.ask_final()
    later(monkeypatch, 0.06)
    usage.on_sample(answer(child.asked[1], cpu_s=30.0))  # the first answer never came: the task was too short
    assert usage.is_final and usage.samples == [] and usage.peak_bytes == 20 * MIB


def test_a_watched_task_has_the_cores_between_two_answers(monkeypatch: Any) -> None:
    child: Any = AskedChild()
    usage = TaskUsage(child, limit_bytes=None)
    usage.watch()
    later(monkeypatch, 0)
    usage.on_sample(answer(child.asked[0], cpu_s=30.0))
    set_back_s = time.time() - 3600
    monkeypatch.setattr(time, "time", lambda: set_back_s)
    later(monkeypatch, 2)
    usage.ask_final()
    usage.on_sample(answer(child.asked[1], cpu_s=31.0))
    ((_, cores, memory, processes),) = usage.samples
    assert 0.4 < cores < 0.51 and (memory, processes) == (20 * MIB, 1)
