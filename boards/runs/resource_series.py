"""The resource usage of a task as scalar series in an event file, next to the user's own.

The step is milliseconds since the task's start. Points get rarer as a task runs on: at most one in 1/2,000 of
its age, so after an hour one every 1.8 s, and a day's file stays below a few MB. Each point stands for all
samples since the one before: memory, processes and progress show their maximum, CPU and GPUs their mean.
"""

from __future__ import annotations

import os

from .event_files import EventWriter
from .layout import RESOURCES

# TensorBoard sorts cards by name: the tilde puts these behind the user's own.
CPU = "~resources/cpu_cores"
MEMORY = "~resources/memory_mib"
LIMIT = "~resources/memory_limit_mib"
PROCESSES = "~resources/processes"
PROGRESS = "~resources/progress"
GPUS = "~resources/gpus_busy"
GPU_MEMORY = "~resources/gpu_memory_mib"
_POINTS_PER_AGE = 2000
_MIB = 1 << 20


class ResourceSeries:
    """The series of one task, in <its metrics>/resources. Never raises; `problem` says what went wrong."""

    def __init__(self, metrics_dir: str | os.PathLike[str], *, started_at: float) -> None:
        """started_at: seconds since the epoch, step 0 of the series."""
        self.problem: str | None = None
        self._writer = EventWriter(f"{os.fspath(metrics_dir)}/{RESOURCES}")
        self._started_at = started_at
        self._written_at = float("-inf")
        self._latest = started_at
        self._highest: dict[str, float] = {}
        self._averaged: dict[str, list[float]] = {}

    def sample(
        self,
        at_s: float,
        *,
        cpu_cores: float | None = None,
        memory_bytes: int | None = None,
        limit_bytes: int | None = None,
        processes: int | None = None,
        gpus_busy: float | None = None,
        gpu_memory_bytes: int | None = None,
    ) -> None:
        """Add one sample; a value of None is not recorded. at_s: seconds since the epoch."""
        for tag, value in ((CPU, cpu_cores), (GPUS, gpus_busy)):
            if value is not None:
                self._averaged.setdefault(tag, []).append(value)
        if memory_bytes is not None:
            self._raise(MEMORY, memory_bytes / _MIB)
        if limit_bytes is not None:
            self._raise(LIMIT, limit_bytes / _MIB)
        if processes is not None:
            self._raise(PROCESSES, processes)
        if gpu_memory_bytes is not None:
            self._raise(GPU_MEMORY, gpu_memory_bytes / _MIB)
        self._write_when_due(at_s)

    def progress(self, at_s: float, value: float) -> None:
        """Add the progress that the algorithm has reported."""
        self._raise(PROGRESS, value)
        self._write_when_due(at_s)

    def close(self) -> None:
        """Write the last samples, and close the file."""
        self._write(self._latest)
        self._writer.close()

    def _raise(self, tag: str, value: float) -> None:
        self._highest[tag] = max(value, self._highest.get(tag, value))

    def _write_when_due(self, at_s: float) -> None:
        self._latest = at_s
        age, passed = at_s - self._started_at, at_s - self._written_at
        if passed < 0 or passed >= max(age / _POINTS_PER_AGE, 0.05):  # below 0: the clock was set back
            self._write(at_s)

    def _write(self, at_s: float) -> None:
        values = dict(self._highest)
        for tag, averaged in self._averaged.items():
            values[tag] = sum(averaged) / len(averaged)
        self._highest.clear()
        self._averaged.clear()
        if not values or self.problem is not None:
            return
        self._written_at = at_s
        try:
            self._writer.add(values, step=round((at_s - self._started_at) * 1000), at_s=at_s)
        except OSError as error:
            self.problem = f"resource curves cannot be kept: {error.strerror}"
