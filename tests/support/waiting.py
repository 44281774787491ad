"""Wait for a condition, never for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_S = 0.005


def wait_until(condition: Callable[[], T], *, deadline_s: float = 10.0, what: str) -> T:
    """Return the first true value of condition().

    Raises AssertionError that says `what` did not happen, once deadline_s have passed.
    """
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= end:
            raise AssertionError(f"{what}: not within {deadline_s:g} s")
        time.sleep(POLL_S)
