"""The records of a Pool's tasks, in the journal of the state folder: `hkrunner runs` shows them.

The user's own process writes them, since it has the tasks. A record takes 40 µs of CPU time there, twice as
much as a tiny task. It does not hold what the task printed: a worker gets several short tasks at once, and
has one stdout.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ...boards.runs.journal import Journal
from ...boards.runs.journal_values import VALUE_MAX
from ...boards.runs.layout import Layout
from ...sandbox.shared.channel import Buffer
from ..io.standard_streams import write_to_stderr
from ..protocol.result import Result
from .pool_names import PoolNames

#: Number of the latest tasks that are kept, unless HKRUNNER_KEEP is set: 2,000 tiny ones take a megabyte.
KEPT = 100_000


class PoolRecords:
    """Records tasks. An error of the disk is reported once; then nothing more is recorded."""

    def __init__(self, options: Mapping[str, Any], names: PoolNames, encoding: str) -> None:
        """`options`: from the supervising process, which has read the settings."""
        self._names = names
        self._entry: str = options["entry"] or names.node
        self._extra = {"settings": options["settings"]}
        most: int | None = options["valuesBytes"]
        self._values_max = VALUE_MAX if most is None else min(VALUE_MAX, most)
        self._keep: int = KEPT if options["keep"] is None else options["keep"]
        self._layout = Layout(options["folder"])
        self._journal: Journal | None = Journal(self._layout, encoding, keep=self._keep)

    def begin(self, number: int, pieces: list[Buffer] | None) -> int:
        """Record that this task has begun; return its number in the journal, 0 if it is not recorded.

        `pieces`: its `initialize` message; None: its arguments are pickled.
        """
        journal = self._journal
        if journal is None:
            return 0
        wire = b""
        if pieces is not None and sum(map(len, pieces)) <= self._values_max:
            wire = b"".join(pieces)
        ids = self._names.ids(number)
        try:
            self._layout.make_folders()
            name = journal.claim_name(ids.task)
            at = journal.begin(self._entry, self._extra, name, ids, round(time.time() * 1000), wire)
            if at % 1000 == 0 and at > self._keep:
                journal.forget_before(at - self._keep)
        except OSError as error:
            self._give_up(error)
            return 0
        return at

    def end(self, at: int, result: Result, answer: bytes = b"") -> None:
        """Record the outcome of the task with this number in the journal. `answer`: the worker's message."""
        if self._journal is None:
            return
        try:
            self._journal.end(at, result.outcome(), answer if len(answer) <= self._values_max else b"")
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Release the space that the journal has reserved; nothing is recorded from here on."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _give_up(self, error: OSError) -> None:
        self.close()
        reason = error.strerror or str(error)
        write_to_stderr(f"hkrunner: further tasks of the Pool are not recorded: {reason}\n")
