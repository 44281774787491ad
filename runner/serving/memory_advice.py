"""Advice about memory: after a refused allocation, and when memory grows from task to task."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from ...sandbox.shared.limits import GI, UNITS, Limits, format_bytes, set_by, suggest_memory
from ..protocol.messages import Failure
from ..protocol.result import Result

#: How numpy says which size it asked for.
_ASKED = re.compile(r"Unable to allocate ([\d.]+) ([KMGT]i)B")
ASKED_MAX = 1024 * GI
#: Warn of a leak from this share of the limit on, and after this many tasks.
LEAK_SHARE = 0.8
LEAK_TASKS = 10


def explain_refusal(
    failure: Failure, limits: Limits, limit_bytes: int | None, peak: Callable[[], int]
) -> Failure:
    """Return the failure of a refused allocation with what was used and what can be done added.

    Any other failure is returned as it is.
    """
    if failure.code != "MEMORY_ERROR" or limit_bytes is None:
        return failure
    peak_bytes = peak()
    asked = _ASKED.search(failure.message)
    asked_bytes = float(asked[1]) * UNITS[asked[2]] if asked is not None else 0
    # A request far beyond any machine is an error in the code, whatever the limit.
    asked_bytes = min(asked_bytes, ASKED_MAX)
    wanted = suggest_memory(peak_bytes + int(asked_bytes), limit_bytes=limit_bytes)
    by = set_by("memory_bytes", limits.origins)
    hint = f"limit {format_bytes(limit_bytes)} ({by}), used {format_bytes(peak_bytes)}. Try --mem {wanted}"
    if limits.mem_mode == "brake":
        hint += "; if large arrays are reserved and hardly touched, --mem-mode auto"
    first, line, rest = failure.message.partition("\n")
    return replace(failure, message=f"{first}; {hint}{line}{rest}")


class LeakWatch:
    """Watches the memory of one child over its tasks, and warns once that it grows towards the limit."""

    def __init__(self) -> None:
        self._first_bytes = 0
        self._told = False

    def look(self, served: int, result: Result) -> str | None:
        """Return the warning, or None. `served`: number of tasks of this child, this one included."""
        peak, limit = result.peak_bytes, result.limit_bytes
        if peak is None:
            return None
        if served == 1:
            self._first_bytes, self._told = peak, False
        grown = peak - self._first_bytes
        if limit is None or served < LEAK_TASKS or peak < LEAK_SHARE * limit or grown < 0.1 * limit:
            return None
        if self._told:
            return None
        self._told = True
        return (
            f"◌ memory grew {format_bytes(grown / served)} per task over {served} tasks, to "
            f"{format_bytes(peak)} of {format_bytes(limit)}; --recycle-after would begin anew before that"
        )
