"""The folder that TensorBoard reads for a board: one run a task, named by what distinguishes the tasks.

    tasks/<task>/board/        a link to each entry of the task's run folder; while it runs one to each file
                               of its resources, which make no run of their own so, and one by which the
                               HParams tab shows it (hparams.py); after its end one file with the
                               resources and the outcome
    boards/journal/<task>/board/   the same of a task that has no folder (runs/journal.py), once it has ended
    boards/view-<host>-<pid>/
        t2 lr=0.02 -> ../../tasks/<task>/board     the same link as tasks/<task>/board.link
        <path> -> …            a folder with event files that no recorded task owns

TensorBoard follows links. The run folders themselves keep HKube's names and are never changed. The folder
`board` is made once for all boards: two at a time do the same there. Names belong to one board.

A thread of the board's process looks for new tasks and files four times a second. A folder is listed again
only when it has changed. With thousands of tasks the latest are shown first, and the rest while the board
serves already.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator

from ..runs.files import read_json
from ..runs.hparams import START_FILE_NAME, has_sessions, write_outcome, write_start
from ..runs.layout import RESOURCES
from ..runs.run_names import RunNames, marked
from .journal_view import JournalView
from .viewed_task import ACTIVE, SETTLED_S, ViewedTask

_FIRST_S = 0.8  # how long the start of a board waits for the view: a thousand tasks that no board has shown
_REFRESH_S = 0.25
_SLICE_S = 0.3  # of work at a time while visitors are served
_SLICE_PAUSE_S = 0.05
_BATCH = 100  # tasks whose names are made together
_INPUT_DEADLINE_S = 1.0  # a task without a recorded input by then is shown without it until that comes
_SESSION_AFTER_S = 2.0  # by then most algorithms that have hyperparameters of their own have written them
_HIDDEN_S = 3.0  # the data server, which looks every second, has forgotten a run that was gone for so long
_COARSE_CLOCK_NS = 2_000_000_000  # two changes this close may leave a folder's time as it was
_LOCK_DEADLINE_S = 1.0


class RunView:
    """The view of one board's folder."""

    def __init__(self, folder: str, *, root: str, log_dir: str) -> None:
        """Nothing is made yet. folder: of the view. log_dir: what the board shows, below the state folder."""
        self.folder = folder
        self._root = root
        self._log_dir = log_dir
        self._is_pick = log_dir.startswith(f"{root}/boards/")
        self._depth = 0  # how many folders below log_dir run folders are
        self._names = RunNames()
        self._journal = JournalView(root)
        self._listed: dict[str, tuple[int, list[tuple[str, bool]]]] = {}  # folder -> its time and entries
        self._shown: dict[str, str] = {}  # run folder -> its name in the view
        self._waiting: dict[str, ViewedTask] = {}  # by run folder: those not shown yet
        self._open: dict[str, ViewedTask] = {}  # by run folder: shown, and not complete
        self._changes = 0  # of names in the view
        self._has_more = False  # there was more to do than the time allowed for
        self._lock = threading.RLock()  # held while the view changes
        self._is_ended = threading.Event()

    def make(self, depth: int) -> None:
        """Make the view, with the latest tasks. Raises OSError.

        depth: how many folders below log_dir run folders are.
        """
        self._depth = depth
        self._journal.remove_old_folders()
        self.refresh(_FIRST_S)

    def follow(self) -> None:
        """Have a thread add the other tasks, and keep the view up to date from now on."""
        threading.Thread(target=self._follow, name="view", daemon=True).start()

    def count(self, runs: Iterable[str]) -> int:
        """Return how many tasks TensorBoard's runs belong to: a task's run may have others below it."""
        with self._lock:
            shown = set(self._shown.values())
        return len({next((path for path in _parents(run) if path in shown), run) for run in runs})

    def state(self) -> dict[str, int]:
        """Return a number that changes whenever tasks begin, end or are removed, and how many run."""
        running = sum(task.status == ACTIVE for task in list(self._open.values()))
        return {"changes": self._changes, "running": running}

    def remove(self) -> None:
        """Remove the view; nothing is added to it any more."""
        self._is_ended.set()
        self._lock.acquire(timeout=_LOCK_DEADLINE_S)  # not released: the process ends
        shutil.rmtree(self.folder, ignore_errors=True)

    def refresh(self, budget_s: float = float("inf")) -> None:
        """Add the tasks and files that exist now, or as many as the time allows for.

        Raises OSError.
        """
        with self._lock:
            if not self._is_ended.is_set():
                self._refresh(time.monotonic() + budget_s)

    def _follow(self) -> None:
        while True:
            began = time.monotonic()
            with contextlib.suppress(OSError):  # a full disk: the next time may do
                self.refresh(_SLICE_S)
            took_s = time.monotonic() - began
            if self._is_ended.wait(_SLICE_PAUSE_S if self._has_more else max(_REFRESH_S, 20 * took_s)):
                return

    def _refresh(self, end: float) -> None:
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        moved = self._journal.refresh()
        found = dict(self._runs(self._log_dir, "", self._depth))
        found.update(self._journal.runs_below(self._log_dir, self._depth))
        for run in self._shown.keys() & (moved | (self._shown.keys() - found.keys())):
            self._forget(run)
        new = sorted(found.keys() - self._shown.keys() - self._waiting.keys(), key=_changed, reverse=True)
        batches = iter(new)
        while batch := list(itertools.islice(batches, _BATCH)):
            for run in batch:
                self._add(run, found[run])
            self._show_waiting()
            if time.monotonic() > end:
                break
        else:
            self._show_waiting()
        self._has_more = next(batches, None) is not None
        for task in list(self._open.values()):
            if time.monotonic() > end:
                self._has_more = True
                break
            try:
                self._update(task)
            except FileNotFoundError:  # its record was removed; a board of it shows no more than there was
                self._open.pop(task.run, None)

    # --- what there is

    def _runs(self, folder: str, path: str, depth: int) -> Iterator[tuple[str, str]]:
        """Yield run folders, and folders above them that hold event files themselves, with their paths."""
        if depth == 0:
            yield folder, path
            return
        if self._is_pick:
            self._listed.clear()  # a link stays when its run is removed
        entries = self._entries(folder)
        if path and any("tfevents" in name for name, is_folder in entries if not is_folder):
            yield folder, path
            return
        for name, is_folder in entries:
            # In the folder of picked tasks, a link may lead to a run folder that its task does not have.
            if is_folder or (self._is_pick and os.path.islink(f"{folder}/{name}")):
                below = f"{path}/{name}" if path else name
                if depth == 1:
                    yield f"{folder}/{name}", below
                else:
                    yield from self._runs(f"{folder}/{name}", below, depth - 1)

    def _entries(self, folder: str) -> list[tuple[str, bool]]:
        """Return the names in the folder, and whether each is a folder; listed again after a change only."""
        try:
            changed = os.stat(folder).st_mtime_ns
            known = self._listed.get(folder)
            if known is not None and known[0] == changed:
                return known[1]
            with os.scandir(folder) as entries:
                listed = sorted((entry.name, entry.is_dir()) for entry in entries)
        except OSError:  # removed, or unreadable
            return []
        if time.time_ns() - changed > _COARSE_CLOCK_NS:
            self._listed[folder] = (changed, listed)
        return listed

    def _add(self, run: str, path: str) -> None:
        """Queue the task of this run folder, to be shown; show a folder of no task at once."""
        # In the folder of a board of picked tasks, run folders are links.
        target = os.readlink(run) if self._is_pick and os.path.islink(run) else run
        record = f"{self._root}/tasks/{os.path.basename(target)}"
        facts = read_json(f"{record}/task.json")
        if facts is None and (task := self._journal.task_of(target)) is not None:
            if task.status != ACTIVE:
                self._waiting[run] = task
        elif facts is not None and f"{self._root}/{facts.get('metricsDir')}" == target:
            # The status of an ended task is final: its record is not read a second time.
            status = str(facts.get("status"))
            self._waiting[run] = ViewedTask(run, record, facts, time.monotonic(), status=status)
        elif facts is not None or not _is_new(record):
            self._shown[run] = name = path or os.path.basename(target)
            os.makedirs(os.path.dirname(f"{self.folder}/{name}"), exist_ok=True)
            _symlink(target, f"{self.folder}/{name}")

    def _forget(self, run: str) -> None:
        """Remove from the view a run whose folder was removed."""
        self._open.pop(run, None)
        self._changes += 1
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self.folder}/{self._shown.pop(run)}")

    # --- tasks

    def _show_waiting(self) -> None:
        """Show every queued task that can be named."""
        now = time.monotonic()
        ready = [task for task in self._waiting.values() if _is_ready(task, now)]
        self._names.learn([task.named for task in ready])
        self._changes += len(ready)
        for task in ready:
            del self._waiting[task.run]
            task.name = self._names.name(task.named)
            shown = self._shown[task.run] = marked(task.name, task.status)
            with contextlib.suppress(FileNotFoundError):  # its record was removed: it is not made again
                if not task.is_complete:
                    if task.in_journal is not None:
                        os.makedirs(task.record, exist_ok=True)
                    _make_folder(task.folder)
                    self._open[task.run] = task
                    self._link_files(task)
                _link_task(task, f"{self.folder}/{shown}")

    def _update(self, task: ViewedTask) -> None:
        """Add new files to the task's run, and its outcome once it has ended."""
        task.read_status()
        self._link_files(task)
        if task.inputs is None and task.ended_s is None:
            task.read_inputs()
            if task.inputs is not None:
                self._names.learn([task.named])
                task.name = self._names.name(task.named, earlier=task.name)
                self._rename(task)
        now = time.monotonic()
        if task.status == ACTIVE:
            if not task.is_searched and task.inputs and now - task.seen_s > _SESSION_AFTER_S:
                self._write_start(task)
            return
        if task.ended_s is None:
            task.ended_s = now
            self._write_outcome(task)
            self._rename(task)
        if task.hidden_s is not None and now - task.hidden_s > _HIDDEN_S:
            task.hidden_s = None
            self._changes += 1
            _link_task(task, f"{self.folder}/{self._shown[task.run]}")
        if task.hidden_s is None and (now - task.ended_s > SETTLED_S or task.is_complete):
            del self._open[task.run]

    def _write_start(self, task: ViewedTask) -> None:
        """Have the HParams tab show the task, unless it shows the user's own hyperparameters."""
        task.is_searched = True
        if not has_sessions(task.run):
            write_start(task.folder, task.inputs or {}, task.started_s)
            task.is_session = True

    def _write_outcome(self, task: ViewedTask) -> None:
        """Write one file with the task's outcome and its resources to its folder."""
        self._changes += 1
        has_own_session = has_sessions(task.run)
        resources = [name for name, _ in self._entries(f"{task.run}/{RESOURCES}")]
        write_outcome(
            task.folder,
            task.outcome(),
            resources=[f"{task.run}/{RESOURCES}/{name}" for name in resources],
            is_session=not has_own_session,
        )
        for name in [START_FILE_NAME, *resources]:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{task.folder}/{name}")
        if has_own_session and task.is_session:
            # They came after ours, which the data server forgets only together with the run.
            self._hide(task)

    def _hide(self, task: ViewedTask) -> None:
        """Take the task out of the view, until _update shows it again."""
        task.hidden_s = time.monotonic()
        os.unlink(f"{self.folder}/{self._shown[task.run]}")

    def _rename(self, task: ViewedTask) -> None:
        """Show the task under its name, with the mark of its outcome."""
        shown, final = self._shown[task.run], marked(task.name, task.status)
        if shown != final:
            if task.hidden_s is None:
                os.rename(f"{self.folder}/{shown}", f"{self.folder}/{final}")
            self._shown[task.run] = final
            self._changes += 1

    def _link_files(self, task: ViewedTask) -> None:
        folder = task.folder
        for name, is_folder in self._entries(task.run):
            if is_folder and name == RESOURCES:
                for file, _ in self._entries(f"{task.run}/{name}") if task.status == ACTIVE else ():
                    _symlink(f"{task.run}/{name}/{file}", f"{folder}/{file}")
            else:
                _symlink(f"{task.run}/{name}", f"{folder}/{name}")


def _make_folder(path: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(path)


def _symlink(target: str, link: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.symlink(target, link)


def _link_task(task: ViewedTask, link: str) -> None:
    """Link the task's folder.

    The link is a hard link to a symlink that all boards share. A symlink for each board would take an inode,
    and ext4 hands inodes out slowly after many were deleted, as when a board of thousands of tasks restarts.
    """
    place = "../../tasks" if task.in_journal is None else "../journal"
    shared, target = f"{task.record}/board.link", f"{place}/{os.path.basename(task.record)}/board"
    try:
        os.link(shared, link, follow_symlinks=False)
    except FileExistsError:
        pass
    except OSError:  # the first board, or a file system without a second name for a link
        _symlink(target, shared)
        try:
            os.link(shared, link, follow_symlinks=False)
        except OSError:
            _symlink(target, link)


def _changed(run: str) -> float:
    """Return when the folder got its latest entry, in seconds since the epoch."""
    try:
        return os.stat(run).st_mtime
    except OSError:
        return 0.0


def _parents(path: str) -> Iterator[str]:
    """Yield the path and every path above it, the shortest first."""
    parts = path.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts) + 1))


def _is_ready(task: ViewedTask, now: float) -> bool:
    """Whether the task can be shown: its input is recorded, will not be, or is late."""
    task.read_status()
    task.read_inputs()
    return task.inputs is not None or task.status != ACTIVE or now - task.seen_s > _INPUT_DEADLINE_S


def _is_new(record: str) -> bool:
    """Whether the task's folder was made so lately that its task.json may not be there yet."""
    try:
        return time.time() - os.stat(record).st_mtime < _INPUT_DEADLINE_S
    except OSError:
        return False
