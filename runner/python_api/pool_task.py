"""A call that was submitted to a Pool, and what it is in a worker."""

from __future__ import annotations

import logging
from concurrent.futures import Future, InvalidStateError
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
        self.spent_s = 0.0  #: time in workers that then said that they had not begun it
        self.denials = 0  #: how many workers had it as their next task, and ended, as they say, before it

    def start(self) -> bool:
        """Have its future be running; return False if it was cancelled, or other code has set it."""
        if not self.is_running:
            try:
                self.is_running = self.future.set_running_or_notify_cancel()
            except (RuntimeError, InvalidStateError):
                return False
        return self.is_running

    def cancel(self) -> None:
        """Cancel its future, if it does not run."""
        try:
            self.future.cancel()
        except BaseException as error:  # noqa: BLE001 - a callback of the user's may raise anything
            _report(self.future, error)

    def set_result(self, value: Any) -> None:
        """Give its future the result."""
        try:
            self.future.set_result(value)
        except BaseException as error:  # noqa: BLE001 - a callback of the user's may raise anything
            _report(self.future, error)

    def set_error(self, error: BaseException) -> None:
        """Have its future raise this."""
        try:
            self.future.set_exception(error)
        except BaseException as escaped:  # noqa: BLE001 - as above
            _report(self.future, escaped)

    @property
    def left_s(self) -> float | None:
        """The seconds of its time limit that are left; None: it has no limit."""
        return None if self.timeout_s is None else max(0.0, self.timeout_s - self.spent_s)


def _report(future: Future[Any], error: BaseException) -> None:
    """Log what escaped from the callbacks of a future, as concurrent.futures does for an Exception.

    A callback that calls sys.exit(), or a future that its owner has set, must not end the Pool.
    """
    logging.getLogger("concurrent.futures").error("exception as %r ended", future, exc_info=error)


class Sent(NamedTuple):
    """A task in a worker, under the number that it has there."""

    number: int
    task: PoolTask
    size: int  #: bytes of its message
    limit_s: float | None  #: what was left of its time limit
    is_asked_back: bool = False  #: whether the worker may say that it was recalled before it began
    is_recalled: bool = False  #: whether it was given to another worker
