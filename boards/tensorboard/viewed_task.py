"""One recorded task on a board: what its record says, and what TensorBoard is to show of it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import BoardError
from ..runs.files import ProcessIdentity, read_json
from ..runs.history import read_log, show_task
from ..runs.hparams import DURATION, ERROR, FILE_NAME, OUTPUT, PEAK_MEMORY, SUCCEEDED, TaskOutcome
from ..runs.journal_reader import JournalTask
from ..runs.layout import STREAMS
from ..runs.run_names import NamedTask
from ..runs.task_values import (
    Scalar,
    input_in_journal,
    numbers,
    read_input,
    read_result,
    result_in_journal,
)

ACTIVE = "active"
SETTLED_S = 60.0  # files that appear later in the folder of an ended task are not shown
_MAX_OUTPUT_BYTES = 4096  # of each stream of a failed task


@dataclass
class ViewedTask:
    """A recorded task in the view."""

    run: str  # its run folder
    record: str  # its folder below tasks/, or below boards/journal/
    facts: Mapping[str, object]  # task.json as it was read last
    seen_s: float  # when it was first seen, on the monotonic clock
    in_journal: JournalTask | None = None  # its record, if it has no folder
    inputs: Mapping[str, Scalar] | None = None
    status: str = ACTIVE  # HKube's word for the outcome; "lost" for a task whose hkrunner was killed
    name: str = ""  # empty until it is shown
    ended_s: float | None = None  # when its outcome was added, on the monotonic clock
    is_searched: bool = False  # for hyperparameters of the user's own while it runs: once, files may be large
    is_session: bool = False  # the HParams tab has shown it while it ran
    hidden_s: float | None = None  # since when it is not in the view, on the monotonic clock

    @property
    def folder(self) -> str:
        """The folder that TensorBoard reads."""
        return f"{self.record}/board"

    @property
    def named(self) -> NamedTask:
        """What its name is made of."""
        name = os.path.basename(self.record) if self.in_journal is None else self.in_journal.name
        return NamedTask(name, str(self.facts.get("nodeName")), self.inputs or {})

    def read_status(self) -> None:
        """Read the facts and the status; both stay as they are once the task has ended."""
        if self.status != ACTIVE:
            return
        self._read_facts()
        owner = ProcessIdentity.from_dict(self.facts.get("owner"))
        if self.status == ACTIVE and owner is not None and not owner.is_alive():
            # It may have ended the task after the facts were read, and itself then.
            self._read_facts()
            if self.status == ACTIVE:
                self.status = "lost"

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

    @property
    def is_complete(self) -> bool:
        """Whether a board has shown the task, and it ended too long ago for further files."""
        ended_ms = self.facts.get("endTime")
        is_old = isinstance(ended_ms, (int, float)) and time.time() - ended_ms / 1000 > SETTLED_S
        return is_old and os.path.exists(f"{self.folder}/{FILE_NAME}")

    def outcome(self) -> TaskOutcome:
        """Return what came of it, once it has ended."""
        facts = self.facts
        started_s = self.started_s
        has_succeeded = self.status == "succeed"
        metrics = {SUCCEEDED: float(has_succeeded)}
        if (duration_ms := facts.get("durationMs")) is not None:
            metrics[DURATION] = _seconds(duration_ms)
        if isinstance(peak := facts.get("peakMemBytes"), (int, float)) and peak > 0:
            metrics[PEAK_MEMORY] = peak / (1 << 20)
        result = read_result(self.record) if self.in_journal is None else result_in_journal(self.in_journal)
        for place, number in numbers(result).items():
            metrics[OUTPUT if place == "result" else f"{OUTPUT}/{place}"] = number
        return TaskOutcome(
            self.inputs or {},
            metrics,
            started_s,
            _seconds(facts.get("endTime")) or started_s,
            has_succeeded,
            texts={} if has_succeeded else self._texts(),
            has_memory_limit=isinstance(facts.get("memLimitBytes"), int),
        )

    @property
    def started_s(self) -> float:
        """When it began, in seconds since the epoch."""
        return _seconds(self.facts.get("startTime"))

    def _texts(self) -> dict[str, str]:
        """Return why there is no result, and the last lines that the algorithm printed, by tag."""
        error = self.facts.get("error")
        texts = {}
        if isinstance(error, dict):
            parts = (error.get("message") or error.get("code"), error.get("details"))
            texts[ERROR] = "\n\n".join(str(part) for part in parts if part)
        if self.in_journal is not None:
            return texts  # it has printed nothing
        root, name = Path(self.record).parent.parent, os.path.basename(self.record)
        try:
            files = show_task(root, name).files
            for stream in STREAMS:
                begin = max(0, files.get(f"{stream}.log", 0) - _MAX_OUTPUT_BYTES)
                text = read_log(root, name, stream, offset=begin).data.decode("utf-8", "replace")
                lines = text.splitlines()[1 if begin else 0 :]  # the first is cut
                if lines:
                    texts[f"~task/{stream}"] = "\n".join(lines)
        except (BoardError, OSError):  # its record was removed meanwhile
            pass
        return texts


def _seconds(milliseconds: object) -> float:
    return milliseconds / 1000 if isinstance(milliseconds, (int, float)) else 0.0
