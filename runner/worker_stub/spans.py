"""The spans of one task, as a tree: what HKube's worker sends to its tracer.

As in the worker, finishSpan ends the span that was started last. The tree is saved in the task's spans.json.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

#: The error of a span that was not finished.
UNFINISHED = "not finished when the task ended"


class Spans:
    """Builds the tree from startSpan and finishSpan."""

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._roots: list[dict[str, Any]] = []
        self._open: list[dict[str, Any]] = []

    def start(self, name: str, tags: dict[str, Any]) -> None:
        """Start a span inside the one that was started last."""
        span = {"name": name, "startTime": self._now() * 1000, "tags": dict(tags), "children": []}
        (self._open[-1]["children"] if self._open else self._roots).append(span)
        self._open.append(span)

    def finish(self, tags: dict[str, Any], error: str | None) -> bool:
        """Finish the span that was started last; return False when none is open."""
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
        """Finish all open spans, the last one first; return the roots of the tree."""
        while self._open:
            self.finish({}, UNFINISHED)
        return self._roots
