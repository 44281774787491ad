"""What ALGO_METRICS_DIR names: one path for the life of a child, which leads to each task's run in turn.

User code reads the variable at import, and its writers live across tasks. So the path is the symlink
`current/<n>/metrics`, another one for each task. Until the first task it is a folder, so that code which
resolves it at import gets this very path; that folder then becomes the first task's, with what a writer made
at import has put there. `n` is ours alone while we hold the lock on `current/<n>.lock`; the kernel lets go of
it when we die, however that happens.

The link of the task before is kept in that task's folder, not deleted: ext4 looks at every inode that was
deleted within the last minutes before it hands one out, and a deletion per task made each new file of the
tasks after it dearer and dearer (0.3 ms each after 1,500 tasks, measured).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable

from .files import remove_quietly


class Slot:
    """The path current/<n>/metrics that is ours while we live."""

    def __init__(self, root: str, claim_found: Callable[[], str]) -> None:
        """Nothing is claimed yet. claim_found makes a run folder for files of which nobody knows the task."""
        self._root = root
        self._claim_found = claim_found
        self._name = ""
        self._fd = -1
        self._is_folder = False  # no task was there yet
        self._linked = ""  # the folder of the task that the link leads to

    def folder(self) -> str:
        """The path, made a folder if there was no task yet; raises OSError."""
        is_first = not self._name
        link = self.claim()
        if is_first:
            remove_quietly(link)  # a hkrunner was killed: it leads to a task of that one
            os.mkdir(link)
            self._is_folder = True
        return link

    def claim(self) -> str:
        """The path; raises OSError."""
        number = 0
        while not self._name:
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
                self._name = f"pid{os.getpid()}-{id(self):x}"
                break
            if ours:
                self._name, self._fd = str(number), fd
                self._clear(f"{lock.removesuffix('.lock')}/metrics")
            else:
                os.close(fd)
        return f"{self._root}/current/{self._name}/metrics"

    def _clear(self, link: str) -> None:
        """No folder is there: one of a hkrunner that had no task is removed, with files it is kept."""
        os.makedirs(os.path.dirname(link), exist_ok=True)
        if os.path.isdir(link) and not os.path.islink(link):
            try:
                os.rmdir(link)
            except OSError:
                os.rename(link, self._claim_found())

    def lead(self, run: str, task: str, *, real: str) -> None:
        """The path leads to the run's folder, which is empty so far, of the task with that folder.

        real: where the run's folder is, if `run` is a link to it.
        """
        link = self.claim()
        if self._is_folder:
            _move(link, real)
            self._is_folder = False
        target = "../../" + run[len(self._root) + 1 :]
        if not (self._linked and _exchange(link, target, f"{self._linked}/metrics")):
            os.makedirs(os.path.dirname(link), exist_ok=True)
            _point(link, target)
        self._linked = task

    def close(self) -> None:
        """It is given back. Optional: the end of the process does the same."""
        if self._fd < 0:
            return
        slot = f"{self._root}/current/{self._name}"
        with contextlib.suppress(OSError):
            if self._is_folder:
                os.rmdir(f"{slot}/metrics")  # not with files in it, which are kept
            else:
                os.rename(f"{slot}/metrics", f"{self._linked}/metrics")
        remove_quietly(f"{slot}/metrics")  # its task's folder was removed
        with contextlib.suppress(OSError):
            os.rmdir(slot)
        remove_quietly(f"{slot}.lock")
        os.close(self._fd)
        self._fd, self._name = -1, ""


def _move(folder: str, target: str) -> None:
    """The folder becomes the target, which is an empty one."""
    try:
        os.rename(folder, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        import shutil  # with all its kinds of archives, for another file system

        for name in os.listdir(folder):
            shutil.move(f"{folder}/{name}", f"{target}/{name}")
        os.rmdir(folder)


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
    from ...sandbox.linux.kernel import exchange  # ctypes: 5 ms that `runs ls` need not spend

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
