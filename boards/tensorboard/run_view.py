"""What a board shows: one run a task, named by what distinguishes the tasks.

The data server reads event files through links to the run folders (run_links.py). What TensorBoard shows is
made of them and of the tasks' records (run_data.py): nothing is written for it, and a name or a mark changes
at once. The run folders themselves keep HKube's names and are never changed. Names belong to one board.

A thread of the board's process looks for new tasks four times a second. A folder is listed again only when it
has changed. With thousands of tasks the latest are shown first, and the rest while the board serves already.
A record that cannot be read is reported, and holds no other task up.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ..runs.files import read_json, safe_part
from ..runs.history import ACTIVE
from ..runs.run_names import NamedTask, RunNames, marked
from .journal_view import JournalView
from .run_links import RunLinks
from .viewed_task import ViewedTask

_FIRST_S = 0.1  # how long the start of a board waits for names, before TensorBoard is imported
_REFRESH_S = 0.25
_SLICE_S, _SLICE_PAUSE_S = 0.3, 0.02  # of work while visitors are served, until all tasks have names
_OUTCOMES_SLICE_S, _OUTCOMES_PAUSE_S = 0.1, 0.1  # then, until all outcomes are known
_BATCH = 100  # tasks whose names are made together
_INPUT_DEADLINE_S = 1.0  # a task without a recorded input by then is shown without it until that comes
_COARSE_CLOCK_NS = 2_000_000_000  # two changes this close may leave a folder's time as it was
_LOCK_DEADLINE_S = 1.0
_MAX_UNREADABLE = 5  # tasks that the notes name
_CHECK_S = 2.0  # between two looks at the links in the folder of a running task


@dataclass(frozen=True)
class ShownRuns:
    """What a board shows at one moment."""

    names: Mapping[str, str] = field(default_factory=dict)  # key among the links -> name on the page
    keys: Mapping[str, str] = field(default_factory=dict)  # the other way round
    tasks: Mapping[str, ViewedTask] = field(default_factory=dict)  # by name; some event files have none


class RunView:
    """What one board shows."""

    def __init__(self, folder: str, *, root: str, log_dir: str, max_files: int) -> None:
        """Nothing is made yet.

        folder: of the links. log_dir: what the board shows, below the state folder. max_files: that the data
        server may open.
        """
        self._root = root
        self._log_dir = log_dir
        self._is_pick = log_dir.startswith(f"{root}/boards/")
        self._depth = 0  # how many folders below log_dir run folders are
        self._names = RunNames()
        self._journal = JournalView(root)
        self._links = RunLinks(folder, root=root, max_files=max_files)
        self._listed: dict[str, tuple[int, list[tuple[str, bool]]]] = {}  # folder -> its time and entries
        self._keys: dict[str, str] = {}  # run folder -> its key among the links
        self._unlinked: dict[str, str] = {}  # the same, of those that have no link yet
        self._shown: dict[str, str] = {}  # run folder -> its name on the page
        self._tasks: dict[str, ViewedTask] = {}  # by run folder: those shown
        self._unread: dict[str, str] = {}  # run folder -> its path below log_dir, the latest first
        self._waiting: dict[str, ViewedTask] = {}  # by run folder: those not shown yet
        self._open: dict[str, ViewedTask] = {}  # by run folder: shown, and not complete
        self._changes = 0  # of what is shown
        self._published = (-1, ShownRuns())  # after which change
        self._has_more = False  # there was more to do than the time allowed for
        self._look_at_s = 0.0  # when to look for new tasks again while that is so, on the monotonic clock
        self._lock = threading.RLock()  # held while the view changes
        self._is_ended = threading.Event()
        self._unreadable: dict[str, str] = {}  # run folder -> a sentence why its record is not shown
        self._trouble = ""  # why the view could not be brought up to date the last time

    @property
    def folder(self) -> str:
        """The folder that the data server reads."""
        return self._links.folder

    def notes(self) -> tuple[str, ...]:
        """Return a sentence for each thing that a visitor would miss on the board, and why it is missing."""
        notes = list(self._unreadable.values())
        if len(notes) > _MAX_UNREADABLE:
            further = len(notes) - _MAX_UNREADABLE
            notes[_MAX_UNREADABLE:] = [f"the records of {further:,} further tasks cannot be read"]
        if self._trouble:
            notes.append(self._trouble)
        return (*notes, *self._links.notes())

    def make(self, depth: int) -> None:
        """Make the links, so that the data server can begin. Raises OSError.

        depth: how many folders below log_dir run folders are.
        """
        self._depth = depth
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        self.refresh(0.0)

    def name_latest(self) -> None:
        """Name the latest tasks, as many as a moment allows for. Raises OSError."""
        self.refresh(_FIRST_S)

    def follow(self) -> None:
        """Have a thread add the other tasks, and keep the view up to date from now on."""
        threading.Thread(target=self._follow, name="view", daemon=True).start()

    def shown(self) -> ShownRuns:
        """Return what is shown now; never waits."""
        return self._published[1]

    def count(self, runs: Iterable[str]) -> int:
        """Return how many tasks TensorBoard's runs belong to: a task's run may have others below it.

        While records are still being read, tasks that are not shown yet are counted, too.
        """
        shown = self.shown().keys
        count = len({next((path for path in parents(run) if path in shown), run) for run in runs})
        return max(count, len(self._keys)) if count and self._has_more else count

    def state(self) -> dict[str, int]:
        """Return a number that changes whenever tasks begin, end or are removed, and how many run."""
        running = sum(task.status == ACTIVE for task in list(self._open.values()))
        return {"changes": self._changes, "running": running}

    def remove(self) -> None:
        """Remove the links; nothing is added to them any more."""
        self._is_ended.set()
        if self._lock.acquire(timeout=_LOCK_DEADLINE_S):
            self._lock.release()  # whatever takes it now finds that the view is ended
        self._links.remove_all()

    def refresh(self, budget_s: float = float("inf")) -> None:
        """Add the tasks that exist now, or as many as the time allows for. Raises OSError."""
        with self._lock:
            if not self._is_ended.is_set():
                try:
                    self._refresh(time.monotonic() + budget_s)
                finally:
                    self._publish()

    def _follow(self) -> None:
        while True:
            began = time.monotonic()
            slice_s, pause_s = _SLICE_S, _SLICE_PAUSE_S
            if not self._unread:
                slice_s, pause_s = _OUTCOMES_SLICE_S, _OUTCOMES_PAUSE_S
            trouble = ""
            try:
                self.refresh(slice_s)
            except Exception as error:  # noqa: BLE001 - without this thread the board would show no further task
                trouble = f"new tasks cannot be shown: {_reason(error)}"
                if trouble != self._trouble:
                    _log(trouble)
            self._trouble = trouble
            took_s = time.monotonic() - began
            if self._is_ended.wait(pause_s if self._has_more else _pause_s(took_s)):
                return

    def _publish(self) -> None:
        if self._published[0] == self._changes:
            return
        names = {self._keys[run]: name for run, name in self._shown.items()}
        keys = {name: key for key, name in names.items()}
        tasks = {self._shown[run]: task for run, task in self._tasks.items()}
        self._published = (self._changes, ShownRuns(names, keys, tasks))

    def _refresh(self, end: float) -> None:
        began = time.monotonic()
        # Listing ten thousand folders in each of a busy machine's many slices was a third of all the work.
        if not self._has_more or began >= self._look_at_s:
            self._look_for_runs()
            now = time.monotonic()
            self._look_at_s = now + _pause_s(now - began)
        try:
            self._links.add((self._target(run), key) for run, key in self._unlinked.items())
            self._unlinked = {}
        finally:  # a full disk: the tasks are shown, and their curves once there is room for the links
            self._has_more = self._read_some(end)
            self._update_some(end)

    def _look_for_runs(self) -> None:
        """Note which run folders are new, and forget those that were removed. Raises OSError."""
        moved = self._journal.refresh()
        found = dict(self._runs(self._log_dir, "", self._depth))
        found.update(self._journal.runs_below(self._log_dir, self._depth))
        for run in self._keys.keys() & (moved | (self._keys.keys() - found.keys())):
            self._forget(run)
        new = sorted(found.keys() - self._keys.keys(), key=_changed, reverse=True)
        for run in new:
            self._keys[run] = safe_part(found[run])
        self._unread = {run: found[run] for run in new} | self._unread
        self._unlinked = {run: self._keys[run] for run in new} | self._unlinked

    def _update_some(self, end: float) -> None:
        """Update the tasks that are shown and not complete, or as many as the time allows for."""
        for task in list(self._open.values()):
            if time.monotonic() > end:
                self._has_more = True
                break
            with self._reporting(task.run):
                self._update(task)

    def _read_some(self, end: float) -> bool:
        """Show the tasks of run folders whose records were not read yet; return whether there are more."""
        runs = iter(list(self._unread.items()))
        while batch := list(itertools.islice(runs, _BATCH)):
            for run, path in batch:
                is_known = True
                with self._reporting(run):
                    is_known = self._add(run, path)
                if is_known:
                    del self._unread[run]
            self._show_waiting()
            if time.monotonic() > end:
                return next(runs, None) is not None
        self._show_waiting()
        return False

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

    def _target(self, run: str) -> str:
        """Return the run folder itself: in the folder of a board of picked tasks, run folders are links."""
        return os.readlink(run) if self._is_pick and os.path.islink(run) else run

    def _add(self, run: str, path: str) -> bool:
        """Queue the task of this run folder, to be shown; show a folder of no task at once.

        Return False while its record may still come.
        """
        target = self._target(run)
        record = f"{self._root}/tasks/{os.path.basename(target)}"
        facts = read_json(f"{record}/task.json")
        if facts is None and (task := self._journal.task_of(target)) is not None:
            if task.status == ACTIVE:
                return False
            self._waiting[run] = task
        elif facts is not None and f"{self._root}/{facts.get('metricsDir')}" == target:
            # The status of an ended task is final: its record is not read a second time.
            status = str(facts.get("status"))
            self._waiting[run] = ViewedTask(self._root, run, record, facts, time.monotonic(), status=status)
        elif facts is not None or not _is_new(record):
            self._shown[run] = path or os.path.basename(target)
            self._changes += 1
        else:
            return False
        return True

    def _forget(self, run: str) -> None:
        """Remove from the view a run whose folder was removed. Raises OSError when only its link stays."""
        key = self._keys.pop(run)
        texts = (self._unlinked, self._unread, self._shown, self._unreadable)
        for known in (*texts, self._waiting, self._open, self._tasks):
            known.pop(run, None)
        self._changes += 1
        self._links.remove(key)

    # --- tasks

    def _show_waiting(self) -> None:
        """Show every queued task that can be named."""
        now = time.monotonic()
        ready = []
        for task in list(self._waiting.values()):
            with self._reporting(task.run):
                if _is_ready(task, now):
                    ready.append(task)
        self._names.learn([task.named for task in ready])
        self._changes += len(ready)
        for task in ready:
            del self._waiting[task.run]
            task.name = self._names.name(task.named)
            self._shown[task.run] = marked(task.name, task.status)
            self._tasks[task.run] = self._open[task.run] = task

    def _update(self, task: ViewedTask) -> None:
        """Show what has become known of the task: its input, its end, its outcome."""
        task.read_status()
        if task.inputs is None:
            task.read_inputs()
            if task.inputs is not None:
                self._names.learn([task.named])
                task.name = self._names.name(task.named, earlier=task.name)
                self._changes += 1
        if not task.is_settled and (task.status != ACTIVE or time.monotonic() - task.checked_s > _CHECK_S):
            task.checked_s = time.monotonic()
            self._links.check(self._target(task.run), self._keys[task.run])
        if task.status != ACTIVE:
            task.read_outcome()
            self._changes += 1
        if task.status != ACTIVE or task.is_removed:
            del self._open[task.run]
        self._shown[task.run] = marked(task.name, task.status)

    @contextlib.contextmanager
    def _reporting(self, run: str) -> Iterator[None]:
        """If the task's record has something that no code expects, report that, and show the name alone."""
        try:
            yield
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - the user's values are in it; the other tasks are to be shown
            name = os.path.basename(run)
            self._waiting.pop(run, None)
            self._open.pop(run, None)
            if run not in self._shown:
                self._shown[run] = self._names.name(NamedTask(name, "", {}))
            self._changes += 1
            self._unreadable[run] = f"the record of {name} cannot be read: {_reason(error)}"
            _log(self._unreadable[run])


def _pause_s(took_s: float) -> float:
    """Return how long to wait before work that took this long is repeated."""
    return max(_REFRESH_S, 20 * took_s)


def _reason(error: Exception) -> str:
    """Return what has happened, on one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(f"{type(error).__name__}: {error}".split())


def _log(text: str) -> None:
    """Add a line to the board's log."""
    print(f"hkrunner: {text}", file=sys.stderr, flush=True)


def _changed(run: str) -> float:
    """Return when the folder got its latest entry, in seconds since the epoch."""
    try:
        return os.stat(run).st_mtime
    except OSError:
        return 0.0


def parents(path: str) -> Iterator[str]:
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
