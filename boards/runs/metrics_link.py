"""The path in ALGO_METRICS_DIR: one for the life of a child, which leads to each task's run folder in turn.

User code reads the variable once at import, and its writers live across tasks. So the path is the symlink
`current/<n>/metrics`, replaced for each task. Until the first task it is a folder, so that code which
resolves it at import gets this very path; that folder then becomes the first task's, with the files that a
writer made at import. `n` is reserved by a lock on `current/<n>.lock`, which the kernel releases when the
process ends, however that happens.

The link of the task before is moved to that task's folder and not deleted: ext4 looks at every inode that was
deleted within the last minutes before it hands one out, so a deletion per task made each new file of later
tasks slower (0.3 ms each after 1,500 tasks, measured).
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os

from .files import NoLocksError, is_empty_folder, lock_file, remove_quietly
from .layout import RESOURCES, Layout

#: The time of change of a folder to which nobody has written: the year 2000.
MARK_NS = 946_684_800 * 10**9


class LinkState(enum.Enum):
    """What there is at the path."""

    UNCLAIMED = "no path is reserved"
    CLAIMED = "the path is reserved, and nothing is there"
    FOLDER = "a folder: no task has begun, or none has left anything there"
    LINK = "a link to the latest task's run folder"


class MetricsLink:
    """The path current/<n>/metrics of one process."""

    def __init__(self, layout: Layout) -> None:
        """No path is reserved yet."""
        self._layout = layout
        self._state = LinkState.UNCLAIMED
        self._folder = self._path = ""  # current/<n>, and the path below it
        #: The path below the state folder, which says in a record where its task may have written.
        self.recorded_path = ""
        self._lock_fd: int | None = None  # None where the file system has no locks
        self._task_folder = ""  # of the task that the link leads to
        self._can_mark = False  # whether the folder's time of change shows if it is untouched

    def make_folder(self) -> str:
        """Return the path; it is a folder if no task has begun yet. Raises OSError."""
        path = self.claim()
        if self._state is LinkState.CLAIMED:
            remove_quietly(path)  # the link of a process that was killed
            os.makedirs(path)
            self._state = LinkState.FOLDER
            self._mark(path)
        return path

    def make_empty_folder(self) -> str:
        """Return the path, which is an empty folder for the next task. Raises OSError."""
        if self._state is LinkState.FOLDER:
            return self._path  # nearly always
        path = self.make_folder()
        if self._state is LinkState.LINK:
            self._replace_by_folder(path)
        return path

    def is_untouched(self) -> bool:
        """Whether the path is a folder and nothing was ever made in it."""
        if self._state is not LinkState.FOLDER:
            return self._state is LinkState.CLAIMED
        path = self._path
        try:
            changed = os.stat(path).st_mtime_ns
        except OSError:  # someone has removed the state folder: make_folder() makes it again
            self._state = LinkState.CLAIMED
            return True
        return changed == MARK_NS if self._can_mark else is_empty_folder(path)

    def _mark(self, path: str) -> None:
        """Have a later change of the folder show in its time of change, where the file system keeps that."""
        try:
            os.utime(path, ns=(MARK_NS, MARK_NS))
            self._can_mark = os.stat(path).st_mtime_ns == MARK_NS
        except OSError:
            self._can_mark = False

    def claim(self) -> str:
        """Return the path, reserved for this process. Raises OSError."""
        number = 0
        while self._state is LinkState.UNCLAIMED:
            number += 1
            folder = f"{self._layout.metrics_links}/{number}"
            try:
                self._lock_fd = lock_file(f"{folder}.lock")
            except NoLocksError:
                self._use(f"pid{os.getpid()}-{id(self):x}")
            if self._lock_fd is not None:
                self._use(str(number))
                self._remove_old_folder()
        return self._path

    def _use(self, name: str) -> None:
        self._folder = f"{self._layout.metrics_links}/{name}"
        self._path, self.recorded_path = f"{self._folder}/metrics", f"current/{name}/metrics"
        self._state = LinkState.CLAIMED

    def _remove_old_folder(self) -> None:
        """Remove the folder that a process left at the path; a folder with files is moved."""
        os.makedirs(self._folder, exist_ok=True)
        for path in (f"{self._folder}/metrics", f"{self._folder}/next"):
            if os.path.isdir(path) and not os.path.islink(path):
                try:
                    os.rmdir(path)
                except OSError:
                    os.rename(path, self.run_of_lost_task() or self._layout.claim_orphaned_run())
        remove_quietly(f"{self._folder}/next")

    def run_of_lost_task(self) -> str | None:
        """Return a new run folder of the task that wrote to the path before its hkrunner was killed."""
        from .journal_reader import read_journals  # late: for a case that is rare

        own = self.recorded_path
        lost = [
            task
            for task in read_journals(self._layout.root_text).values()
            if task.facts.get("metricsLink") == own and task.facts["status"] == "active"
        ]
        run = lost[-1].facts.get("metricsDir") if lost else None
        if not isinstance(run, str):
            return None
        parent, name = os.path.split(f"{self._layout.root_text}/{run}")
        return self._layout.claim_run(parent, name)

    def lead_to(self, run: str, task_folder: str, *, real: str, is_in_use: bool = False) -> None:
        """Have the path lead to the run folder, which has nothing but curves of usage. Raises OSError.

        task_folder: the task's own, which gets the link when the next task begins. real: the folder that
        `run` leads to if it is a link itself, else the same. is_in_use: user code may be using the path now.
        """
        path = self.claim()
        target = "../../" + run[len(self._layout.root_text) + 1 :]
        if self._state is LinkState.FOLDER:
            _move_curves(run, path)  # not the user's files to them: they may be in use, and new ones may come
            if not (is_in_use and self._move_in_use(path, run)):
                _move_content(path, real)
            self._state = LinkState.CLAIMED
        if not (self._state is LinkState.LINK and _exchange(path, target, f"{self._task_folder}/metrics")):
            os.makedirs(self._folder, exist_ok=True)
            _replace_link(path, target)
        self._state, self._task_folder = LinkState.LINK, task_folder

    def _move_in_use(self, path: str, run: str) -> bool:
        """Move the folder at the path to `run`, and have the path lead there; False when nothing was changed.

        At each moment the path leads to the folder: first as itself, then by way of `next`, which is the
        folder and then a link to it. `next` stays until the next task: someone may be on that way. Whatever
        may fail comes before the first exchange: a path that has stopped halfway is of no use to later tasks.
        """
        from ...sandbox.linux.kernel import exchange  # late: ctypes takes 5 ms, and most tasks need none

        step = f"{self._folder}/next"
        remove_quietly(step)
        os.symlink("next", step)
        os.rmdir(run)
        os.symlink(os.path.abspath(run), run)
        try:
            exchange(path, step)
        except OSError:  # not on this file system
            os.unlink(step)
            os.unlink(run)
            os.mkdir(run)
            return False
        exchange(step, run)
        return True

    def _replace_by_folder(self, path: str) -> None:
        """Make the path an empty folder, and give its link to the task that it led to. Raises OSError."""
        from ...sandbox.linux.kernel import exchange

        fresh = f"{self._folder}/next"
        remove_quietly(fresh)
        os.makedirs(fresh, exist_ok=True)
        try:
            exchange(path, fresh)
        except OSError:  # not on this file system
            os.rename(path, f"{path}.old")
            os.rename(fresh, path)
            fresh = f"{path}.old"
        self._mark(path)
        self._state = LinkState.FOLDER
        try:
            os.rename(fresh, f"{self._task_folder}/metrics")
        except OSError:
            remove_quietly(fresh)  # the task's folder was removed

    def close(self) -> None:
        """Release the path for other processes. Optional: the end of this process does the same."""
        if self._lock_fd is None:
            return
        path = f"{self._folder}/metrics"
        with contextlib.suppress(OSError):
            if self._state is LinkState.FOLDER:
                os.rmdir(path)  # fails if it has files, which are kept
            elif self._state is LinkState.LINK:
                os.rename(path, f"{self._task_folder}/metrics")
        remove_quietly(path)  # the task's folder was removed
        remove_quietly(f"{self._folder}/next")
        with contextlib.suppress(OSError):
            os.rmdir(self._folder)
        remove_quietly(f"{self._folder}.lock")
        os.close(self._lock_fd)
        self._lock_fd, self._state = None, LinkState.UNCLAIMED


def _move_curves(run: str, folder: str) -> None:
    """Move the curves of usage, if the run folder has any, to the folder that will take its place.

    A folder of that name may be there, of the user's: the files go into it, as when the user's comes first.
    """
    try:
        names = os.listdir(f"{run}/{RESOURCES}")
    except FileNotFoundError:
        return  # nearly always
    with contextlib.suppress(OSError):
        os.mkdir(f"{folder}/{RESOURCES}")
    for name in names:
        try:
            os.rename(f"{run}/{RESOURCES}/{name}", f"{folder}/{RESOURCES}/{name}")
        except OSError:  # the name is a file of the user's, which counts more: the record has the peak, too
            os.unlink(f"{run}/{RESOURCES}/{name}")
    os.rmdir(f"{run}/{RESOURCES}")


def _move_content(folder: str, target: str) -> None:
    """Move the folder's content to the target, which is empty, and remove the folder."""
    try:
        os.rename(folder, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        import shutil  # late: it imports every archive format, for another file system

        for name in os.listdir(folder):
            shutil.move(f"{folder}/{name}", f"{target}/{name}")
        os.rmdir(folder)


def _replace_link(link: str, target: str) -> None:
    """Have the symlink lead to the target; at no time is there no link."""
    temporary = f"{link}.tmp"
    try:
        os.symlink(target, temporary)
    except FileExistsError:  # a process was killed right here
        os.unlink(temporary)
        os.symlink(target, temporary)
    os.replace(temporary, link)


def _exchange(link: str, target: str, old: str) -> bool:
    """Have the symlink lead to the target, and `old` where it led; return False if nothing was changed.

    At no time is there no link. Some file systems cannot do it, and the folder of `old` may be gone.
    """
    from ...sandbox.linux.kernel import exchange  # late: ctypes takes 5 ms, which `runs ls` can do without

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
