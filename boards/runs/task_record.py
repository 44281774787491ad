"""What is kept of one task: its folder, its output, its outcome, its metrics.

Everything here is called between two messages of the worker: no fsync, few system calls. Nothing raises
for a disk that is full, read-only or not ours: the task goes on, and `problems` holds a sentence.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .files import is_empty_folder, own_identity, replace_file, safe_part, to_json, write_all

if TYPE_CHECKING:
    from pathlib import Path

    from .store import Store

STREAMS = ("stdout", "stderr")
RESOURCES = "resources"  # our own series below a task's metrics
VOLUME_LINK = "metrics"  # the cluster's folder below a task's metrics
_TASK_JSON_BYTES = 4096  # one page


@dataclass(frozen=True)
class TaskIds:
    """A task's names as they came from the wire, or the defaults of a local run."""

    task: str
    job: str
    node: str
    pipeline: str


class TaskRecord:
    """What is kept of one task; made by Store.open."""

    def __init__(self, store: Store, ids: TaskIds) -> None:
        self.store = store
        self.ids = ids
        self.name = safe_part(ids.task)
        self.problems: list[str] = []
        self.is_finished = False
        #: The task has a folder; without one nothing is kept of it.
        self.is_there = False
        # Texts, not Paths: a task of a millisecond would spend a tenth of it on making them.
        self._folder = f"{store.root_text}/tasks/{self.name}"
        self._metrics_dir = self._metrics_link = f"{store.root_text}/runs"
        self._wrote_nothing: bool | None = None  # None: nobody has looked
        self._own = ""  # the task's folder below the user's, to which _metrics_dir is a link
        self._task_json_is_full_size = False
        self._temporary = False
        self._facts: dict[str, object] = {}
        self._fds: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._noted: set[int | None] = set()

    @property
    def folder(self) -> Path:
        """tasks/<name>."""
        return _path(self._folder)

    @property
    def folder_text(self) -> str:
        """The same as text: a Path costs 10 µs to make."""
        return self._folder

    @property
    def metrics_text(self) -> str:
        """metrics_dir as text, or where the user wanted it to be."""
        return self._own or self._metrics_dir

    @property
    def metrics_dir(self) -> Path:
        """This task's own folder for good: runs/<pipeline>/<node>/<job>/<name>."""
        return _path(self._metrics_dir)

    @property
    def metrics_link(self) -> Path:
        """What ALGO_METRICS_DIR says, the same for all tasks of this store."""
        return _path(self._metrics_link)

    @property
    def environment(self) -> dict[str, str]:
        """What the algorithm is told: the stable path for code that reads it once, and this task's own."""
        own = self._metrics_link if self.store.metrics_dir is not None else self.metrics_text
        return {"ALGO_METRICS_DIR": self._metrics_link, "HKRUNNER_TASK_METRICS_DIR": own}

    def has_metrics(self) -> bool:
        """Whether the task has written anything to its folder. To be asked when it has ended."""
        if self._wrote_nothing is None:
            self._wrote_nothing = is_empty_folder(self.store.metrics_dir or self._metrics_dir)
        return not self._wrote_nothing

    def append(self, stream: str, data: bytes) -> None:
        """Add output of the stream "stdout" or "stderr"; above the limit it is cut, and one line says so.

        Never raises. Ignored after finish().
        """
        if self.is_finished or not data or not self.is_there:
            return
        size = self._sizes.get(stream, 0)
        room = self.store.stream_limit_bytes - size
        if room <= 0:
            return
        self._sizes[stream] = size + len(data)
        if len(data) >= room:
            limit = _human_bytes(self.store.stream_limit_bytes)
            data = data[:room] + f"\n[hkrunner: {stream} is cut here, {limit} are kept of a task]\n".encode()
            self._sizes[stream] = self.store.stream_limit_bytes
        try:
            fd = self._fds.get(stream)
            if fd is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                fd = self._fds[stream] = os.open(f"{self._folder}/{stream}.log", flags, 0o666)
            write_all(fd, data)
        except OSError as error:
            self._note(f"{stream}.log", error)

    def write(self, name: str, data: bytes) -> None:
        """The file holds these bytes, whole or not at all. Never raises for the disk."""
        if not self.is_there:
            return
        try:
            replace_file(f"{self._folder}/{safe_part(name)}", data)
        except OSError as error:
            self._note(name, error)

    def finish(self, result: Mapping[str, object]) -> None:
        """The outcome stands in task.json, the files are closed. The first call counts, others do nothing."""
        if self.is_finished:
            return
        self.is_finished = True
        for fd in self._fds.values():
            try:
                os.close(fd)
            except OSError as error:  # NFS reports a full disk as late as this
                self._note("output", error)
        self._fds.clear()
        if self._temporary:
            try:
                os.rmdir(self._metrics_dir)
            except FileNotFoundError:
                pass
            except OSError:  # it holds metrics, and is all that keeps them
                self.problems.append(
                    f"metrics of this task are in {self._metrics_dir}; nothing else keeps them"
                )
        self._facts["status"] = "unknown"
        self._facts.update(result)
        self._look_for_lost_metrics()
        if self.problems and "problems" not in result:
            self._facts["problems"] = list(self.problems)
        if not self.is_there:
            return
        data = to_json(self._facts)
        if not (self._task_json_is_full_size and len(data) <= _TASK_JSON_BYTES and self._overwrite(data)):
            self.write("task.json", data)

    def _overwrite(self, data: bytes) -> bool:
        """Put the outcome in place of what open() wrote; False when it must be written anew.

        Both fill one page to its end, with spaces that JSON allows: a write within one page is not cut by
        a SIGKILL, never meets a full disk, and costs a quarter of a new file and a rename.
        """
        try:
            fd = os.open(f"{self._folder}/task.json", os.O_WRONLY | os.O_CLOEXEC)
            try:
                return os.pwrite(fd, data.ljust(_TASK_JSON_BYTES), 0) == _TASK_JSON_BYTES
            finally:
                os.close(fd)
        except OSError:
            return False

    def open(self, entry: str, started_at: float, extra: Mapping[str, object]) -> None:
        """See Store.open."""
        store, ids = self.store, self.ids
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
            store.make_root()
            try:
                self._make_folder()
            except FileNotFoundError:  # somebody removed the state folder while we run
                store.make_root(again=True)
                self._make_folder()
        except OSError as error:
            self._note("the task", error)
        self._make_metrics()
        if self._metrics_dir.startswith(f"{store.root_text}/runs/"):
            self._facts["metricsDir"] = self._metrics_dir[len(store.root_text) + 1 :]
        self._facts["status"] = "active"
        data = to_json(self._facts)
        self._task_json_is_full_size = len(data) <= _TASK_JSON_BYTES
        if self.is_there:
            self.write("task.json", data.ljust(_TASK_JSON_BYTES))

    def _make_folder(self) -> None:
        self.name = self.store.claim_task(self.ids.task)
        self.is_there = True
        self._folder = f"{self.store.root_text}/tasks/{self.name}"
        self._facts["name"] = self.name
        for stream in STREAMS if self.store.logs_ahead else ():
            _make_empty(f"{self._folder}/{stream}.log")

    def _make_metrics(self) -> None:
        store, ids = self.store, self.ids
        parent = "/".join(safe_part(part) for part in (ids.pipeline, ids.node, ids.job))
        parent = f"{store.root_text}/runs/{parent}"
        self._metrics_dir = self._metrics_link = f"{parent}/{self.name}"
        try:
            run = self._metrics_dir = store.claim_run(parent, self.name)
            link = self._metrics_link = store.slot.claim()
            if store.metrics_root is not None:
                self._own = store.claim_run(store.metrics_root, self.name)
                os.rmdir(run)
                os.symlink(self._own, run)
        except OSError as error:
            self._note("metrics", error)
            self._use_temporary_metrics()
            return
        if store.metrics_dir is not None:
            self._use_volume(store.metrics_dir, link, run)
        try:
            store.slot.lead(run, self._folder, real=self._own or run)
        except OSError as error:
            self._note("metrics", error)
            self._metrics_link = self._metrics_dir

    def _use_temporary_metrics(self) -> None:
        """A writer in user code must not fail because our folder cannot be written."""
        if self.store.metrics_dir is not None:
            self._metrics_link = self.store.metrics_dir
            return
        import tempfile  # with random and hashlib behind it, for a case that hardly ever is

        try:
            self._metrics_dir = self._metrics_link = tempfile.mkdtemp(prefix="hkrunner-metrics-")
            self._temporary = True
        except OSError:
            pass  # nowhere to write: the sentence of the first failure stands

    def _use_volume(self, volume: str, link: str, run: str) -> None:
        """The cluster's folder is empty and shows in this task's run folder."""
        self._metrics_link = volume
        try:
            os.makedirs(volume, exist_ok=True)
            left = os.listdir(volume)
            if left:
                self._move_away(volume, left, link)
            os.symlink(volume, f"{run}/{VOLUME_LINK}")
        except OSError as error:  # shutil.Error is one
            self.problems.append(
                f"{volume} (ALGO_METRICS_DIR) could not be emptied for this task, files of earlier tasks may "
                f"be uploaded again: {error.strerror or error}"
            )

    def _move_away(self, volume: str, left: list[str], link: str) -> None:
        try:
            owner = os.path.realpath(link, strict=True)
        except OSError:  # no hkrunner of this state folder left them
            owner = self.store.claim_found()
        import shutil  # with all its kinds of archives, for a move

        target = f"{owner}/{VOLUME_LINK}"
        if os.path.islink(target):
            os.unlink(target)
        os.makedirs(target, exist_ok=True)
        for name in left:
            shutil.move(f"{volume}/{name}", _free_name(f"{target}/{name}"))

    def _look_for_lost_metrics(self) -> None:
        """Warn once when this task has no metrics, and an earlier task's folder has grown meanwhile."""
        store = self.store
        if store.metrics_dir is not None:
            return
        own = _bytes_below(self._metrics_dir) if not self._wrote_nothing else 0
        if own == 0 and not store.warned_elsewhere:
            for folder, size in store.old_runs:
                if _bytes_below(folder) > size:
                    store.warned_elsewhere = True
                    self.problems.append(
                        f"metrics of this task went to task {os.path.basename(folder)}: the writer is "
                        "created once; create it inside start()"
                    )
                    break
        # A child that takes a crashed one's place is imported while the path leads to the crashed task.
        if own > 0 or self._facts.get("status") == "failed":
            store.old_runs.append((self._metrics_dir, own))

    def _note(self, what: str, error: OSError) -> None:
        """One sentence per kind of trouble: a full disk would otherwise tell of itself with each line."""
        if error.errno in self._noted:
            return
        self._noted.add(error.errno)
        code = errno.errorcode.get(error.errno or 0, "")
        self.problems.append(
            f"{what} cannot be kept in {self._folder}: {error.strerror} ({code}); the task goes on without. "
            "--state-dir DIR keeps it elsewhere, --no-state nowhere"
        )


def _path(text: str) -> Path:
    from pathlib import Path  # see store.py

    return Path(text)


def _make_empty(path: str) -> None:
    try:
        os.mknod(path, 0o666 | stat.S_IFREG)  # one system call of two; macOS keeps it for root
    except FileExistsError:
        pass
    except PermissionError:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))


def _free_name(path: str) -> str:
    number, free = 1, path
    while os.path.lexists(free):
        number += 1
        free = f"{path}.{number}"
    return free


def _bytes_below(folder: str) -> int:
    """Bytes in the files of the folder and its sub-folders, our own series left out; 0 when unreadable.

    Looks at the first 1,000 files of a folder: it runs between a task's end and its answer.
    """
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in itertools.islice(entries, 1000):
                if entry.is_dir(follow_symlinks=False):
                    if entry.name != RESOURCES:
                        total += _bytes_below(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    except OSError:
        pass
    return total


def _human_bytes(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count} bytes"
