"""The spans of one task, as a tree: what HKube's worker hands to its tracer.

They nest last in, first out, per task, as in the worker; the tree is kept in the task's spans.json.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

#: What a span that nobody has finished gets.
UNFINISHED = "not finished when the task ended"


class Spans:
    """Takes startSpan and finishSpan; `close()` gives the tree."""

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._roots: list[dict[str, Any]] = []
        self._open: list[dict[str, Any]] = []

    def start(self, name: str, tags: dict[str, Any]) -> None:
        """Begin a span inside the one that was begun last."""
        span = {"name": name, "startTime": self._now() * 1000, "tags": dict(tags), "children": []}
        (self._open[-1]["children"] if self._open else self._roots).append(span)
        self._open.append(span)

    def finish(self, tags: dict[str, Any], error: str | None) -> bool:
        """Finish the span begun last; False when there is none."""
        if not self._open:
            return False
        span = self._open.pop()
        span["endTime"] = self._now() * 1000
        span["durationMs"] = round(span["endTime"] - span["startTime"], 3)
        span["tags"].update(tags)
        if error is not None:
            span["error"] = error
        return True

    def close(self) -> list[dict[str, Any]]:
        """Finish what is open, the last first, and return the spans that stand in no other one."""
        while self._open:
            self.finish({}, UNFINISHED)
        return self._roots
