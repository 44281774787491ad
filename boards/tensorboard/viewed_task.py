"""One recorded task on a board: what its record says, and what TensorBoard is to show of it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import BoardError
from ..runs.files import ProcessIdentity, number_in, read_json
from ..runs.history import ACTIVE, LOST, show_task
from ..runs.hparams import DURATION, ERROR, OUTPUT, PEAK_MEMORY, SUCCEEDED, TaskOutcome
from ..runs.journal_reader import JournalTask
from ..runs.layout import STREAMS
from ..runs.owner_lock import may_live
from ..runs.run_names import NamedTask
from ..runs.task_output import read_log
from ..runs.task_values import (
    Scalar,
    input_in_journal,
    numbers,
    read_input,
    read_result,
    result_in_journal,
)

_SETTLED_S = 60.0
_MAX_OUTPUT_BYTES = 4096  # of each stream of a failed task


@dataclass
class ViewedTask:
    """A recorded task in the view."""

    root: str  # the state folder
    run: str  # its run folder
    record: str  # its folder below tasks/
    facts: Mapping[str, object]  # task.json as it was read last
    seen_s: float  # when it was first seen, on the monotonic clock
    in_journal: JournalTask | None = None  # its record, if it has no folder
    inputs: Mapping[str, Scalar] | None = None
    status: str = ACTIVE  # HKube's word for the outcome; "lost" for a task whose hkrunner was killed
    name: str = ""  # without a mark; empty until it is shown
    checked_s: float = 0.0  # when its folder was searched for links, on the monotonic clock
    outcome: TaskOutcome | None = None  # once it has ended, and its record was read

    @property
    def named(self) -> NamedTask:
        """What its name is made of."""
        name = os.path.basename(self.record) if self.in_journal is None else self.in_journal.name
        return NamedTask(name, str(self.facts.get("nodeName")), self.inputs or {})

    @property
    def started_s(self) -> float:
        """When it began, in seconds since the epoch."""
        return _seconds(self.facts.get("startTime"))

    @property
    def is_settled(self) -> bool:
        """Whether all links in its folder were there when a board linked it: it ended long enough ago."""
        ended_s = _seconds(self.facts.get("endTime"))
        return self.status != ACTIVE and 0 < ended_s < time.time() - _SETTLED_S

    @property
    def has_memory_limit(self) -> bool:
        """Whether its resources have a curve of the limit."""
        return isinstance(self.facts.get("memLimitBytes"), int)

    @property
    def may_have_texts(self) -> bool:
        """Whether it has ended without a result."""
        return self.outcome is not None and not self.outcome.has_succeeded

    def read_status(self) -> None:
        """Read the facts and the status; both stay as they are once the task has ended."""
        if self.status != ACTIVE:
            return
        self._read_facts()
        owner = ProcessIdentity.from_dict(self.facts.get("owner"))
        if self.status == ACTIVE and owner is not None and not may_live(owner, self.root):
            # It may have ended the task after the facts were read, and itself then.
            self._read_facts()
            if self.status == ACTIVE:
                self.status = LOST

    @property
    def is_removed(self) -> bool:
        """Whether its record is no longer there."""
        return self.in_journal is None and not os.path.isdir(self.record)

    def read_inputs(self) -> None:
        """Read the input, which stays None as long as it is not recorded."""
        if self.in_journal is None:
            self.inputs = read_input(self.record, self.facts)
        else:
            self.inputs = input_in_journal(self.in_journal)

    def _read_facts(self) -> None:
        if self.in_journal is None:  # task.json cannot be read while it is being overwritten
            self.facts = read_json(f"{self.record}/task.json") or self.facts
        self.status = str(self.facts.get("status"))

    def read_outcome(self) -> None:
        """Read what came of it, once it has ended."""
        facts = self.facts
        has_succeeded = self.status == "succeed"
        metrics = {SUCCEEDED: float(has_succeeded)}
        if (duration_ms := facts.get("durationMs")) is not None:
            metrics[DURATION] = _seconds(duration_ms)
        if (peak := number_in(facts.get("peakMemBytes"))) is not None and peak > 0:
            metrics[PEAK_MEMORY] = peak / (1 << 20)
        result = read_result(self.record) if self.in_journal is None else result_in_journal(self.in_journal)
        for place, number in numbers(result).items():
            metrics[OUTPUT if place == "result" else f"{OUTPUT}/{place}"] = number
        ended_s = _seconds(facts.get("endTime")) or self.started_s
        self.outcome = TaskOutcome(metrics, ended_s, has_succeeded)

    def read_texts(self) -> dict[str, str]:
        """Return why there is no result, and the last lines that the algorithm printed, by tag."""
        if not self.may_have_texts:
            return {}
        error = self.facts.get("error")
        texts = {}
        if isinstance(error, dict):
            parts = (error.get("message") or error.get("code"), error.get("details"))
            texts[ERROR] = "\n\n".join(str(part) for part in parts if part)
        try:
            for stream, (data, is_cut) in self._last_output().items():
                lines = data.decode("utf-8", "replace").splitlines()[1 if is_cut else 0 :]
                if lines:
                    texts[f"~task/{stream}"] = "\n".join(lines)
        except (BoardError, OSError):  # its record was removed meanwhile
            pass
        return texts

    def _last_output(self) -> dict[str, tuple[bytes, bool]]:
        """Return the end of each stream, and whether more came before it. Raises BoardError, OSError."""
        if (task := self.in_journal) is not None:
            whole = {stream: task.log(stream) for stream in STREAMS}
            return {
                stream: (data[-_MAX_OUTPUT_BYTES:], len(data) > _MAX_OUTPUT_BYTES)
                for stream, data in whole.items()
            }
        root, name = Path(self.record).parent.parent, os.path.basename(self.record)
        found = {}
        for stream, size in show_task(root, name).printed.items():
            begin = max(0, size - _MAX_OUTPUT_BYTES)
            found[stream] = (read_log(root, name, stream, offset=begin).data, begin > 0)
        return found


def _seconds(milliseconds: object) -> float:
    return (number_in(milliseconds) or 0.0) / 1000
