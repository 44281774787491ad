"""The journal of one hkrunner that serves: one write for a task of a few milliseconds, two for others.

Files <root>/journal/<run>-<n>.journal, each for some hundred tasks; journal_format.py says what is in them.
Only their own process writes to them. The latest tasks are kept by removing whole files, so that removal
costs the next tasks nothing. A few short lines of output are one further write each. A task that has more to
keep than that and two short messages, such as metrics, gets a folder of its own, and a note of it in the
journal.

Every method raises OSError for a disk that is full or read-only; the journal can still be used afterwards.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii

from .files import own_identity, remove_quietly, to_json
from .journal_format import BEGIN, END, FORGET, HEAD, LOG, MOVED, SUFFIX, VERSION, record_pieces
from .journal_names import JournalNames
from .layout import Layout
from .task_ids import TaskIds, local_job_id

#: A file of the journal takes this many tasks, at most a quarter of those that are kept, and this many bytes.
_FILE_TASKS_MAX = 2000
_FILE_TASKS_MIN = 16
_FILE_BYTES_MAX = 16 * 1024 * 1024
#: Space is reserved ahead in such pieces, or for so many records of this size: to reserve takes as long as to
#: write 50 KB. Before a task begins there is enough for its outcome.
_RESERVED_BYTES = 64 * 1024
_RESERVED_TIMES = 8
_OUTCOME_BYTES = 8 * 1024
#: A longer `initialize` is written while the algorithm works, not while the worker waits for the answer.
_HELD_BYTES_MAX = 8 * 1024
#: What to_json() would make of them, in a third of the time.
_BEGIN_FACTS = (
    '{"number":%d,"name":%s,"taskId":%s,"jobId":%s,"nodeName":%s,"pipelineName":%s,"startTime":%d}\n'
)
_CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class Journal:
    """Where one process records its tasks."""

    def __init__(self, layout: Layout, encoding: str, *, keep: int | None = None) -> None:
        """Nothing is made yet. encoding: of the worker's messages. keep: how many tasks will be kept."""
        self._layout = layout
        self.encoding = encoding
        self._file_tasks = (
            _FILE_TASKS_MAX if keep is None else min(_FILE_TASKS_MAX, max(_FILE_TASKS_MIN, keep // 4))
        )
        # Its four random digits are too few: of 100 replicas that begin in one second, two may have the same.
        self._run = local_job_id(time.time()) + os.urandom(4).hex()
        self._names = JournalNames(layout, self._run)
        self._common: tuple[str, Mapping[str, object]] | None = None  # what the head of the file says
        self._fd: int | None = None
        self._path = ""
        self._at = 0  # where the next record goes
        self._reserved_to = 0
        self._can_reserve = True
        self._files = 0
        self._tasks_left = 0  # that the file still takes
        self._number = 0
        self._held: list[bytes] = []  # a begin that is written with the next record
        self._full: list[tuple[str, int]] = []  # earlier files, each with its last task

    def claim_name(self, task: str) -> str:
        """Return the name of a new record for the task; a repeated task id gets a suffix.

        begin() or release_name() is to follow.
        """
        return self._names.claim(task, is_first=self._fd is None)

    def release_name(self) -> None:
        """Let other processes claim names, which find the latest one of ours in the journal or in tasks/."""
        self._names.release()

    def begin(
        self,
        entry: str,
        extra: Mapping[str, object],
        name: str,
        ids: TaskIds,
        started_ms: int,
        wire: bytes,
        *,
        later: bool = False,
    ) -> int:
        """Record a task as active under the name it has claimed; return its number in this journal.

        entry, extra: what hardly ever differs between tasks. wire: its `initialize`; empty when that is not
        kept. later: if short, it is written with the next record, or by flush(); at once if others wait.
        """
        try:
            if self._held:
                self.flush()
            number = self._number + 1
            texts = map(encode_basestring_ascii, (name, *ids))
            facts = _BEGIN_FACTS % (number, *texts, started_ms)
            pieces = record_pieces(BEGIN, facts.encode(), wire)
            if self._is_due((entry, extra)):
                self._begin_file(entry, extra)
            self._reserve(sum(map(len, pieces)) + _OUTCOME_BYTES)
            if later and len(wire) <= _HELD_BYTES_MAX and not self._names.others_wait:
                self._held = pieces
            else:
                self._append(pieces)
        finally:
            self._names.release()
        self._number = number
        self._tasks_left -= 1
        return number

    def flush(self) -> None:
        """Write what begin() has left for later."""
        if self._held:
            self._append([])

    def log(self, number: int, stream: str, data: bytes) -> None:
        """Record what an active task has printed."""
        pieces = record_pieces(LOG, b'{"number":%d,"stream":"%b"}\n' % (number, stream.encode()), data)
        self._reserve(sum(map(len, self._held + pieces)) + _OUTCOME_BYTES)
        self._append(pieces)

    def end(self, number: int, facts: Mapping[str, object], wire: bytes = b"") -> None:
        """Record the task's outcome. wire: its answer. A later call replaces an earlier one."""
        self.end_as(number, to_json(facts), wire)

    def end_as(self, number: int, facts: bytes, wire: bytes) -> None:
        """As end(), with the facts as a line of JSON, an object that has a member at least."""
        self._append(record_pieces(END, b'{"number":%d,%b' % (number, facts[1:]), wire))

    def prepare(self) -> None:
        """Begin the file of the next task if that needs a new one: no task has to wait for it (0.1 ms)."""
        if (self._tasks_left <= 0 or self._at > _FILE_BYTES_MAX) and self._common is not None:
            self.flush()  # the begin of a task whose end could not be written: not before the next head
            self._begin_file(*self._common)
            self._reserve(_OUTCOME_BYTES)

    def moved(self, number: int) -> None:
        """Record that the task's folder has its whole record from now on."""
        self._append(record_pieces(MOVED, to_json({"number": number})))

    def forget_before(self, number: int) -> None:
        """Remove the tasks of this journal with lower numbers: those that have no folder."""
        self._append(record_pieces(FORGET, to_json({"before": number})))
        while self._full and self._full[0][1] < number:
            remove_quietly(self._full.pop(0)[0])

    def close(self) -> None:
        """Give the reserved space back. Optional: zeros at the end of a file are no records."""
        self._names.close()
        if self._fd is not None:
            fd, self._fd = self._fd, None
            with contextlib.suppress(OSError):
                os.ftruncate(fd, self._at)
            os.close(fd)

    # ---- the file

    def _is_due(self, common: tuple[str, Mapping[str, object]]) -> bool:
        """Whether the next task needs a new file. Someone may have removed the state folder."""
        return (
            self._fd is None
            or self._tasks_left <= 0
            or self._at > _FILE_BYTES_MAX
            or self._common != common
            or (self._names.folder_changed and os.fstat(self._fd).st_nlink == 0)
        )

    def _begin_file(self, entry: str, extra: Mapping[str, object]) -> None:
        if self._fd is not None:
            self._full.append((self._path, self._number))
            os.close(self._fd)  # with the space that was reserved: ext4 takes milliseconds to free it
            self._fd = None
        path = f"{self._layout.journal}/{self._run}-{self._files:06}{SUFFIX}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            fd = os.open(path, flags, 0o666)
        except FileNotFoundError:
            self._layout.make_folders_again()
            os.makedirs(self._layout.journal, exist_ok=True)
            fd = os.open(path, flags, 0o666)
        self._files += 1
        self._fd, self._path, self._at, self._reserved_to = fd, path, 0, 0
        head = {
            "version": VERSION,
            "encoding": self.encoding,
            "owner": own_identity().to_dict(),
            "entry": entry,
            **extra,
        }
        try:
            self._append(record_pieces(HEAD, to_json(head)))
        except OSError:
            os.close(fd)
            self._fd = None
            remove_quietly(path)
            raise
        self._common, self._tasks_left = (entry, extra), self._file_tasks

    def _reserve(self, size: int) -> None:
        """Make sure that this many bytes more can be written whatever becomes of the disk."""
        if self._at + size <= self._reserved_to or not self._can_reserve:
            return
        assert self._fd is not None, "a file was begun"
        for ahead in (max(_RESERVED_BYTES, _RESERVED_TIMES * size), 0):
            try:
                os.posix_fallocate(self._fd, self._at, size + ahead)
            except OSError as error:
                if error.errno in _CANNOT_RESERVE:
                    self._can_reserve = False
                    return
                if ahead == 0:
                    raise
            else:
                self._reserved_to = self._at + size + ahead
                return

    def _append(self, pieces: list[bytes]) -> None:
        """Hand the whole record to the kernel; after an error there is nothing of it."""
        if self._fd is None:
            raise OSError(errno.EBADF, "the journal has no file")
        pieces = self._held + pieces
        size = sum(map(len, pieces))
        written = 0
        try:
            written = os.pwritev(self._fd, pieces, self._at)
            if written < size:  # the disk is full; the rest says so
                rest = memoryview(b"".join(pieces))
                while written < size:
                    written += os.pwrite(self._fd, rest[written:], self._at + written)
        except OSError:
            # A later record that is shorter must not be followed by the rest of this one.
            with contextlib.suppress(OSError):
                os.pwrite(self._fd, bytes(written), self._at)
            raise
        self._at += size
        self._held = []
