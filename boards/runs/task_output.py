"""Reads what a task has printed, from its folder or from a journal, while it may still be printing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import StoreError
from .files import read_json, safe_part
from .history import ACTIVE, status_of, task_folder
from .journal_reader import JournalReader, JournalTask
from .layout import STREAMS


@dataclass(frozen=True)
class LogPart:
    """Output from an offset on; is_final: the task has ended, and this is the end of its output."""

    data: bytes
    next_offset: int
    is_final: bool


class TaskOutput:
    """The output of one task. A second look reads only what the journals have got since the first one."""

    def __init__(self, root: Path, name: str) -> None:
        """Nothing is read yet."""
        self._root = root
        self._name = name
        self._journals = JournalReader(str(root))
        self._in_journal: JournalTask | None = None

    def read(self, stream: str, *, offset: int = 0, limit_bytes: int = 1 << 20) -> LogPart:
        """Return the output from an offset on; call again with next_offset to follow. Never waits.

        Raises NotFound, and StoreError when the output cannot be read.
        """
        if stream not in STREAMS:
            raise StoreError(f"there is no stream {stream}", hint=f"there are {' and '.join(STREAMS)}")
        # The state is read first: in the other order the last lines could be missed.
        task = self._look_in_journals()
        if task is not None:
            has_ended = status_of(task.facts, self._root) != ACTIVE
            data = task.log(stream)[offset:][:limit_bytes]
        else:
            folder = task_folder(self._root, self._name)
            path = str(folder / "task.json")
            facts = read_json(path) or read_json(path)  # again: it may be being overwritten
            has_ended = facts is None or status_of(facts, self._root) != ACTIVE
            data = self._read_file(folder / f"{stream}.log", stream, offset, limit_bytes)
        return LogPart(data, offset + len(data), has_ended and len(data) < limit_bytes)

    def _look_in_journals(self) -> JournalTask | None:
        """Return the task of this name or id, unless it has a folder."""
        name = safe_part(self._name)
        if not os.path.isdir(self._root / "journal") or os.path.exists(
            self._root / "tasks" / name / "task.json"
        ):
            return None
        self._journals.refresh()
        if self._in_journal is not None:
            self._in_journal = self._journals.latest(self._in_journal)
        if self._in_journal is None:
            found = self._journals.tasks()
            self._in_journal = found.get(name) or found.get(self._name)
        return self._in_journal

    def _read_file(self, path: Path, stream: str, offset: int, limit_bytes: int) -> bytes:
        try:
            with open(path, "rb") as file:
                file.seek(offset)
                return file.read(limit_bytes)
        except FileNotFoundError:
            return b""  # the task has printed nothing
        except OSError as error:
            raise StoreError(f"{stream} of task {self._name} cannot be read: {error.strerror}") from error


def read_log(root: Path, name: str, stream: str, *, offset: int = 0, limit_bytes: int = 1 << 20) -> LogPart:
    """Return the output of a task as TaskOutput.read() does, for one look."""
    return TaskOutput(root, name).read(stream, offset=offset, limit_bytes=limit_bytes)
