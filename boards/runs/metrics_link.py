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
import fcntl
import os

from .files import remove_quietly
from .layout import Layout


class LinkState(enum.Enum):
    """What there is at the path."""

    UNCLAIMED = "no path is reserved"
    CLAIMED = "the path is reserved, and nothing is there"
    FOLDER = "a folder: no task has begun"
    LINK = "a link to the latest task's run folder"


class MetricsLink:
    """The path current/<n>/metrics of one process."""

    def __init__(self, layout: Layout) -> None:
        """No path is reserved yet."""
        self._layout = layout
        self._state = LinkState.UNCLAIMED
        self._folder = ""  # current/<n>
        self._lock_fd: int | None = None  # None where the file system has no locks
        self._task_folder = ""  # of the task that the link leads to

    def make_folder(self) -> str:
        """Return the path; it is a folder if no task has begun yet. Raises OSError."""
        path = self.claim()
        if self._state is LinkState.CLAIMED:
            remove_quietly(path)  # the link of a process that was killed
            os.mkdir(path)
            self._state = LinkState.FOLDER
        return path

    def claim(self) -> str:
        """Return the path, reserved for this process. Raises OSError."""
        number = 0
        while self._state is LinkState.UNCLAIMED:
            number += 1
            folder = f"{self._layout.metrics_links}/{number}"
            try:
                self._lock_fd = _lock(f"{folder}.lock")
            except _NoLocksError:
                self._folder = f"{self._layout.metrics_links}/pid{os.getpid()}-{id(self):x}"
                self._state = LinkState.CLAIMED
            if self._lock_fd is not None:
                self._folder = folder
                self._state = LinkState.CLAIMED
                self._remove_old_folder()
        return f"{self._folder}/metrics"

    def _remove_old_folder(self) -> None:
        """Remove the folder at the path, left by a process that had no task; a folder with files is moved."""
        path = f"{self._folder}/metrics"
        os.makedirs(self._folder, exist_ok=True)
        if os.path.isdir(path) and not os.path.islink(path):
            try:
                os.rmdir(path)
            except OSError:
                os.rename(path, self._layout.claim_orphaned_run())

    def lead_to(self, run: str, task_folder: str, *, real: str) -> None:
        """Have the path lead to the run folder, which is still empty. Raises OSError.

        task_folder: the task's own, which gets the link when the next task begins. real: the folder that
        `run` leads to if it is a link itself, else the same.
        """
        path = self.claim()
        if self._state is LinkState.FOLDER:
            _move_content(path, real)
            self._state = LinkState.CLAIMED
        target = "../../" + run[len(self._layout.root_text) + 1 :]
        if not (self._state is LinkState.LINK and _exchange(path, target, f"{self._task_folder}/metrics")):
            os.makedirs(self._folder, exist_ok=True)
            _replace_link(path, target)
        self._state, self._task_folder = LinkState.LINK, task_folder

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
        with contextlib.suppress(OSError):
            os.rmdir(self._folder)
        remove_quietly(f"{self._folder}.lock")
        os.close(self._lock_fd)
        self._lock_fd, self._state = None, LinkState.UNCLAIMED


class _NoLocksError(Exception):
    """The file system has no locks."""


def _lock(path: str) -> int | None:
    """Return a descriptor that holds the lock; None when another process has it.

    Raises _NoLocksError, and OSError when the file cannot be made.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The owner before us may have removed the file between our open and our lock.
        if os.fstat(fd).st_ino == os.stat(path).st_ino:
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError as error:
        os.close(fd)
        raise _NoLocksError from error
    os.close(fd)
    return None


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
