"""The record of one task: its folder with its output and outcome, and its metrics.

Everything here runs between two messages of the worker: no fsync, few system calls. Nothing raises for a disk
that is full, read-only or someone else's: the task goes on, and `problems` holds a sentence.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .files import own_identity, replace_file, safe_part, to_json, write_all
from .layout import STREAMS, Layout
from .metrics_link import MetricsLink
from .task_ids import TaskIds
from .task_metrics import EarlierMetrics, MetricsOptions, TaskMetrics

if TYPE_CHECKING:
    from pathlib import Path

_TASK_JSON_BYTES = 4096  # one page


class TaskRecord:
    """The record of one task; made by Store.open."""

    def __init__(
        self,
        ids: TaskIds,
        layout: Layout,
        link: MetricsLink,
        metrics: MetricsOptions,
        earlier: EarlierMetrics,
        *,
        stream_limit_bytes: int,
    ) -> None:
        """Nothing is on disk before open()."""
        self.ids = ids
        #: The name of the task's folder.
        self.name = safe_part(ids.task)
        #: One sentence for each kind of trouble with the disk.
        self.problems: list[str] = []
        self.is_finished = False
        #: Whether the task has a folder; without one only its metrics are kept.
        self.has_folder = False
        self.metrics = TaskMetrics(layout, link, metrics, problems=self.problems, on_error=self._note)
        self._layout = layout
        self._earlier = earlier
        self._stream_limit_bytes = stream_limit_bytes
        # A text: a Path costs 10 µs to make, a tenth of a short task.
        self._folder = f"{layout.tasks}/{self.name}"
        self._facts: dict[str, object] = {}  # what task.json holds
        self._task_json_is_one_page = False
        self._fds: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._noted: set[int | None] = set()  # errno of each error in `problems`

    @property
    def folder(self) -> Path:
        """tasks/<name>."""
        return _path(self._folder)

    @property
    def folder_text(self) -> str:
        """The folder as text."""
        return self._folder

    @property
    def metrics_text(self) -> str:
        """The folder that the user expects the task's metrics in, as text."""
        return self.metrics.written_to

    @property
    def metrics_dir(self) -> Path:
        """The task's own run folder for good: runs/<pipeline>/<node>/<job>/<name>."""
        return _path(self.metrics.folder)

    @property
    def metrics_link(self) -> Path:
        """What ALGO_METRICS_DIR says, the same for all tasks of a store."""
        return _path(self.metrics.link)

    @property
    def environment(self) -> dict[str, str]:
        """The algorithm's variables that name the metrics folder."""
        return self.metrics.environment

    def has_metrics(self) -> bool:
        """Whether the task has written anything to its metrics folder; asked after its end."""
        return self.metrics.has_any()

    def open(self, entry: str, started_at: float, extra: Mapping[str, object], *, empty_logs: bool) -> None:
        """Write the task to disk as "active". The arguments are those of Store.open.

        empty_logs: stdout.log and stderr.log exist from the start.
        """
        layout, ids = self._layout, self.ids
        self._facts = {
            "name": self.name,
            "taskId": ids.task,
            "jobId": ids.job,
            "nodeName": ids.node,
            "pipelineName": ids.pipeline,
            "entry": entry,
            "startTime": round(started_at * 1000),
            "owner": own_identity().to_dict(),
            **extra,
        }
        try:
            layout.make_folders()
            try:
                self._make_folder(empty_logs)
            except FileNotFoundError:  # someone removed the state folder while we run
                layout.make_folders_again()
                self._make_folder(empty_logs)
        except OSError as error:
            self._note("the task", error)
        self.metrics.open(ids, self.name, self._folder)
        if (folder := self.metrics.recorded_folder) is not None:
            self._facts["metricsDir"] = folder
        self._facts["status"] = "active"
        data = to_json(self._facts)
        self._task_json_is_one_page = len(data) <= _TASK_JSON_BYTES
        if self.has_folder:
            self.write("task.json", data.ljust(_TASK_JSON_BYTES))

    def append(self, stream: str, data: bytes) -> None:
        """Add output of the stream "stdout" or "stderr"; cut at the limit, with one line that says so.

        Never raises. Ignored after finish().
        """
        if self.is_finished or not data or not self.has_folder:
            return
        size = self._sizes.get(stream, 0)
        room = self._stream_limit_bytes - size
        if room <= 0:
            return
        self._sizes[stream] = size + len(data)
        if len(data) >= room:
            limit = _human_bytes(self._stream_limit_bytes)
            data = data[:room] + f"\n[hkrunner: {stream} is cut here, {limit} are kept of a task]\n".encode()
            self._sizes[stream] = self._stream_limit_bytes
        try:
            fd = self._fds.get(stream)
            if fd is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                fd = self._fds[stream] = os.open(f"{self._folder}/{stream}.log", flags, 0o666)
            write_all(fd, data)
        except OSError as error:
            self._note(f"{stream}.log", error)

    def write(self, name: str, data: bytes) -> None:
        """Write a file with these bytes, whole or not at all. Never raises for the disk."""
        if not self.has_folder:
            return
        try:
            replace_file(f"{self._folder}/{safe_part(name)}", data)
        except OSError as error:
            self._note(name, error)

    def take_values(self, folder: str) -> None:
        """Input and result that a child has written to this folder are in the record. Never raises.

        The child may have put anything there: only plain files of its own are taken.
        """
        for name in ("input.json", "output.json"):
            path = f"{self._folder}/{name}"
            try:
                os.rename(f"{folder}/{name}", path)
                facts = os.lstat(path)
                if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
                    os.unlink(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                self._note(name, error)

    def finish(self, result: Mapping[str, object]) -> None:
        """Write the outcome to task.json and close the files; only the first call counts."""
        if self.is_finished:
            return
        self.is_finished = True
        for fd in self._fds.values():
            try:
                os.close(fd)
            except OSError as error:  # NFS reports a full disk as late as this
                self._note("output", error)
        self._fds.clear()
        self._facts["status"] = "unknown"
        self._facts.update(result)
        self.metrics.close(self._earlier, has_failed=self._facts["status"] == "failed")
        if self.problems and "problems" not in result:
            self._facts["problems"] = list(self.problems)
        if not self.has_folder:
            return
        data = to_json(self._facts)
        fits = self._task_json_is_one_page and len(data) <= _TASK_JSON_BYTES
        if not (fits and self._overwrite(data)):
            self.write("task.json", data)

    def _make_folder(self, empty_logs: bool) -> None:
        self.name = self._layout.claim_task(self.ids.task)
        self.has_folder = True
        self._folder = f"{self._layout.tasks}/{self.name}"
        self._facts["name"] = self.name
        for stream in STREAMS if empty_logs else ():
            _create(f"{self._folder}/{stream}.log")

    def add_problem(self, sentence: str) -> None:
        """Have a problem that has shown after finish() in task.json as well. Never raises for the disk."""
        self.problems.append(sentence)
        self._facts["problems"] = list(self.problems)
        self.write("task.json", to_json(self._facts))

    def _overwrite(self, data: bytes) -> bool:
        """Write the outcome over what open() wrote; False when a new file is needed.

        Both fill one page, padded with the spaces that JSON allows: a write within one page is never cut by
        SIGKILL, never meets a full disk, and costs a quarter of a new file and a rename.
        """
        try:
            fd = os.open(f"{self._folder}/task.json", os.O_WRONLY | os.O_CLOEXEC)
            try:
                return os.pwrite(fd, data.ljust(_TASK_JSON_BYTES), 0) == _TASK_JSON_BYTES
            finally:
                os.close(fd)
        except OSError:
            return False

    def _note(self, what: str, error: OSError) -> None:
        """Add one sentence to `problems` for each kind of error: a full disk would add one with each line."""
        if error.errno in self._noted:
            return
        self._noted.add(error.errno)
        code = errno.errorcode.get(error.errno or 0, "")
        self.problems.append(
            f"{what} cannot be kept in {self._folder}: {error.strerror} ({code}); the task goes on without. "
            "--state-dir DIR keeps it elsewhere, --no-state nowhere"
        )


def _path(text: str) -> Path:
    from pathlib import Path  # late: 3 ms of the start, see layout.py

    return Path(text)


def _create(path: str) -> None:
    """Create the file."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))


def _human_bytes(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count} bytes"
