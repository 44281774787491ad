"""Compares the memory that tasks used on this machine with the limit that the algorithm gets in a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ...boards.runs.history import list_tasks, read_facts
from ...sandbox.shared.limits import format_bytes, parse_memory
from ..cluster.job_tasks import DEFAULT_MEMORY


class LocalPeak(NamedTuple):
    """The highest memory of a recorded task."""

    task: str
    bytes: int

    def exceeds(self, memory: object) -> str | None:
        """Return a sentence if the task used more than this limit, a descriptor's `mem`.

        None is the limit that HKube has for an algorithm without one.
        """
        limit = DEFAULT_MEMORY if memory is None else str(memory)
        try:
            is_enough = self.bytes <= parse_memory(limit)
        except ValueError:
            return None  # the cluster refuses it, with a reason
        if is_enough:
            return None
        whose = ", which HKube gives an algorithm without mem," if memory is None else ""
        return (
            f"the memory limit {limit}{whose} is too small: task {self.task} used"
            f" {format_bytes(self.bytes)} here"
        )


def local_peak(state_dir: str, name: str, entry: str | None) -> LocalPeak | None:
    """Return the highest peak among the recorded tasks of this algorithm, None if there is none.

    `name`: of the algorithm; `entry`: the absolute path of its file. A task of either counts, and so does one
    that was killed: it needed at least as much.
    """
    root = Path(state_dir).absolute()
    found = sorted(
        ((one.peak_bytes, one.name, one.node) for one in list_tasks(root) if one.peak_bytes), reverse=True
    )
    for peak, task, node in found:
        if node == name or (entry is not None and _entry_of(root, task) == entry):
            return LocalPeak(task, peak)
    return None


def _entry_of(root: Path, task: str) -> object:
    settings = (read_facts(root, task) or {}).get("settings")
    return settings.get("entry") if isinstance(settings, dict) else None
