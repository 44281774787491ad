"""The tasks in the journals of a state folder as boards show them.

Such a task has no run folder; it stands on a board where that would be. It is shown once it has ended: until
then it has nothing to show, and if it lasts it gets folders.
"""

from __future__ import annotations

import time

from ..runs.journal_reader import JournalReader, JournalTask
from .viewed_task import ViewedTask


class JournalView:
    """The tasks in journals, by the run folders that they would have."""

    def __init__(self, root: str) -> None:
        """Nothing is read yet. root: the state folder."""
        self._root = root
        self._reader = JournalReader(root)
        self._tasks: dict[str, JournalTask] = {}

    def refresh(self) -> set[str]:
        """Read what was added; return the run folders of tasks that are no longer in a journal."""
        self._reader.refresh()
        before = self._tasks
        tasks = self._reader.tasks().values()
        self._tasks = {f"{self._root}/{task.facts['metricsDir']}": task for task in tasks}
        return before.keys() - self._tasks.keys()

    def runs_below(self, folder: str, depth: int) -> dict[str, str]:
        """Return the run folders at this depth below the folder, each with its path from there."""
        if depth == 0:
            return {}
        prefix = f"{folder}/"
        return {
            run: run[len(prefix) :]
            for run in self._tasks
            if run.startswith(prefix) and run.count("/", len(prefix)) == depth - 1
        }

    def task_of(self, run: str) -> ViewedTask | None:
        """Return the task that would have this run folder; None if none is in a journal."""
        task = self._tasks.get(run)
        if task is None:
            return None
        viewed = ViewedTask(self._root, run, "", task.facts, time.monotonic(), in_journal=task)
        viewed.read_status()
        return viewed
