"""Lines for HKube's logData: counted where they are missing."""

from __future__ import annotations

from hkrunner.runner.serving.log_redirect import LogLines


def test_lines_that_could_not_be_sent_are_counted_once() -> None:
    lines = LogLines()
    lines.drop(2)
    lines.drop(1)
    assert lines.missed() == ["[hkrunner: 3 lines were dropped here: the worker is too slow]"]
    assert lines.missed() == []
