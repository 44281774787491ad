"""The names of a Pool's tasks, in results, messages and records."""

from __future__ import annotations

import time
from typing import NamedTuple

from ...boards.runs.task_ids import TaskIds, local_job_id


class PoolNames(NamedTuple):
    """What the tasks of a Pool are called."""

    job: str
    node: str

    @classmethod
    def of(cls, node: str) -> PoolNames:
        """Return names for a new Pool. `node`: the name of the code that the tasks run."""
        return cls(local_job_id(time.time()), node)

    def ids(self, number: int) -> TaskIds:
        """Return the names of a task: short, and different from those of other Pools."""
        return TaskIds(f"{self.job[-4:]}-{number}", self.job, self.node, "local")
