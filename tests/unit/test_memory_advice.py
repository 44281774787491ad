"""Beside a figure stands what can be done about it."""

from __future__ import annotations

import pytest
from hkrunner.runner.protocol.messages import Failure
from hkrunner.runner.protocol.result import Result
from hkrunner.runner.serving.memory_advice import LEAK_TASKS, LeakWatch, explain_refusal
from hkrunner.sandbox.shared.limits import Limits

MI = 1024**2


def refused(text: str = "MemoryError: an allocation failed") -> Failure:
    return Failure("MEMORY_ERROR", f"MEMORY_ERROR: {text}\n  frames")


def ended(peak: int | None, limit: int | None = 100 * MI) -> Result:
    return Result("t", "j", "n", "p", "succeed", 0, 0, 0, peak_bytes=peak, limit_bytes=limit)


def test_a_refused_allocation_is_told_with_what_would_do() -> None:
    told = explain_refusal(refused(), Limits(), 256 * MI, lambda: 250 * MI).message
    first, frames = told.split("\n")
    assert "limit 256 MiB (--mem), used 250 MiB. Try --mem 512Mi" in first and frames == "  frames"


def test_what_numpy_asked_for_counts() -> None:
    text = "MemoryError: Unable to allocate 2.0 GiB for an array"
    told = explain_refusal(refused(text), Limits(), 256 * MI, lambda: 100 * MI).message
    assert "Try --mem 2816Mi" in told


def test_a_failure_of_another_kind_stays_as_it_is() -> None:
    failure = Failure("ALGORITHM_ERROR", "ALGORITHM_ERROR: KeyError: 'age'")
    assert explain_refusal(failure, Limits(), 256 * MI, lambda: pytest.fail("nobody asked")) is failure
    assert explain_refusal(refused(), Limits(), None, lambda: pytest.fail("nobody asked")) == refused()


def test_a_leak_is_told_once_before_it_reaches_the_limit() -> None:
    watch = LeakWatch()
    told = [watch.look(task, ended(10 * MI + task * 4 * MI)) for task in range(1, 25)]
    (sentence,) = [one for one in told if one is not None]
    assert "memory grew " in sentence and "of 100 MiB" in sentence


@pytest.mark.parametrize(("peak", "limit"), [(95 * MI, 100 * MI), (95 * MI, None), (None, 100 * MI)])
def test_memory_that_does_not_grow_or_has_no_limit_is_no_leak(peak: int | None, limit: int | None) -> None:
    watch = LeakWatch()
    assert not any(watch.look(task, ended(peak, limit)) for task in range(1, 3 * LEAK_TASKS))
