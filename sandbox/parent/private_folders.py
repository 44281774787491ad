"""The folders of an isolated child: made before its start, removed with their content after its end."""

from __future__ import annotations

import contextlib
import os

from ..linux.abandoned import remove_abandoned, signed_name
from ..linux.remove_tree import remove_tree

_PREFIX = "hkrunner-box-"
_SHARED_MEMORY = "/dev/shm"


class PrivateFolders:
    """A temporary folder, one for shared memory, and one for the files of its tasks."""

    def __init__(self, temporary_root: str, records_root: str | None) -> None:
        """Make the folders. `records_root`: where the task's files go, None: nowhere. Raises OSError.

        What a killed hkrunner has left there is removed. Where no files can be kept, as on a read-only disk,
        there is no folder for them: the record of the task reports that.
        """
        self._made: list[str] = []
        try:
            self._make_all(temporary_root, records_root)
        except OSError:
            self.remove()
            raise

    def _make_all(self, temporary_root: str, records_root: str | None) -> None:
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
        self.records: str | None = None
        if records_root is not None:
            with contextlib.suppress(OSError):
                os.makedirs(records_root, exist_ok=True)
                self.records = self._make(records_root)
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
            remove_tree(folder)
        self._made = []

    def _make(self, root: str) -> str:
        folder = os.path.join(os.path.realpath(root), signed_name(_PREFIX))
        os.mkdir(folder, 0o700)
        self._made.append(folder)
        return folder
