"""A stream task of a program: its reports, and its result until the next nodes have taken all messages."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, TypeGuard

from ...sandbox.shared.message_format import Memfd
from ...sandbox.shared.messages import Done

_COUNTS = ("sent", "queueSize", "dropped", "responses")
_SAMPLES = ("netDurations", "durations", "queueDurations")


class ProgramStream:
    """The stream of one task."""

    def __init__(self, children: Sequence[str]) -> None:
        """`children`: the next nodes."""
        self.children = children
        self.ends_in_order = False  #: whether all messages are handed out before `stopped`
        self.is_reported = False  #: whether there was a report since the result
        self._result: Done | None = None

    @property
    def is_done(self) -> bool:
        """Whether the result is kept."""
        return self._result is not None

    def keep(self, result: Done) -> None:
        """Keep the result until take() or drop()."""
        self._result, self.is_reported = result, False

    def take(self) -> Done | None:
        """Return the result, if there is one."""
        result, self._result = self._result, None
        return result

    def drop(self) -> None:
        """Forget the result."""
        result = self.take()
        if result is not None and isinstance(result.wire, Memfd):
            os.close(result.wire.fd)

    def checked(self, items: Any) -> list[dict[str, Any]]:
        """Return the data of `streamingStatistics` without items that do not belong there.

        An item of another node would end HKube's worker. Raises ValueError with what is wrong.
        """
        if not isinstance(items, list) or not all(isinstance(one, dict) for one in items):
            raise ValueError("that are no list of objects")
        found = []
        for item in items:
            node = item.get("nodeName")
            if node not in self.children:
                raise ValueError(f"of {str(node)[:80]!r}, which is no next node")
            counts = {name: _count(item.get(name)) for name in _COUNTS}
            samples = {name: _samples(item[name]) for name in _SAMPLES if isinstance(item.get(name), list)}
            found.append({"nodeName": node, **counts, **samples})
        return found


def _count(value: Any) -> int:
    return max(0, int(value)) if is_number(value) else 0


def _samples(values: list[Any]) -> list[float]:
    return [one for one in values if is_number(one)]


def is_number(value: Any) -> TypeGuard[float]:
    """Whether the value is a number that a float can hold; not a NaN or an Infinity."""
    # Not math.isfinite(): it raises OverflowError for 10**400, which JSON can hold.
    is_any = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_any and -sys.float_info.max <= value <= sys.float_info.max
