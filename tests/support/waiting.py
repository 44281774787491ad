"""Wait for a condition, never for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: A busy machine may need seconds for the start of one interpreter, and a run starts three.
DEADLINE_S = 30.0
POLL_S = 0.005
#: A condition that takes long to ask, such as a page in a browser, would take a whole processor from what it
#: waits for: it gets a quarter. The pause has a bound, for one that waits itself.
PAUSE_TO_ASKING = 3
PAUSE_MAX_S = 0.25


def wait_until(condition: Callable[[], T], *, deadline_s: float = DEADLINE_S, what: str) -> T:
    """Return the first true value of condition().

    Raises AssertionError that says `what` did not happen, once deadline_s have passed. It is asked once more
    after that: this process, too, may have been stopped meanwhile.
    """
    end = time.monotonic() + deadline_s
    while True:
        asked = time.monotonic()
        value = condition()
        if value:
            return value
        if asked >= end:
            raise AssertionError(f"{what}: not within {deadline_s:g} s")
        took = time.monotonic() - asked
        time.sleep(max(POLL_S, min(PAUSE_TO_ASKING * took, PAUSE_MAX_S)))
