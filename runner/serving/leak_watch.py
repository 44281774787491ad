"""A warning when the memory of a child grows from task to task."""

from __future__ import annotations

from ...sandbox.shared.limits import format_bytes
from ..protocol.result import Result

#: Warn of a leak from this share of the limit on, and after this many tasks.
LEAK_SHARE = 0.8
LEAK_TASKS = 10
#: Keep this many figures of one child; of more, every second one is dropped.
LOOKS_MAX = 64


class LeakWatch:
    """Watches what stays in the memory of one child after its tasks; warns once that it grows to the limit.

    The peak of a task is no leak: the memory is freed. Nor is one step, such as a model that the first
    tasks load: only what has grown in both halves of the tasks goes on growing.
    """

    def __init__(self) -> None:
        self._stays: list[int] = []  #: memory after every few tasks, in bytes, oldest first
        self._every = 1
        self._was_said = False

    def look(self, served: int, result: Result, stays_bytes: int) -> str | None:
        """Return the warning, or None. `served`: number of tasks of this child, this one included.

        `stays_bytes`: its memory after the task; 0: not known.
        """
        peak, limit = result.peak_bytes, result.limit_bytes
        if served == 1:
            self._stays, self._every, self._was_said = [], 1, False
        if peak is None or limit is None or not stays_bytes:
            return None
        if served % self._every == 0:
            self._stays.append(stays_bytes)
        if len(self._stays) > LOOKS_MAX:
            del self._stays[1::2]
            self._every *= 2
        if (
            self._was_said
            or served < LEAK_TASKS
            or peak < LEAK_SHARE * limit
            or not self._goes_on(0.1 * limit)
        ):
            return None
        self._was_said = True
        return (
            f"◌ memory grew {format_bytes(self._per_task())} per task over {served} tasks,"
            f" to {format_bytes(self._stays[-1])} of {format_bytes(limit)};"
            " --recycle-after would start a new process before that"
        )

    def _in_halves(self) -> tuple[int, int]:
        """Return by how much it has grown in each half of the tasks."""
        first, middle, last = (self._stays[at] for at in (0, len(self._stays) // 2, -1))
        return middle - first, last - middle

    def _per_task(self) -> float:
        """Return the growth per task of the half in which it was less: the other one may have more in it than
        the leak, such as an import of the first tasks, or what the last one has not freed yet."""
        half = len(self._stays) // 2
        first, second = self._in_halves()
        return min(first / half, second / (len(self._stays) - 1 - half)) / self._every

    def _goes_on(self, least_bytes: float) -> bool:
        """Whether it has grown by so much, and at least a quarter of that in each half of the tasks."""
        halves = self._in_halves()
        return sum(halves) >= least_bytes and min(halves) >= sum(halves) / 4
