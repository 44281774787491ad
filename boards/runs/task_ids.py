"""The names of a task."""

from __future__ import annotations

import os
import time
from typing import NamedTuple


class TaskIds(NamedTuple):
    """A task's names: HKube's, as the worker sent them, or the defaults of a local run."""

    task: str
    job: str
    node: str
    pipeline: str


def local_job_id(now_s: float) -> str:
    """Return a new job id for a local run: the time it began, and four random hex digits.

    now_s: seconds since the epoch.
    """
    return time.strftime("%Y%m%d-%H%M%S-", time.localtime(now_s)) + os.urandom(2).hex()
