"""The folders of an isolated child: made before its start, removed with their content after its end."""

from __future__ import annotations

import contextlib
import os

from ..linux.abandoned import remove_abandoned, signed_name

_PREFIX = "hkrunner-box-"
_SHARED_MEMORY = "/dev/shm"


class PrivateFolders:
    """A temporary folder, one for shared memory, and one for the files of its tasks."""

    def __init__(self, temporary_root: str, records_root: str | None) -> None:
        """Make the folders. `records_root`: where the task's files go, None: nowhere. Raises OSError.

        What a killed hkrunner has left there is removed.
        """
        self._made: list[str] = []
        for root in filter(None, (temporary_root, _SHARED_MEMORY, records_root)):
            remove_abandoned(root, _PREFIX)
        self._folder = self._make(temporary_root)
        self.temporary = f"{self._folder}/tmp"
        self.new_root = f"{self._folder}/root"
        try:
            self.shared_memory = self._make(_SHARED_MEMORY)
        except OSError:  # there is none, or it is not for this user
            self.shared_memory = f"{self._folder}/shm"
            os.mkdir(self.shared_memory, 0o700)
        self.records = self._make(records_root) if records_root is not None else None
        os.mkdir(self.temporary, 0o700)
        os.mkdir(self.new_root, 0o700)
        os.mkdir(f"{self.temporary}/.home", 0o700)

    @property
    def all(self) -> list[str]:
        """The folders that are to be removed."""
        return list(self._made)

    def remove(self) -> None:
        """Remove the folders; the child has ended."""
        for folder in self._made:
            _remove(folder)
        self._made = []

    def _make(self, root: str) -> str:
        folder = os.path.join(os.path.realpath(root), signed_name(_PREFIX))
        os.mkdir(folder, 0o700)
        self._made.append(folder)
        return folder


def _remove(folder: str) -> None:
    """Remove the folder with its content, whatever a child that has ended has made there.

    Its folders may be unreadable, and deeper than a path can name or a function can call itself: so each one
    is moved to the top before it is emptied. What cannot be removed stays; a later run tries it again.
    """
    mark, moved = os.urandom(8).hex(), 0
    failed: set[str] = set()
    while below := [entry for entry in _entries(folder) if entry.name not in failed]:
        for entry in below:
            try:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                    continue
                os.chmod(entry.path, 0o700)
                for inner in _entries(entry.path):
                    if inner.is_dir(follow_symlinks=False):
                        os.chmod(inner.path, 0o700)
                        moved += 1
                        os.rename(inner.path, f"{folder}/{mark}-{moved}")
                    else:
                        os.unlink(inner.path)
                os.rmdir(entry.path)
            except OSError:
                failed.add(entry.name)
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []
