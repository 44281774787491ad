"""Where a task writes, and what is kept of it.

    <root>/tasks/<task>/      task.json input.json output.json error.json stdout.log stderr.log ...
    <root>/runs/<pipeline>/<node>/<job>/<task>/     the user's event files: what a board shows
    <root>/runs/.../<task>/resources/               our own series of the same task (see series.py)
    <root>/current/<n>/metrics -> ../../runs/...    what ALGO_METRICS_DIR names, outside every board's folder
    <root>/tasks/<task>/metrics -> ../../runs/...   the same link, once the next task has a new one

ALGO_METRICS_DIR has one value for the life of a child, because user code reads it at import and writers
live across tasks: it is the symlink `current/<n>/metrics`, another one for each task. Until the first task
it is a folder, so that code which resolves it at import gets this very path; that folder then becomes the
first task's, with what a writer made at import has put there. `n` is ours alone while we hold the lock on
`current/<n>.lock`; the kernel lets go of it when we die, however that happens.

The link of the task before is kept in that task's folder, not deleted: ext4 looks at every inode that was
deleted within the last minutes before it hands one out, and a deletion per task made each new file of the
tasks after it dearer and dearer (0.3 ms each after 1,500 tasks, measured).

With `metrics_dir` (a cluster's shared volume, which HKube's worker uploads whole after each success) the
task sees that folder itself. It is made fresh for each task: what lies there belongs to the task before
and is moved to that task's `runs/.../metrics`, which was a link to the volume while the task ran, so that
a board shows the same run names before and after. The symlink `current/<n>` says whose files they are,
also after a crash of ours.

Everything here is called between two messages of the worker: no fsync, few system calls. Nothing raises
for a disk that is full, read-only or not ours: the task goes on, and `problems` holds a sentence.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import stat
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .files import own_identity, remove_quietly, replace_file, safe_part, to_json, write_all

STREAMS = ("stdout", "stderr")
STREAM_LIMIT_BYTES = 64 * 1024 * 1024
RESOURCES = "resources"  # our own series below a task's metrics
VOLUME_LINK = "metrics"  # the cluster's folder below a task's metrics
_TASK_JSON_BYTES = 4096  # one page
_OLD_RUNS_WATCHED = 8  # folders of earlier tasks looked at for metrics that went to the wrong one


@dataclass(frozen=True)
class TaskIds:
    """A task's names as they came from the wire, or the defaults of a local run."""

    task: str
    job: str
    node: str
    pipeline: str


def local_job_id(now_s: float) -> str:
    """A job's name for local runs: when it began, and four random characters."""
    return time.strftime("%Y%m%d-%H%M%S-", time.localtime(now_s)) + os.urandom(2).hex()


class Store:
    """The state folder of one hkrunner; several processes may use the same root at once."""

    def __init__(
        self, root: Path, *, metrics_dir: Path | None = None, stream_limit_bytes: int = STREAM_LIMIT_BYTES
    ) -> None:
        """Remember the places; nothing is created yet.

        metrics_dir: the cluster's ALGO_METRICS_DIR, when it was set for us.
        """
        self.root = Path(os.path.abspath(root))
        self.metrics_dir = None if metrics_dir is None else Path(os.path.abspath(metrics_dir))
        self.stream_limit_bytes = stream_limit_bytes
        self._root = str(self.root)
        self._made = False
        self._reserved: set[str] = set()
        self._next_local = 0  # 0: tasks/ was not read yet
        self._repeats: dict[str, int] = {}
        self._slot = ""
        self._slot_fd = -1
        self._slot_is_folder = False  # no task was there yet
        self._linked = ""  # the folder of the task that the link leads to
        self._old_runs: deque[tuple[str, int]] = deque(maxlen=_OLD_RUNS_WATCHED)
        self._warned_elsewhere = False

    def next_local_task(self) -> str:
        """The next free name t1, t2 ...; its folder exists from now on, so no other hkrunner takes it."""
        try:
            self._make_root()
            if self._next_local == 0:
                self._next_local = 1 + _highest_local(f"{self._root}/tasks")
            while not _mkdir_new(f"{self._root}/tasks/t{self._next_local}"):
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
        record._open(entry, started_at, extra)
        return record

    def environment(self) -> dict[str, str]:
        """What the algorithm is told before there is a task, while it is imported; never raises.

        Until the first task it is a folder; after it, what the path led to last.
        """
        if self.metrics_dir is not None:
            return {"ALGO_METRICS_DIR": str(self.metrics_dir)}
        try:
            self._make_root()
            is_first = not self._slot
            link = self._claim_slot()
            if is_first:
                remove_quietly(link)  # a hkrunner was killed: it leads to a task of that one
                os.mkdir(link)
                self._slot_is_folder = True
        except OSError:  # open() meets the same trouble, and has a record to note it in
            return {}
        return {"ALGO_METRICS_DIR": link}

    def close(self) -> None:
        """The place in current/ is given back. Optional: the end of the process does the same."""
        if self._slot_fd >= 0:
            slot = f"{self._root}/current/{self._slot}"
            with contextlib.suppress(OSError):
                if self._slot_is_folder:
                    os.rmdir(f"{slot}/metrics")  # not with files in it, which are kept
                else:
                    os.rename(f"{slot}/metrics", f"{self._linked}/metrics")
            remove_quietly(f"{slot}/metrics")  # its task's folder was removed
            with contextlib.suppress(OSError):
                os.rmdir(slot)
            remove_quietly(f"{slot}.lock")
            os.close(self._slot_fd)
            self._slot_fd, self._slot = -1, ""

    def _make_root(self) -> None:
        if self._made:
            return
        if not os.path.isdir(f"{self._root}/tasks"):
            os.makedirs(f"{self._root}/tasks", exist_ok=True)
            ignore = f"{self._root}/.gitignore"
            if not os.path.exists(ignore):
                replace_file(ignore, b"# made by hkrunner\n*\n")
        os.makedirs(f"{self._root}/runs", exist_ok=True)
        os.makedirs(f"{self._root}/current", exist_ok=True)
        self._made = True

    def _claim_task(self, task: str) -> str:
        """Make the folder of the task below tasks/ and say its name."""
        name = safe_part(task)
        if name in self._reserved:
            self._reserved.discard(name)
            if os.path.isdir(f"{self._root}/tasks/{name}"):
                return name
        if _mkdir_new(f"{self._root}/tasks/{name}"):
            return name
        number = self._repeats.get(task, 1)
        while True:
            number += 1
            suffix = f".{number}"
            name = safe_part(task, limit=255 - len(suffix)) + suffix
            if _mkdir_new(f"{self._root}/tasks/{name}"):
                self._repeats[task] = number
                return name

    def _claim_run(self, parent: str, name: str) -> str:
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
                if _is_empty_folder(folder):
                    return folder
                number += 1
                suffix = f".{number}"
                folder = f"{parent}/{safe_part(name, limit=255 - len(suffix))}{suffix}"

    def _claim_slot(self) -> str:
        """The path current/<n>/metrics that is ours while we live."""
        number = 0
        while not self._slot:
            number += 1
            lock = f"{self._root}/current/{number}.lock"
            fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The owner before us may have removed the file between our open and our lock.
                ours = os.fstat(fd).st_ino == os.stat(lock).st_ino
            except (BlockingIOError, FileNotFoundError):
                ours = False
            except OSError:  # a file system without locks: a name that only this process has
                os.close(fd)
                self._slot = f"pid{os.getpid()}-{id(self):x}"
                break
            if ours:
                self._slot, self._slot_fd = str(number), fd
                self._clear_slot(f"{lock.removesuffix('.lock')}/metrics")
            else:
                os.close(fd)
        return f"{self._root}/current/{self._slot}/metrics"

    def _clear_slot(self, link: str) -> None:
        """No folder is there: one of a hkrunner that had no task is removed, with files it is kept."""
        os.makedirs(os.path.dirname(link), exist_ok=True)
        if os.path.isdir(link) and not os.path.islink(link):
            try:
                os.rmdir(link)
            except OSError:
                os.rename(link, self._claim_found())

    def _claim_found(self) -> str:
        """A run folder for files of which nobody knows the task."""
        return self._claim_run(f"{self._root}/runs/earlier/found/{local_job_id(time.time())}", "files")

    def _lead(self, link: str, run: str, task: str) -> None:
        """The link leads to the run's folder, which is empty so far, of the task with that folder."""
        if self._slot_is_folder:
            os.rename(link, run)
            self._slot_is_folder = False
        target = "../../" + run[len(self._root) + 1 :]
        if not (self._linked and _exchange(link, target, f"{self._linked}/metrics")):
            os.makedirs(os.path.dirname(link), exist_ok=True)
            _point(link, target)
        self._linked = task


class TaskRecord:
    """What is kept of one task; made by Store.open."""

    def __init__(self, store: Store, ids: TaskIds) -> None:
        self.store = store
        self.ids = ids
        self.name = safe_part(ids.task)
        self.problems: list[str] = []
        self.is_finished = False
        # Texts, not Paths: a task of a millisecond would spend a tenth of it on making them.
        self._folder = f"{store._root}/tasks/{self.name}"
        self._metrics_dir = self._metrics_link = f"{store._root}/runs"
        self._task_json_is_full_size = False
        self._temporary = False
        self._facts: dict[str, object] = {}
        self._fds: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._noted: set[int | None] = set()

    @property
    def folder(self) -> Path:
        """tasks/<name>."""
        return Path(self._folder)

    @property
    def folder_text(self) -> str:
        """The same as text: a Path costs 10 µs to make."""
        return self._folder

    @property
    def metrics_text(self) -> str:
        """metrics_dir as text."""
        return self._metrics_dir

    @property
    def metrics_dir(self) -> Path:
        """This task's own folder for good: runs/<pipeline>/<node>/<job>/<name>."""
        return Path(self._metrics_dir)

    @property
    def metrics_link(self) -> Path:
        """What ALGO_METRICS_DIR says, the same for all tasks of this store."""
        return Path(self._metrics_link)

    @property
    def environment(self) -> dict[str, str]:
        """What the algorithm is told: the stable path for code that reads it once, and this task's own."""
        own = self._metrics_link if self.store.metrics_dir is not None else self._metrics_dir
        return {"ALGO_METRICS_DIR": self._metrics_link, "HKRUNNER_TASK_METRICS_DIR": own}

    def has_metrics(self) -> bool:
        """Whether the task has written anything to its folder."""
        return not _is_empty_folder(str(self.store.metrics_dir or self._metrics_dir))

    def append(self, stream: str, data: bytes) -> None:
        """Add output of the stream "stdout" or "stderr"; above the limit it is cut, and one line says so.

        Never raises. Ignored after finish().
        """
        if self.is_finished or not data:
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
            with contextlib.suppress(OSError):  # it holds metrics, and is all that keeps them
                os.rmdir(self._metrics_dir)
        self._facts["status"] = "unknown"
        self._facts.update(result)
        self._look_for_lost_metrics()
        if self.problems and "problems" not in result:
            self._facts["problems"] = list(self.problems)
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

    def _open(self, entry: str, started_at: float, extra: Mapping[str, object]) -> None:
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
            store._make_root()
            try:
                self._make_folder()
            except FileNotFoundError:  # somebody removed the state folder while we run
                store._made = False
                store._make_root()
                self._make_folder()
        except OSError as error:
            self._note("the task", error)
        self._make_metrics()
        if self._metrics_dir.startswith(f"{store._root}/runs/"):
            self._facts["metricsDir"] = self._metrics_dir[len(store._root) + 1 :]
        self._facts["status"] = "active"
        data = to_json(self._facts)
        self._task_json_is_full_size = len(data) <= _TASK_JSON_BYTES
        self.write("task.json", data.ljust(_TASK_JSON_BYTES))

    def _make_folder(self) -> None:
        self.name = self.store._claim_task(self.ids.task)
        self._folder = f"{self.store._root}/tasks/{self.name}"
        self._facts["name"] = self.name
        for stream in STREAMS:
            _make_empty(f"{self._folder}/{stream}.log")

    def _make_metrics(self) -> None:
        store, ids = self.store, self.ids
        parent = "/".join(safe_part(part) for part in (ids.pipeline, ids.node, ids.job))
        parent = f"{store._root}/runs/{parent}"
        self._metrics_dir = self._metrics_link = f"{parent}/{self.name}"
        try:
            run = self._metrics_dir = store._claim_run(parent, self.name)
            link = self._metrics_link = store._claim_slot()
        except OSError as error:
            self._note("metrics", error)
            self._use_temporary_metrics()
            return
        if store.metrics_dir is not None:
            self._use_volume(str(store.metrics_dir), link, run)
        try:
            store._lead(link, run, self._folder)
        except OSError as error:
            self._note("metrics", error)
            self._metrics_link = self._metrics_dir

    def _use_temporary_metrics(self) -> None:
        """A writer in user code must not fail because our folder cannot be written."""
        if self.store.metrics_dir is not None:
            self._metrics_link = str(self.store.metrics_dir)
            return
        import tempfile  # with random and hashlib behind it, for a case that hardly ever is

        try:
            self._metrics_dir = self._metrics_link = tempfile.mkdtemp(prefix="hkrunner-metrics-")
            self._temporary = True
            self.problems.append(f"metrics of this task go to {self._metrics_dir}; nothing else keeps them")
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
            owner = self.store._claim_found()
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
        own = _bytes_below(self._metrics_dir)
        if own == 0 and not store._warned_elsewhere:
            for folder, size in store._old_runs:
                if _bytes_below(folder) > size:
                    store._warned_elsewhere = True
                    self.problems.append(
                        f"metrics of this task went to task {os.path.basename(folder)}: the writer is "
                        "created once; create it inside start()"
                    )
                    break
        # A child that takes a crashed one's place is imported while the path leads to the crashed task.
        if own > 0 or self._facts.get("status") == "failed":
            store._old_runs.append((self._metrics_dir, own))

    def _note(self, what: str, error: OSError) -> None:
        """One sentence per kind of trouble: a full disk would otherwise tell of itself with each line."""
        if error.errno in self._noted:
            return
        self._noted.add(error.errno)
        code = errno.errorcode.get(error.errno or 0, "")
        self.problems.append(
            f"{what} cannot be kept in {self._folder}: {error.strerror} ({code}); the task goes on without"
        )


def _make_empty(path: str) -> None:
    try:
        os.mknod(path, 0o666 | stat.S_IFREG)  # one system call of two; macOS keeps it for root
    except FileExistsError:
        pass
    except PermissionError:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))


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


def _is_empty_folder(path: str) -> bool:
    try:
        with os.scandir(path) as entries:
            return next(entries, None) is None
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _point(link: str, target: str) -> None:
    """The symlink leads to the target; at no time is there none."""
    temporary = f"{link}.tmp"
    try:
        os.symlink(target, temporary)
    except FileExistsError:  # a hkrunner was killed right here
        os.unlink(temporary)
        os.symlink(target, temporary)
    os.replace(temporary, link)


def _exchange(link: str, target: str, old: str) -> bool:
    """The symlink leads to the target and the one that was there is called `old`; False: nothing changed.

    At no time is there none. It cannot be done on every file system, nor when somebody removed a folder.
    """
    from ..sandbox.kernel import exchange  # ctypes: 5 ms that `runs ls` need not spend

    try:
        os.symlink(target, old)
    except OSError:
        return False
    try:
        exchange(link, old)
    except OSError:
        remove_quietly(old)
        return False
    return True


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
