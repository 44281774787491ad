"""Names of the records in journals: none is given twice, also by several processes in one state folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
from typing import NamedTuple

from .files import ProcessIdentity, read_json_bytes, safe_part, with_suffix
from .journal_format import BEGIN, HEAD, SUFFIX, read_records
from .layout import Layout
from .owner_lock import may_live

#: So many names are remembered, up to twice: 1 MB. Older ones are told apart by the readers.
_REMEMBERED = 10_000
#: Two changes of a folder this close may leave its time as it was.
_COARSE_CLOCK_NS = 20_000_000
#: Others hold the lock for a tenth of a millisecond, unless they are stopped there.
LOCK_S = 0.2
_LOCK_PAUSE_S = 0.0001
_LOCK_PAUSE_MOST_S = 0.002
_NAME = re.compile(rb'"name":("(?:[^"\\]|\\.)*")')


class _Growing(NamedTuple):
    """The latest file of another process."""

    fd: int
    at: int = 0  #: where its next record will be
    owner: ProcessIdentity | None = None

    def may_grow(self, root: str) -> bool:
        """Whether its process may add to it."""
        return self.owner is not None and may_live(self.owner, root)


class JournalNames:
    """The names that one process gives."""

    def __init__(self, layout: Layout, run: str) -> None:
        """Nothing is read yet. run: how the files of our own journal begin."""
        self._layout = layout
        self._run = run
        # Hashes take a third of the memory of the names; two that are alike cost a suffix.
        self._latest: set[int] = set()
        self._earlier: set[int] = set()
        self._repeats: dict[str, int] = {}  # task id -> the last suffix that was given to it
        self._lock_fd: int | None = None
        self._has_failed = False  # whether the latest wait for the lock was in vain
        self._folder_time = -1
        #: Whether files have been made or removed in the journal's folder since the claim before.
        self.folder_changed = True
        self._read: set[str] = set()  # files of others
        self._growing: dict[str, _Growing] = {}  # by process, as the names of its files begin

    def claim(self, task: str, *, is_first: bool) -> str:
        """Return a name for the task that no other record has.

        is_first: no file of our own tells others of us. Beside others, nobody else claims before release():
        they know the name once it is in our journal.
        """
        may_be_others = (is_first or bool(self._growing)) and not self._lock()
        self._read_others()
        if self._growing and not self.others_wait:  # the first of them has begun since the last claim
            may_be_others = not self._lock()
            self._read_others()
        if may_be_others:
            name = with_suffix(task, os.urandom(4).hex())
        else:
            name = self._repeated(task) if task in self._repeats else safe_part(task)
        while (key := hash(name)) in self._latest or key in self._earlier or self._has_folder(name):
            name = self._repeated(task)
        self._remember(key)
        return name

    def _repeated(self, task: str) -> str:
        """Return the next name for a task id that was given before."""
        number = self._repeats[task] = self._repeats.get(task, 1) + 1
        return with_suffix(task, number)

    @property
    def others_wait(self) -> bool:
        """Whether other processes wait for release() before they claim names."""
        return self._lock_fd is not None

    def release(self) -> None:
        """Let others claim names."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _lock(self) -> bool:
        """Keep others from claiming; return False if one of them does not release the lock in time.

        Then the caller gives a name that nobody else can give: two tasks with one name would share a folder.
        """
        try:
            os.makedirs(self._layout.journal, exist_ok=True)
            fd = self._lock_fd = os.open(self._layout.journal, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return True  # whoever writes the record meets the same error
        until, pause = time.monotonic() + LOCK_S, _LOCK_PAUSE_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._has_failed = False
                return True
            except BlockingIOError:
                if self._has_failed or time.monotonic() > until:
                    self._has_failed = True
                    return False
                time.sleep(pause)
                pause = min(pause * 1.5, _LOCK_PAUSE_MOST_S)
            except OSError:  # a file system without locks: readers tell equal names apart
                return True

    def close(self) -> None:
        """Close the files of others."""
        for file in self._growing.values():
            os.close(file.fd)
        self._growing.clear()

    def _has_folder(self, name: str) -> bool:
        return os.access(f"{self._layout.tasks}/{name}", os.F_OK)

    def _remember(self, key: int) -> None:
        """Have the name with this hash as given."""
        if len(self._latest) >= _REMEMBERED:
            self._earlier, self._latest = self._latest, set()
        self._latest.add(key)

    def _read_others(self) -> None:
        """Read the names that other processes have given up to now."""
        folder = self._layout.journal
        self.folder_changed = True
        try:
            changed = os.stat(folder).st_mtime_ns
            self.folder_changed = changed != self._folder_time
            if self.folder_changed:
                self._folder_time = changed if time.time_ns() - changed > _COARSE_CLOCK_NS else -1
                names = {name for name in os.listdir(folder) if name.endswith(SUFFIX)}
                self._read &= names
                others = [name for name in names - self._read if not name.startswith(self._run)]
                for name in sorted(others, key=lambda name: (len(name), name)):  # the oldest of a run first
                    self._read.add(name)
                    self._open(name)
                if others:
                    root = self._layout.root_text
                    for run in [run for run, file in self._growing.items() if not file.may_grow(root)]:
                        self._close(run)
            for run in self._growing:
                self._read_on(run)
        except OSError:
            return  # there is no journal, or its files cannot be read: nor can they be by anybody else

    def _open(self, name: str) -> None:
        """Read the names in the file, and keep it open if it may still grow.

        The one before it of the same process does not: one that serves for weeks makes thousands.
        """
        run = name.rpartition("-")[0]
        if run in self._growing:
            self._close(run)
        try:
            fd = os.open(f"{self._layout.journal}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # removed meanwhile
            return
        self._growing[run] = _Growing(fd)
        head = self._read_on(run)
        owner = ProcessIdentity.from_dict((read_json_bytes(head) or {}).get("owner"))
        file = self._growing[run] = self._growing[run]._replace(owner=owner)
        if not file.may_grow(self._layout.root_text):
            self._close(run)

    def _close(self, run: str) -> None:
        """Close the file of this process, once what was added to it is read."""
        try:
            self._read_on(run)
        finally:
            os.close(self._growing.pop(run).fd)

    def _read_on(self, run: str) -> bytes:
        """Read the names that were added; return the head of the file if it is among what was read."""
        file = self._growing[run]
        head = b""
        if os.pread(file.fd, 1, file.at) in (b"", b"\0"):
            return head
        at = file.at
        for one in read_records(file.fd, at):
            at = one.end
            if one.kind == HEAD:
                head = one.facts
            elif one.kind == BEGIN and (found := _NAME.search(one.facts)) is not None:
                with contextlib.suppress(ValueError):  # not ours: no reader takes it for a record
                    self._remember(hash(json.loads(found[1])))
        self._growing[run] = file._replace(at=at)
        return head
