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


def warnings(stays: list[int], *, peak: int | None = None, limit: int | None = 100 * MI) -> list[str]:
    """Return the warnings after tasks that leave so much memory; `peak`: of each, else what it leaves."""
    watch = LeakWatch()
    looks = [
        watch.look(task, ended(one if peak is None else peak, limit), one)
        for task, one in enumerate(stays, 1)
    ]
    return [one for one in looks if one is not None]


def test_a_leak_is_told_once_before_it_reaches_the_limit() -> None:
    (sentence,) = warnings([10 * MI + task * 4 * MI for task in range(24)])
    assert sentence.startswith("◌ memory grew 4 MiB per task over 19 tasks, to 82 MiB of 100 MiB; ")


def test_a_slow_leak_is_told_over_thousands_of_tasks() -> None:
    (sentence,) = warnings([10 * MI + task * MI // 50 for task in range(4000)])
    assert "memory grew 20.5 KiB per task over 3" in sentence


def test_a_task_with_a_high_peak_is_no_leak() -> None:
    assert warnings([10 * MI] * 40, peak=95 * MI) == []


@pytest.mark.parametrize("at", [1, 5, 9, 15])
def test_a_model_that_one_task_loads_for_good_is_no_leak(at: int) -> None:
    assert warnings([10 * MI] * at + [85 * MI] * (40 - at)) == []


def test_a_new_process_begins_anew() -> None:
    watch = LeakWatch()
    for _ in range(2):
        looks = [watch.look(task, ended(80 * MI), 10 * MI + task * 2 * MI) for task in range(1, 30)]
        assert len([one for one in looks if one is not None]) == 1


@pytest.mark.parametrize(("peak", "limit"), [(95 * MI, None), (None, 100 * MI)])
def test_memory_without_a_limit_or_a_figure_is_no_leak(peak: int | None, limit: int | None) -> None:
    watch = LeakWatch()
    looks = [watch.look(task, ended(peak, limit), task * MI) for task in range(1, 3 * LEAK_TASKS)]
    assert not any(looks)
