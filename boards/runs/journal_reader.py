"""Reads the journals of a state folder, which their processes may be writing at the same time.

A task is told by its begin, and its end once there is one; without it, it is active, or lost if its process
is gone. Records that were cut off are not seen. Tasks that were removed by `runs rm` are in journal/removed,
one line of JSON each: only its own process writes to a journal.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from .files import (
    ProcessIdentity,
    is_part,
    locked,
    read_json,
    read_json_bytes,
    remove_quietly,
    replace_file,
    safe_part,
    to_json,
    write_all,
)
from .journal_format import BEGIN, END, FORGET, HEAD, LOG, MOVED, SUFFIX, JournalRecord, read_records
from .journal_values import input_json, output_json
from .owner_lock import may_live

_COARSE_CLOCK_NS = 100_000_000
_REMOVED = "removed"


class Value(NamedTuple):
    """Bytes in a file of a journal: a task's `initialize`, its answer, or what it has printed."""

    path: str
    at: int
    size: int

    def read(self) -> bytes | None:
        """Return the bytes; None when the file is gone."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = os.pread(fd, self.size, self.at)
            finally:
                os.close(fd)
        except OSError:
            return None
        return data if len(data) == self.size else None


@dataclass(frozen=True)
class JournalTask:
    """A task whose record is in a journal: it has no folder."""

    name: str
    run: str  #: of which process the journal is
    number: int  #: in that journal
    encoding: str
    facts: Mapping[str, object]  #: as in task.json
    size_bytes: int
    input: Value | None = None
    output: Value | None = None
    logs: tuple[tuple[str, Value], ...] = ()  #: pieces of output, each with its stream

    @property
    def key(self) -> tuple[str, int]:
        """What identifies it among all journals."""
        return self.run, self.number

    def input_json(self) -> bytes | None:
        """Return the input as JSON; None when it was not kept, or has no such form."""
        wire = self.input.read() if self.input is not None else None
        return None if wire is None else input_json(self.encoding, wire)

    def output_json(self) -> bytes | None:
        """Return the result as JSON; None when there is none, it was not kept, or has no such form."""
        wire = self.output.read() if self.output is not None else None
        return None if wire is None else output_json(self.encoding, wire)

    def log(self, stream: str) -> bytes:
        """Return what it has printed to this stream; what cannot be read any more is left out."""
        return b"".join(piece.read() or b"" for of, piece in self.logs if of == stream)

    def log_size(self, stream: str) -> int:
        """Return how many bytes it has printed to this stream."""
        return sum(piece.size for of, piece in self.logs if of == stream)


@dataclass
class _File:
    """A file of a journal, and how far it was read."""

    path: str
    run: str
    stamp: tuple[int, int] | None = None  # time and size when it was read; None: read it again
    at: int = 0
    encoding: str = "json"
    owner: ProcessIdentity | None = None
    head: Mapping[str, object] | None = None

    def is_alive(self) -> bool:
        """Whether its process may still write to it."""
        root = os.path.dirname(os.path.dirname(self.path))
        return self.owner is not None and may_live(self.owner, root)


class JournalReader:
    """The tasks in the journals of one state folder."""

    def __init__(self, root: str) -> None:
        """Nothing is read yet."""
        self._root = root
        self._folder = f"{root}/journal"
        self._files: dict[str, _File] = {}  # by name
        self._found: dict[tuple[str, int], tuple[_File, JournalTask]] = {}
        self._before: dict[str, int] = {}  # run -> the first task that is not removed
        self._removed: set[tuple[str, int]] = set()
        self._removed_stamp: tuple[int, int] | None = None

    def refresh(self) -> None:
        """Read what was added, and forget what was removed."""
        try:
            names = {name for name in os.listdir(self._folder) if name.endswith(SUFFIX)}
        except OSError:
            names = set()
        for name in self._files.keys() - names:
            file = self._files.pop(name)
            for key in [key for key, (of, _) in self._found.items() if of is file]:
                del self._found[key]
        for name in sorted(names):
            if name not in self._files:
                self._files[name] = _File(f"{self._folder}/{name}", name.rpartition("-")[0])
            self._read_on(self._files[name])
        self._read_removed()

    def tasks(self) -> dict[str, JournalTask]:
        """Return the tasks that have no folder, by name and in the order of their start."""
        found: dict[str, JournalTask] = {}
        entries = sorted(self._found.values(), key=lambda entry: (_start(entry[1]), entry[1].key))
        for _, task in entries:
            if task.key in self._removed or task.number < self._before.get(task.run, 0):
                continue
            facts = read_json(f"{self._root}/tasks/{task.name}/task.json")
            if facts is not None and _is_same(facts, task.facts):
                continue  # its process was killed before it could say so here
            # Two processes may have been given the same task within a microsecond.
            name, number = task.name, 1
            while name in found or (facts is not None and name == task.name):
                number += 1
                name = f"{task.name}.{number}"
            found[name] = task if name == task.name else replace(task, name=name)
        return found

    def latest(self, task: JournalTask) -> JournalTask | None:
        """Return a task of tasks() as the last refresh() has found it; None if it is in no journal now."""
        found = self._found.get(task.key)
        return None if found is None or task.key in self._removed else found[1]

    def remove(self, tasks: Collection[JournalTask]) -> None:
        """Remove these tasks, and files that hold nothing else. Raises OSError."""
        if not tasks:
            return
        with locked(self._folder):
            data = b"".join(to_json({"run": task.run, "number": task.number}) for task in tasks)
            fd = os.open(
                f"{self._folder}/{_REMOVED}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666
            )
            try:
                write_all(fd, data)
            finally:
                os.close(fd)
            self.refresh()
            self._remove_empty_files()

    def _remove_empty_files(self) -> None:
        used = {
            file.path
            for file, task in self._found.values()
            if task.key not in self._removed and task.number >= self._before.get(task.run, 0)
        }
        empty = [file for file in self._files.values() if file.path not in used and not file.is_alive()]
        for file in empty:
            remove_quietly(file.path)
        if empty:
            self.refresh()
            runs = {file.run for file in self._files.values()}
            left = [to_json({"run": run, "number": number}) for run, number in self._removed if run in runs]
            replace_file(f"{self._folder}/{_REMOVED}", b"".join(left))

    # ---- reading

    def _read_on(self, file: _File) -> None:
        """Read the records that were added to the file."""
        try:
            fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                stamp = _stamp(os.fstat(fd))
                if stamp == file.stamp:
                    return
                for one in read_records(fd, file.at):
                    self._index(file, one)
                    file.at = one.end
            finally:
                os.close(fd)
        except OSError:
            return  # removed meanwhile, or not ours to read
        file.stamp = stamp if _is_settled(stamp[0]) else None

    def _index(self, file: _File, one: JournalRecord) -> None:
        facts = read_json_bytes(one.facts)
        if facts is None:
            return
        if one.kind == HEAD:
            file.encoding = str(facts.pop("encoding", "json"))
            facts.pop("version", None)
            file.owner, file.head = ProcessIdentity.from_dict(facts.get("owner")), facts
            return
        number = facts.pop("before" if one.kind == FORGET else "number", None)
        if not isinstance(number, int):
            return
        if one.kind == FORGET:
            self._before[file.run] = max(number, self._before.get(file.run, 0))
            return
        key = (file.run, number)
        value = Value(file.path, one.values_at, one.value_size) if one.value_size else None
        if one.kind == BEGIN:
            name = str(facts.get("name"))
            if not is_part(name):
                return  # not ours: it might lead out of the state folder
            task = JournalTask(
                name,
                file.run,
                number,
                file.encoding,
                {**(file.head or {}), **facts, "metricsDir": _run_folder(facts), "status": "active"},
                one.end - one.begin,
                input=value,
            )
            self._found[key] = (file, task)
        elif one.kind == MOVED:
            self._found.pop(key, None)
        elif one.kind == LOG and value is not None and (known := self._found.get(key)) is not None:
            first_file, task = known
            logs = (*task.logs, (str(facts.get("stream")), value))
            size = task.size_bytes + one.end - one.begin
            self._found[key] = (first_file, replace(task, logs=logs, size_bytes=size))
        elif one.kind == END and (known := self._found.get(key)) is not None:
            first_file, task = known
            ended = replace(
                task,
                facts={**task.facts, **facts},
                size_bytes=task.size_bytes + one.end - one.begin,
                output=value or task.output,
            )
            self._found[key] = (first_file, ended)

    def _read_removed(self) -> None:
        path = f"{self._folder}/{_REMOVED}"
        try:
            stamp = _stamp(os.stat(path))
            if stamp == self._removed_stamp:
                return
            with open(path, "rb") as file:
                lines = file.read().splitlines()
        except OSError:
            self._removed = set()
            return
        keys = (read_json_bytes(line) for line in lines)
        self._removed = {
            (str(key.get("run")), number)
            for key in keys
            if key is not None and isinstance(number := key.get("number"), int)
        }
        self._removed_stamp = stamp if _is_settled(stamp[0]) else None


def read_journals(root: str) -> dict[str, JournalTask]:
    """Return the tasks in the journals of this state folder, by name."""
    reader = JournalReader(root)
    reader.refresh()
    return reader.tasks()


def _stamp(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_mtime_ns, stat.st_size


def _is_settled(changed_ns: int) -> bool:
    """Whether a further change of the file would show in its time."""
    return time.time_ns() - changed_ns > _COARSE_CLOCK_NS


def _run_folder(facts: Mapping[str, object]) -> str:
    """Return where the task's run folder would be, below the state folder."""
    names = (str(facts.get(name, "")) for name in ("pipelineName", "nodeName", "jobId"))
    return "/".join(["runs", *map(safe_part, names), str(facts["name"])])


def _start(task: JournalTask) -> float:
    start = task.facts.get("startTime")
    return start if isinstance(start, (int, float)) else 0


def _is_same(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    return all(one.get(name) == other.get(name) for name in ("taskId", "startTime", "owner"))
