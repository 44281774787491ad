"""The record of one task: its folder with its output and outcome, and its metrics.

With a journal it begins there (journal.py), and the task gets a folder only when there is more to keep than a
few lines of output: need_folder(). From then on all of it is in the folder, as without a journal.

Everything here runs between two messages of the worker: no fsync, few system calls. Nothing raises for a disk
that is full, read-only or someone else's: the task goes on, and `problems` holds a sentence.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from .childs_files import take_file
from .disk_problems import DiskProblems
from .files import PAGE_BYTES, overwrite_page, own_identity, read_json_bytes, replace_file, safe_part, to_json
from .journal_values import input_json, output_json
from .layout import STREAMS
from .recorded_output import RecordedOutput
from .shared_parts import SharedParts
from .task_ids import TaskIds
from .task_metrics import MetricsPlace, TaskMetrics

if TYPE_CHECKING:
    from pathlib import Path


class TaskRecord:
    """The record of one task; made by Store.open."""

    # Defaults of the class: for most tasks of a millisecond they stay as they are.
    #: The name of the task's folder, once it has begun.
    name = ""
    #: Whether begin() is still to be called.
    is_to_begin = False
    is_finished = False
    #: Whether the task has a folder; without one only its metrics are kept.
    has_folder = False
    #: Its number in the journal; None when its record is not there.
    journal_number: int | None = None
    #: Whether its input and result, if small, are recorded here and not by its process.
    takes_values = False
    _output: RecordedOutput | None = None  # None: it has printed nothing
    _task_json_is_one_page = False
    _may_have_folder = False  # whether it gets one when it needs one
    _facts: Mapping[str, object] = {}  # what task.json holds
    _input_wire = _output_wire = b""
    _outcome = b""  # what finish_in_journal() was given

    def __init__(
        self,
        ids: TaskIds,
        shared: SharedParts,
        entry: str,
        started_at: float,
        extra: Mapping[str, object],
    ) -> None:
        """Nothing is on disk yet. The arguments are those of Store.open."""
        self.ids = ids
        self._shared = shared
        self._begun = (entry, round(started_at * 1000), extra)
        self._layout = shared.layout
        self._journal = shared.journal
        self._disk = DiskProblems(shared.layout.tasks)
        #: One sentence for each kind of trouble with the disk.
        self.problems = self._disk.sentences
        self.metrics = TaskMetrics(shared.metrics, self._disk)

    @property
    def folder(self) -> Path:
        """tasks/<name>."""
        return _path(self.folder_text)

    @property
    def folder_text(self) -> str:
        """The folder as text: a Path costs 10 µs to make, a tenth of a short task."""
        return f"{self._layout.tasks}/{self.name}"

    @property
    def metrics_text(self) -> str | None:
        """The folder that the user expects the task's metrics in, as text; None while it has none."""
        metrics = self.metrics
        has_none = metrics.place is MetricsPlace.SHARED and not metrics.has_folder
        return None if has_none else metrics.written_to

    @property
    def metrics_dir(self) -> Path:
        """The task's own run folder for good: runs/<pipeline>/<node>/<job>/<name>."""
        return _path(self.metrics.folder)

    @property
    def environment(self) -> dict[str, str]:
        """The algorithm's variables that name the metrics folder."""
        return self.metrics.environment

    def open_in_folder(self, *, empty_logs: bool) -> None:
        """Write the task to disk as "active", in its folder.

        empty_logs: stdout.log and stderr.log exist from the start.
        """
        journal = self._journal
        if journal is None:
            self.name = self._disk.task = safe_part(self.ids.task)
        else:
            self.name = self._disk.task = journal.claim_name(self.ids.task)
        try:
            self._layout.make_folders()
            try:
                self._make_folder(empty_logs)
            except FileNotFoundError:  # someone removed the state folder while we run
                self._layout.make_folders_again()
                self._make_folder(empty_logs)
        except OSError as error:
            self._disk.note("the task", error)
        self.metrics.open(self.ids, self.name, self.folder_text)
        self._facts = self._first_facts()
        if self.has_folder:
            self._write_active()
        if journal is not None:
            journal.release_name()

    def open_in_journal(self, wire: bytes) -> None:
        """Have a place for the task's metrics; begin() is to follow.

        wire: its `initialize`, empty if it is not to be kept.
        """
        try:
            self._layout.make_folders()
        except OSError as error:
            self._disk.note("the task", error)
        self._input_wire = wire
        self.takes_values = self._may_have_folder = self.is_to_begin = True
        self.metrics.open_shared()

    def begin(self, *, later: bool = False) -> None:
        """Begin the record in the journal; only the first call after open_in_journal() counts.

        later: flush() follows soon, if what comes next has not written the beginning with it.
        """
        journal = self._journal
        if not self.is_to_begin or journal is None:
            return
        self.is_to_begin = False
        self.name = self._disk.task = journal.claim_name(self.ids.task)
        entry, started_ms, extra = self._begun
        if (link := self.metrics.recorded_link) is not None:
            extra = {**extra, "metricsLink": link}
        else:
            self.metrics.take_name(self.ids, self.name)
        try:
            self.journal_number = journal.begin(
                entry, extra, self.name, self.ids, started_ms, self._input_wire, later=later
            )
        except OSError as error:
            self._disk.note("the task", error)

    def flush(self) -> None:
        """Write the beginning to the journal, if that is still to be done."""
        if self._journal is not None:
            try:
                self._journal.flush()
            except OSError as error:
                self._disk.note("the task", error)

    def _first_facts(self) -> dict[str, object]:
        ids, (entry, started_ms, extra) = self.ids, self._begun
        facts: dict[str, object] = {
            "name": self.name,
            "taskId": ids.task,
            "jobId": ids.job,
            "nodeName": ids.node,
            "pipelineName": ids.pipeline,
            "entry": entry,
            "startTime": started_ms,
            "owner": own_identity().to_dict(),
            **extra,
        }
        if (folder := self.metrics.recorded_folder) is not None:
            facts["metricsDir"] = folder
        return {**facts, "status": "active"}

    def need_folder(self) -> None:
        """Give the task a folder with all that is known of it, if that can be made; also after its end."""
        if self.has_folder or not self._may_have_folder:
            return
        self.begin()
        self.flush()
        self._may_have_folder = False
        name = self.name
        self.metrics.take_name(self.ids, name)
        try:
            self._make_folder(empty_logs=False)
        except OSError as error:
            self._disk.note("the task", error)
            return
        if self._output is not None and not self._output.move_to_files(self.folder_text):
            with contextlib.suppress(OSError):
                os.rmdir(self.folder_text)
            self.has_folder = False
            self.name = self._disk.task = name
            return
        self._write_value("input.json", self._input_wire, input_json)
        self.metrics.make_folder(self.name)
        self._take_outcome()
        self._facts = {**self._first_facts(), **self._facts}
        if self.is_finished:
            if self._output is not None:
                self._output.close()
            self._write_value("output.json", self._output_wire, output_json)
            is_written = self.write("task.json", to_json(self._facts))
        else:
            is_written = self._write_active()
        self._leave_journal(is_written)

    def need_metrics_folder(self) -> None:
        """As need_folder(), and have ALGO_METRICS_DIR lead to the task's own run folder."""
        self.need_folder()
        if self.has_folder:
            self.metrics.take_shared(self.folder_text)

    def append(self, stream: str, data: bytes) -> None:
        """Add output of the stream "stdout" or "stderr"; cut at the limit, with one line that says so.

        Never raises. Ignored after finish().
        """
        if self.is_finished or not data:
            return
        self.begin()
        output = self._output
        if output is None:
            output = self._output = RecordedOutput(self._shared.stream_limit_bytes, self._disk)
        journal, number = self._journal, None if self.has_folder else self.journal_number
        if (
            journal is not None
            and number is not None
            and output.append_to_journal(journal, number, stream, data)
        ):
            return
        self.need_folder()
        if self.has_folder:
            output.append_to_file(self.folder_text, stream, data)
        else:
            output.stop()

    def write(self, name: str, data: bytes) -> bool:
        """Write a file with these bytes, whole or not at all; return whether that was possible."""
        if not self.has_folder:
            return False
        try:
            replace_file(f"{self.folder_text}/{safe_part(name)}", data)
        except OSError as error:
            self._disk.note(name, error)
            return False
        return True

    def take_values(self, folder: str, most_bytes: Mapping[str, int]) -> None:
        """Input and result that a child has written to this folder are in the record. Never raises.

        most_bytes: the most that each file can have. The child may have put anything there.
        """
        for name, most in most_bytes.items():
            try:
                if not take_file(f"{folder}/{name}", f"{self.folder_text}/{name}", most_bytes=most):
                    self.problems.append(f"{name} is not kept: the algorithm has put something else there")
            except FileNotFoundError:
                continue
            except OSError as error:
                self._disk.note(name, error)

    def finish(self, result: Mapping[str, object], answer: bytes = b"") -> None:
        """Write the outcome to disk and close the files; only the first call counts.

        result: fields but for the task's names. answer: as the worker gets it, if its result is to be
        recorded here (takes_values).
        """
        if self.is_finished:
            return
        self.begin()
        self.is_finished = True
        self._output_wire = answer
        if self._output is not None:
            self._output.close()
        facts = {**self._facts, "status": "unknown", **result}
        self.metrics.close(self._shared.earlier, has_failed=facts["status"] == "failed")
        if self.problems and "problems" not in result:
            facts["problems"] = list(self.problems)
        self._facts = facts
        if self.has_folder:
            self._write_value("output.json", answer, output_json)
            data = to_json(self._facts)
            fits = self._task_json_is_one_page and len(data) <= PAGE_BYTES
            is_written = (fits and overwrite_page(f"{self.folder_text}/task.json", data)) or self.write(
                "task.json", data
            )
            self._leave_journal(is_written)
        self._end_in_journal(answer)

    def finish_in_journal(self, outcome: bytes, answer: bytes) -> bool:
        """As finish(), for a task that succeeded; return False if that is to be called after all.

        outcome: its fields as a line of JSON.
        """
        if self.is_finished or self.metrics.place is not MetricsPlace.SHARED:
            return False
        if self.is_to_begin:
            self.begin()
        earlier = self._shared.earlier
        if earlier.is_watching:
            self.metrics.close(earlier, has_failed=False)
        journal, number = self._journal, self.journal_number
        if journal is None or number is None or self.problems:
            return False
        try:
            journal.end_as(number, outcome, answer)
        except OSError:  # finish() meets the same error, and has a sentence for it
            return False
        self.is_finished = True
        if self._output is not None:
            self._output.close()
        self._outcome, self._output_wire = outcome, answer
        return True

    def _take_outcome(self) -> None:
        """Have the fields that finish_in_journal() was given as those of task.json."""
        self._facts = {**self._facts, **(read_json_bytes(self._outcome) or {})}
        self._outcome = b""

    def add_problem(self, sentence: str) -> None:
        """Have a problem that has shown after finish() in the record as well. Never raises for the disk."""
        self.problems.append(sentence)
        self._take_outcome()
        self._facts = {**self._facts, "problems": list(self.problems)}
        if self.journal_number is None:
            self.write("task.json", to_json(self._facts))
        self._end_in_journal(b"")

    def _make_folder(self, empty_logs: bool) -> None:
        layout = self._layout
        task = self.ids.task
        name = layout.claim_task(task) if self._journal is None else layout.claim_named(self.name)
        self.has_folder = True
        self.name = self._disk.task = name
        for stream in STREAMS if empty_logs else ():
            _create(f"{self.folder_text}/{stream}.log")

    def _write_active(self) -> bool:
        data = to_json(self._facts)
        self._task_json_is_one_page = len(data) <= PAGE_BYTES
        return self.write("task.json", data.ljust(PAGE_BYTES))

    def _write_value(self, name: str, wire: bytes, json_of: Callable[[str, bytes], bytes | None]) -> None:
        """Write the value in a message of the worker's, if that was given and the value has a JSON form."""
        if wire and self._journal is not None and (data := json_of(self._journal.encoding, wire)) is not None:
            self.write(name, data)

    def _leave_journal(self, is_in_folder: bool) -> None:
        """Record in the journal that the task has a folder, if that has its task.json."""
        if self._journal is None or self.journal_number is None or not is_in_folder:
            return
        try:
            self._journal.moved(self.journal_number)
        except OSError:
            pass  # readers see the folder, which counts
        self.journal_number = None

    def _end_in_journal(self, answer: bytes) -> None:
        """Write the outcome to the journal, unless the task has a folder."""
        if self._journal is None or self.journal_number is None:
            return
        try:
            self._journal.end(self.journal_number, self._facts, answer)
            return
        except OSError as error:
            self._disk.note("the result", error)
        # There is always room for this much: a character has at most 12 bytes in JSON.
        self._facts = {**self._facts, "problems": [text[:600] for text in self.problems[-1:]]}
        try:
            self._journal.end(self.journal_number, self._facts)
        except OSError as error:
            self._disk.note("the outcome", error)


def _path(text: str) -> Path:
    from pathlib import Path  # late: 3 ms of the start, see layout.py

    return Path(text)


def _create(path: str) -> None:
    """Create the file."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))
