"""A call that was submitted to a Pool, and what it is in a worker."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, NamedTuple


class PoolTask:
    """A call that was submitted, until its future has a result."""

    __slots__ = (
        "began",
        "denials",
        "future",
        "is_running",
        "named",
        "number",
        "positional",
        "recorded_at",
        "spent_s",
        "timeout_s",
    )

    def __init__(
        self,
        number: int,
        future: Future[Any],
        positional: tuple[Any, ...],
        named: dict[str, Any],
        timeout_s: float | None,
    ) -> None:
        self.number = number
        self.future = future
        self.positional = positional
        self.named = named
        self.timeout_s = timeout_s
        self.is_running = False  #: whether its future can be cancelled no more
        self.recorded_at = 0  #: its number in the journal; 0: it is not there
        self.began = 0.0  #: on the monotonic clock, as far as one can tell
        self.spent_s = 0.0  #: in workers that had it, and then said that they did not begin it
        self.denials = 0  #: how many workers have ended with it as the next one, which they had not begun

    @property
    def left_s(self) -> float | None:
        """How much of its time limit is left when it begins; None: it has no limit."""
        return None if self.timeout_s is None else max(0.0, self.timeout_s - self.spent_s)


class Sent(NamedTuple):
    """A task in a worker, under the number that it has there."""

    number: int
    task: PoolTask
    size: int  #: bytes of its message
    limit_s: float | None  #: what was left of its time limit
    is_asked_back: bool = False  #: whether the worker may say that it was recalled before it began
    is_recalled: bool = False  #: whether it was given to another worker
