"""What could not be kept of one task."""

from __future__ import annotations

import errno
import os


class DiskProblems:
    """A sentence for each kind of trouble with the disk: a full one would add one with each line.

    An object of its own: if the parts of a record had a method of the record instead, they would hold each
    other, and with them the task's input and result, until the garbage collector comes by.
    """

    _noted: frozenset[int | None] = frozenset()  # errno of each error that has its sentence

    task = ""  #: the name of the task's folder, once it is known

    def __init__(self, tasks_folder: str) -> None:
        """Nothing has gone wrong. tasks_folder: where the task's folder is, or was to be."""
        self.sentences: list[str] = []
        self._tasks_folder = tasks_folder

    def note(self, what: str, error: OSError) -> None:
        """Add a sentence on what could not be kept, unless there is one on the same error."""
        if error.errno in self._noted:
            return
        self._noted |= {error.errno}
        folder, state_folder = f"{self._tasks_folder}/{self.task}", os.path.dirname(self._tasks_folder)
        remedy = "--state-dir DIR keeps it elsewhere, --no-state nowhere"
        place = error.filename2 or error.filename
        if what == "metrics" and isinstance(place, str) and not place.startswith(state_folder):
            folder, remedy = place, "--metrics-dir DIR keeps them elsewhere"
        code = errno.errorcode.get(error.errno or 0, "")
        told = f"{what} cannot be kept in {folder}: {error.strerror} ({code})"
        self.sentences.append(f"{told}; the task goes on without. {remedy}")
