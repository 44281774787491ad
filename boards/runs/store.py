"""Where a task writes, and what is kept of it.

    <root>/tasks/<task>/      task.json input.json output.json error.json stdout.log stderr.log ...
    <root>/runs/<pipeline>/<node>/<job>/<task>/     the user's event files: what a board shows
    <root>/runs/.../<task>/resources/               our own series of the same task (see series.py)
    <root>/current/<n>/metrics -> ../../runs/...    what ALGO_METRICS_DIR names, outside every board's folder
    <root>/tasks/<task>/metrics -> ../../runs/...   the same link, once the next task has a new one

With `metrics_dir` (a cluster's shared volume, which HKube's worker uploads whole after each success) the
task sees that folder itself. It is made fresh for each task: what lies there belongs to the task before
and is moved to that task's `runs/.../metrics`, which was a link to the volume while the task ran, so that
a board shows the same run names before and after. The symlink in `current/` says whose files they are,
also after a crash of ours.

Everything here is called between two messages of the worker: no fsync, few system calls. Nothing raises
for a disk that is full, read-only or not ours: the task goes on, and `problems` holds a sentence.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .files import is_empty_folder, replace_file, safe_part
from .metrics_link import Slot
from .task_record import TaskIds, TaskRecord

if TYPE_CHECKING:
    from pathlib import Path  # 3 ms of a start, and half a megabyte: made where one is asked for

STREAM_LIMIT_BYTES = 64 * 1024 * 1024
_OLD_RUNS_WATCHED = 8  # folders of earlier tasks looked at for metrics that went to the wrong one


def local_job_id(now_s: float) -> str:
    """A job's name for local runs: when it began, and four random characters."""
    return time.strftime("%Y%m%d-%H%M%S-", time.localtime(now_s)) + os.urandom(2).hex()


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
    ) -> None:
        """Remember the places; nothing is created yet.

        logs_ahead: stdout.log and stderr.log are there from the beginning, else when something is printed:
        two new files cost a tenth of a millisecond, which one that serves has no use for.

        metrics_dir: the cluster's ALGO_METRICS_DIR, when it was set for us. metrics_root: a folder of the
        user's; each task's metrics go to <metrics_root>/<task>, and what lies there is never touched.
        """
        self.root_text = os.path.abspath(root)
        self.metrics_dir = None if metrics_dir is None else os.path.abspath(metrics_dir)
        self.metrics_root = None if metrics_root is None else os.path.abspath(metrics_root)
        self.stream_limit_bytes = stream_limit_bytes
        self.logs_ahead = logs_ahead
        self._made = False
        self._reserved: set[str] = set()
        self._next_local = 0  # 0: tasks/ was not read yet
        self._repeats: dict[str, int] = {}
        self.slot = Slot(self.root_text, self.claim_found)
        # Where metrics may have gone instead of into a task's own folder (see TaskRecord.finish).
        self.old_runs: deque[tuple[str, int]] = deque(maxlen=_OLD_RUNS_WATCHED)
        self.warned_elsewhere = False

    @property
    def root(self) -> Path:
        """The state folder."""
        from pathlib import Path

        return Path(self.root_text)

    def next_local_task(self) -> str:
        """The next free name t1, t2 ...; its folder exists from now on, so no other hkrunner takes it."""
        try:
            self.make_root()
            if self._next_local == 0:
                self._next_local = 1 + _highest_local(f"{self.root_text}/tasks")
            while not _mkdir_new(f"{self.root_text}/tasks/t{self._next_local}"):
                self._next_local += 1
        except OSError:  # open() meets the same trouble, and has a record to note it in
            self._next_local = max(self._next_local, 1)
        name = f"t{self._next_local}"
        self._next_local += 1
        self._reserved.add(name)
        return name

    def open(
        self, ids: TaskIds, *, entry: str, started_at: float, extra: Mapping[str, object] = {}
    ) -> TaskRecord:
        """The task has its folders, its task.json says "active", and ALGO_METRICS_DIR leads to its own.

        started_at: seconds since the epoch. extra: more fields for task.json. A repeated task id gets the
        folder <task>.2, .3 ... Never raises for the disk. Blocks only in one case: files that an earlier
        task left in the cluster's folder are copied when that lies on another file system.
        """
        record = TaskRecord(self, ids)
        record.open(entry, started_at, extra)
        return record

    def environment(self) -> dict[str, str]:
        """What the algorithm is told before there is a task, while it is imported; never raises.

        Until the first task it is a folder; after it, what the path led to last.
        """
        if self.metrics_dir is not None:
            return {"ALGO_METRICS_DIR": self.metrics_dir}
        try:
            self.make_root()
            link = self.slot.folder()
        except OSError:  # open() meets the same trouble, and has a record to note it in
            return {}
        return {"ALGO_METRICS_DIR": link}

    def close(self) -> None:
        """The place in current/ is given back. Optional: the end of the process does the same."""
        self.slot.close()

    def make_root(self, *, again: bool = False) -> None:
        """The folders below the root are there. `again`: somebody removed them while we run."""
        if self._made and not again:
            return
        if not os.path.isdir(f"{self.root_text}/tasks"):
            os.makedirs(f"{self.root_text}/tasks", exist_ok=True)
            ignore = f"{self.root_text}/.gitignore"
            if not os.path.exists(ignore):
                replace_file(ignore, b"# made by hkrunner\n*\n")
        os.makedirs(f"{self.root_text}/runs", exist_ok=True)
        os.makedirs(f"{self.root_text}/current", exist_ok=True)
        self._made = True

    def claim_task(self, task: str) -> str:
        """Make the folder of the task below tasks/ and say its name."""
        name = safe_part(task)
        if name in self._reserved:
            self._reserved.discard(name)
            if os.path.isdir(f"{self.root_text}/tasks/{name}"):
                return name
        if _mkdir_new(f"{self.root_text}/tasks/{name}"):
            return name
        number = self._repeats.get(task, 1)
        while True:
            number += 1
            suffix = f".{number}"
            name = safe_part(task, limit=255 - len(suffix)) + suffix
            if _mkdir_new(f"{self.root_text}/tasks/{name}"):
                self._repeats[task] = number
                return name

    def claim_run(self, parent: str, name: str) -> str:
        """Make the metrics folder, fresh; a full one of that name (its task was removed by hand) is kept."""
        number = 1
        folder = f"{parent}/{name}"
        while True:
            try:
                os.mkdir(folder)
                return folder
            except FileNotFoundError:
                os.makedirs(parent, exist_ok=True)
            except FileExistsError:
                if is_empty_folder(folder):
                    return folder
                number += 1
                suffix = f".{number}"
                folder = f"{parent}/{safe_part(name, limit=255 - len(suffix))}{suffix}"

    def claim_found(self) -> str:
        """A run folder for files of which nobody knows the task."""
        return self.claim_run(f"{self.root_text}/runs/earlier/found/{local_job_id(time.time())}", "files")


def _mkdir_new(path: str) -> bool:
    """Make the folder; False when the name is taken."""
    try:
        os.mkdir(path)
    except FileExistsError:
        return False
    return True


def _highest_local(tasks: str) -> int:
    highest = 0
    with os.scandir(tasks) as entries:
        for entry in entries:
            number = entry.name[1:].partition(".")[0]
            if entry.name.startswith("t") and number.isascii() and number.isdigit() and len(number) < 10:
                highest = max(highest, int(number))
    return highest
