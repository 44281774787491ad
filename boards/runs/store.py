"""The state folder of one hkrunner: opens the record of each task. `layout` says where things are.

Everything here runs between two messages of the worker: no fsync, few system calls. Nothing raises for a disk
that is full, read-only or someone else's: the task goes on, and its record's `problems` hold a sentence.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from . import owner_lock
from .files import unlock_folder
from .layout import Layout
from .metrics_link import MetricsLink
from .shared_parts import SharedParts
from .task_ids import TaskIds
from .task_metrics import EarlierMetrics, MetricsPlaces, make_temporary_folder, move_to_latest_task
from .task_record import TaskRecord

if TYPE_CHECKING:
    from pathlib import Path

    from .journal import Journal

#: Beginning of the name of the folder of keep_metrics_apart().
_APART = "hkrunner-metrics-"
STREAM_LIMIT_BYTES = 64 * 1024 * 1024


class Store:
    """The state folder of one hkrunner; several processes may use the same root at once."""

    def __init__(
        self,
        root: str | Path,
        *,
        metrics_dir: str | Path | None = None,
        metrics_root: str | Path | None = None,
        stream_limit_bytes: int = STREAM_LIMIT_BYTES,
        logs_ahead: bool = True,
        journal: Callable[[Layout], Journal] | None = None,
    ) -> None:
        """Remember the folders; nothing is created yet.

        metrics_dir: the cluster's ALGO_METRICS_DIR, when it was set for hkrunner. metrics_root: a folder of
        the user's; each task's metrics go to <metrics_root>/<task>, and what lies there is never touched.

        logs_ahead: stdout.log and stderr.log exist from a task's start, else once something is printed. Two
        new files cost a tenth of a millisecond, which a wrapper in the cluster can do without.

        journal: makes the journal for tasks that need no folder; without one each task gets a folder.
        """
        self.layout = Layout(root)
        self._logs_ahead = logs_ahead
        self._link = MetricsLink(self.layout)
        self._apart: str | None = None  #: see keep_metrics_apart()
        self._journal = None if journal is None else journal(self.layout)
        self._shared = SharedParts(
            self.layout,
            MetricsPlaces(
                self.layout,
                self._link,
                None if metrics_dir is None else os.path.abspath(metrics_dir),
                None if metrics_root is None else os.path.abspath(metrics_root),
            ),
            EarlierMetrics(),
            stream_limit_bytes,
            self._journal,
        )
        self._has_lock = False  #: see owner_lock
        #: The latest task of the journal: metrics that are written between two tasks are its own.
        self._last: TaskRecord | None = None

    @property
    def root_text(self) -> str:
        """The state folder as text."""
        return self.layout.root_text

    @property
    def root(self) -> Path:
        """The state folder."""
        from pathlib import Path

        return Path(self.root_text)

    @property
    def metrics_root(self) -> str | None:
        """The folder of the user's that tasks write their metrics to; None: their own folders."""
        return self._shared.metrics.root

    def next_local_task(self) -> str:
        """Return the next free name t1, t2, ...; its folder exists, so no other process takes the name."""
        return self.layout.next_local_task()

    def open(
        self,
        ids: TaskIds,
        *,
        entry: str,
        started_at: float,
        extra: Mapping[str, object] = {},
        wire: bytes | None = None,
        begins_later: bool = False,
    ) -> TaskRecord:
        """Record the task as active, and have ALGO_METRICS_DIR lead to a folder that it has for itself.

        started_at: seconds since the epoch. extra: more fields for task.json. wire: the task's `initialize`
        for the journal, empty if it is not to be kept; None: the task needs a folder, as each does without a
        journal. begins_later: it is left to TaskRecord.begin(), which has to follow soon. A
        repeated task id gets the name <task>.2, .3, ... Never raises for the disk. Blocks only in one case:
        files that an earlier task left in the cluster's folder are copied when that lies on another file
        system.
        """
        if not self._has_lock:
            self._has_lock = True
            owner_lock.hold(self.root_text)
        self._keep_late_metrics()
        record = TaskRecord(ids, self._shared, entry, started_at, extra)
        if self._journal is None or wire is None:
            record.open_in_folder(empty_logs=self._logs_ahead)
        else:
            record.open_in_journal(wire)
            if not begins_later:
                record.begin()
            self._last = record
        return record

    def prepare_next(self) -> None:
        """Do now what the record of the next task would wait for. Never raises."""
        if self._journal is not None:
            try:
                self._journal.prepare()
            except OSError:
                pass  # the next task meets the same error, and reports it

    def forget_before(self, number: int) -> None:
        """Remove the tasks in the journal with lower numbers. Raises OSError."""
        if self._journal is not None:
            self._journal.forget_before(number)

    def _keep_late_metrics(self) -> None:
        """Give what was written since the last task ended to that task: its writer may still be open."""
        last, self._last = self._last, None
        if last is not None and last.metrics.has_any():
            last.need_metrics_folder()
            last.metrics.wrote_late(self._shared.earlier)

    def environment(self) -> dict[str, str]:
        """Return the algorithm's variables while it is imported, before there is a task; never raises.

        The path is a folder until the first task, and then the link to the latest task's.
        """
        metrics = self._shared.metrics
        if known := metrics.volume or metrics.fallback:
            return {"ALGO_METRICS_DIR": known}
        try:
            self.layout.make_folders()
            path = self._link.make_folder()
        except OSError:  # the first task's record meets the same error, and reports it
            return {}
        return {"ALGO_METRICS_DIR": path}

    def keep_metrics_apart(self) -> None:
        """Have tasks write their metrics to a folder that holds nothing else, as to the cluster's.

        For an algorithm that may not reach the records. close() removes the folder. Never raises.
        """
        metrics = self._shared.metrics
        if metrics.volume is not None or self._apart is not None:
            return
        from ...sandbox.linux.abandoned import remove_abandoned, signed_name

        folder = f"{self.root_text}/boxes"
        try:
            self.layout.make_folders()
            os.makedirs(folder, exist_ok=True)
            remove_abandoned(folder, _APART, only_empty=True)
            self._apart = f"{folder}/{signed_name(_APART)}"
            os.mkdir(self._apart, 0o700)
        except OSError:  # the first task's record meets the same error, and reports it
            self._apart = None
            with contextlib.suppress(OSError):
                metrics.fallback = make_temporary_folder()
            return
        metrics.volume = self._apart

    def _end_metrics_apart(self) -> None:
        """Move what the last task has written to its run folder."""
        folder, self._apart = self._apart, None
        if (fallback := self._shared.metrics.fallback) is not None:
            with contextlib.suppress(OSError):  # it is not empty: a task has said where its metrics are
                os.rmdir(fallback)
        if folder is None:
            return
        try:
            unlock_folder(folder)
            names = os.listdir(folder)
            move_to_latest_task(self.layout, folder, names, self._link)
            os.rmdir(folder)
        except OSError:
            return  # they stay where they are

    def close(self) -> None:
        """Release our path in current/ for other processes. Optional: the end of ours does the same."""
        self._keep_late_metrics()
        if self._journal is not None:
            self._journal.close()
        self._end_metrics_apart()
        self._link.close()
        if self._has_lock:
            self._has_lock = False
            owner_lock.release(self.root_text)
