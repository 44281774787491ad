"""How long a browser is waited for."""

from __future__ import annotations

import subprocess
from typing import Any, cast

import pytest
from hkrunner.boards import browser


class InForeground:
    """The process of a browser that runs for as long as its user wants."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def wait(self, timeout: float) -> int:
        self.waits.append(timeout)
        raise subprocess.TimeoutExpired("browser", timeout)


def test_a_browser_that_stays_is_waited_for_only_until_its_failure_would_be_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(browser.time, "monotonic", lambda: now)
    process = InForeground()
    shown = browser.BrowserProcess(cast(Any, process), "http://localhost/")
    now = 100.25
    assert shown.problem(deadline_s=1.0) is None
    now = 130.0
    assert shown.problem(deadline_s=1.0) is None
    assert process.waits == [0.75, 0.0]
