"""The task that is being served: its names, its record, what it printed, its answer, how it ended."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...boards.runs.journal_values import VALUE_MAX
from ...boards.runs.store import Store
from ...boards.runs.task_ids import TaskIds
from ...boards.runs.task_record import TaskRecord
from ...sandbox.codec import DONE_JSON
from ...sandbox.shared.message_format import Memfd, Wire
from ...sandbox.shared.messages import Protection, Sample
from ...sandbox.shared.outcome import Exit
from ..io.loop import Timer
from ..link.answer_blob import AnswerBlob
from ..link.connection import WorkerMessage
from ..protocol.messages import Failure
from ..protocol.result import Result, brief_outcome
from .gpu_sampler import GpuSampler
from .output_tail import OutputTail
from .task_usage import TaskUsage

if TYPE_CHECKING:
    from ...boards.runs.resource_series import ResourceSeries
    from ...sandbox.parent.child_handle import Child


class ActiveTask:
    """One task, from its `initialize` message to its last byte on disk."""

    ids: TaskIds | None = None
    record: TaskRecord | None = None
    series: ResourceSeries | None = None
    usage: TaskUsage | None = None
    timeout: Timer | None = None  #: the kill of a task that takes too long
    usage_deadline: Timer | None = None  #: the end of the wait for its final usage
    initialized_on: int = 0  #: the connection, by number, that its `initialized` was posted to
    answer: bytes = b""
    answer_blob: AnswerBlob | None = None
    _answer_bytes: int = 0
    failure: Failure | None = None
    storing: bytes = b""  #: storage v3: the message that says where its result is
    is_started_early: bool = False  #: storage v3: `start` has come while the input is read
    names: Mapping[str, str] | None = None  #: storage v3: the names in its initialize
    unread_by: Child | None = None  #: storage v3: the child that cannot read it; the reason is looked for
    has_stream: bool = False  #: whether it is part of a stream pipeline, and has a socket process
    stops_in_order: bool = False  #: whether it was asked to handle and to hand out what it has before it ends
    #: Names of the threads and processes that ran before it began: they print into the same pipes.
    ran_before: tuple[str, ...] = ()
    lost_thread: str = ""  #: the note on a thread of this task that ended for want of memory
    exit: Exit | None = None
    protection: Protection | None = None  #: how its limits are enforced
    _ended: tuple[float, int, float] | None = None  #: what _end() returns
    _tail: OutputTail | None = None  #: what it has printed last
    _recorded_protection: Protection | None = None  #: the same, as its record has it from the beginning
    stop_began: float | None = None  #: the time at which it was asked to end

    # Not a dataclass: most of the above is never set for a task of a millisecond.
    def __init__(
        self,
        number: int,
        began: float,
        message: WorkerMessage,
        *,
        limit_bytes: int | None = None,
        keep_bytes: int | None = None,
        gpus: GpuSampler | None = None,
    ) -> None:
        """`began`: on the loop's clock. `limit_bytes`: of memory, if any. `keep_bytes`: inputs and results up
        to this size are kept; None: all. `gpus`: measures those that the algorithm sees."""
        self.number = number
        self.began = began
        self.started_at = time.time()
        self.message: WorkerMessage | None = message  #: its initialize, until the child has read it
        self.input_bytes = message.size
        self.limit_bytes = limit_bytes
        self._keep_max = math.inf if keep_bytes is None else keep_bytes
        self._gpus = gpus
        self.problems: list[str] = []
        #: The folder in which its child writes the files of its record; None: in the record's own.
        self.files_from: str | None = None

    @property
    def name(self) -> str:
        """The name of the task in messages."""
        return self.ids.task if self.ids is not None else str(self.number)

    def release_message(self) -> None:
        """Release the memory of its `initialize` message."""
        if self.message is not None:
            self.message.release()
            self.message = None

    def take_answer(self, wire: Wire) -> None:
        """Own the result, as the child has encoded it for the worker."""
        if self.answer_blob is not None:
            self.answer_blob.close()
            self.answer_blob = None
        if isinstance(wire, Memfd):
            self.answer_blob = AnswerBlob(wire.fd, wire.size)
            self._answer_bytes = wire.size
        else:
            self.answer = wire
            self._answer_bytes = len(wire)

    def replace_message(self, message: WorkerMessage) -> None:
        """Use this `initialize` from now on: the same message with the values that it referred to."""
        self.release_message()
        self.message = message
        self.input_bytes = message.size

    def answer_wire(self) -> Wire:
        """Return the result as the child has encoded it; a memfd stays the task's."""
        blob = self.answer_blob
        return self.answer if blob is None else Memfd(blob.fd, blob.size)

    def forget_usage(self) -> None:
        """Drop what was measured in a child that died before it began the task."""
        self.usage = None
        if self.timeout is not None:
            self.timeout.cancel()

    def open_record(
        self,
        store: Store,
        entry: str,
        protection: Protection | None,
        common: Mapping[str, object],
        *,
        begins_later: bool,
    ) -> None:
        """Begin its record. `common`: what it has in common with other tasks, such as its protection.

        `begins_later`: see begin_record().
        """
        assert self.ids is not None, "a task is named before it is recorded"
        if self.record is None:
            self._recorded_protection = protection
            self.record = store.open(
                self.ids,
                entry=entry,
                started_at=self.started_at,
                extra=common,
                wire=self._input_for_journal(),
                begins_later=begins_later,
            )

    def begin_record(self) -> None:
        """Begin its record, if that was left for later; flush_record() is to follow unless the task ends."""
        if self.record is not None and self.record.is_to_begin:
            self.record.begin(later=True)

    def flush_record(self) -> None:
        """Have the beginning of its record on disk."""
        if self.record is not None:
            self.begin_record()
            self.record.flush()

    def _input_for_journal(self) -> bytes | None:
        """Return the `initialize` for the journal: empty if it is not to be kept, None if it needs a file."""
        if self.input_bytes > self._keep_max:
            return b""
        message = self.message
        if message is None or message.blob is not None or self.input_bytes > VALUE_MAX:
            return None
        return bytes(message.data)

    def printed(self, stream: str, data: bytes) -> None:
        """Record what the algorithm has printed, and remember its last lines."""
        if self.record is not None:
            self.record.append(stream, data)
        if self._tail is None:
            self._tail = OutputTail()
        self._tail.add(data)

    def progressed(self, value: float) -> None:
        """Add the progress that the algorithm reports to its curve."""
        if (series := self.need_series()) is not None:
            series.progress(time.time(), value)

    def need_series(self, *, is_ending: bool = False) -> ResourceSeries | None:
        """Return the curves to add to, with the folder that they need; None: the task has no record.

        is_ending: ALGO_METRICS_DIR is not led to its run folder any more; close() moves what was written.
        """
        record = self.record
        if record is None:
            return None
        (record.need_folder if is_ending else record.need_metrics_folder)()
        if self.series is None:
            # Late: a short task has no curve, and writing event files costs a start 1 ms.
            from ...boards.runs.resource_series import ResourceSeries

            self.series = ResourceSeries(record.metrics.folder, started_at=self.started_at)
        return self.series

    def last_lines(self) -> tuple[str, ...]:
        """Return the last lines it printed."""
        return self._tail.last_lines() if self._tail is not None else ()

    def on_sample(self, sample: Sample) -> None:
        """Add what it uses at this moment to its curves."""
        if self.usage is None:
            return
        before = len(self.usage.samples)
        self.usage.on_sample(sample)
        if len(self.usage.samples) <= before or (series := self.need_series()) is None:
            return
        at, cores, memory, processes = self.usage.samples[-1]
        gpus = self._gpus.latest() if self._gpus is not None else None
        series.sample(
            at,
            cpu_cores=cores,
            memory_bytes=memory,
            limit_bytes=self.limit_bytes,
            processes=processes,
            gpus_busy=gpus.busy if gpus is not None else None,
            gpu_memory_bytes=gpus.memory_bytes if gpus is not None else None,
        )

    def died(self, exit: Exit, child_began_at: float | None) -> None:
        """Note how its child has ended; a limit that did not hold, with the time since the task began."""
        breach = exit.breach
        if breach is not None and child_began_at is not None and exit.loaded:
            # The parent may learn late that the child began; the task has not lasted longer than until now.
            after_s = breach.after_s - max(0.0, self.began - child_began_at)
            breach = breach._replace(after_s=max(0.0, min(after_s, time.monotonic() - self.began)))
        self.exit = exit._replace(breach=breach)

    def record_brief(self, status: str, duration_s: float) -> bool:
        """Complete the record of a task whose values are small or not kept; False: close() is to do it."""
        record = self.record
        if record is None or not record.takes_values or status != "succeed" or record.has_folder:
            return False
        if self.series is not None or self.ran_before or record.metrics.has_any():
            return False
        if VALUE_MAX < self._answer_bytes <= self._keep_max:
            return False
        if self.protection is not self._recorded_protection:  # the head of the journal has that of all
            return False
        ended_at, peak_bytes, cpu_s = self._end()
        not_kept = _not_kept(self.input_bytes, self._answer_bytes, self._keep_max)
        outcome = brief_outcome(
            self.started_at, ended_at, duration_s, peak_bytes, self.limit_bytes, cpu_s, not_kept
        )
        return record.finish_in_journal(outcome, self.answer if self._answer_bytes <= self._keep_max else b"")

    def _end(self) -> tuple[float, int, float]:
        """Return when it has ended, its highest memory in bytes, and its CPU seconds; measured once."""
        if self._ended is None:
            usage, exit = self.usage, self.exit
            if exit is None:
                used = usage.end() if usage is not None else (0, 0.0)
            else:
                used = max(exit.peak_bytes, usage.peak_bytes if usage is not None else 0), exit.cpu_s
            self._ended = time.time(), *used
        return self._ended

    def close(self, status: str, failure: Failure | None, duration_s: float, *, with_output: bool) -> Result:
        """End the task: everything about it is on disk when this returns.

        `with_output`: the result carries its own JSON, which may be large.
        """
        assert self.ids is not None, "a task is opened before it is closed"
        self.release_message()
        if self.timeout is not None:
            self.timeout.cancel()
        if self.usage_deadline is not None:
            self.usage_deadline.cancel()
        ended_at, peak_bytes, cpu_s = self._end()
        ids, record = self.ids, self.record
        if record is not None and record.takes_values and not record.is_finished:
            self._move_to_folder(record, status)
        result = Result(
            ids.task,
            ids.job,
            ids.node,
            ids.pipeline,
            status,
            self.started_at,
            ended_at,
            duration_s,
            output=self.output() if with_output and status == "succeed" else None,
            failure=failure,
            exit=self.exit,
            loaded=self.exit is None or self.exit.loaded,
            metrics_dir=record.metrics_text if record is not None else None,
            folder=record.folder_text if record is not None and record.has_folder else None,
            journal_number=record.journal_number if record is not None else None,
            record_name=record.name if record is not None else None,
            peak_bytes=peak_bytes or None,
            needed_bytes=self.usage.needed_bytes if self.usage is not None else 0,
            limit_bytes=self.limit_bytes,
            cpu_s=cpu_s,
            protection=self.protection,
            stop_s=None if self.stop_began is None else self.began + duration_s - self.stop_began,
            problems=self.problems,
        )
        if record is not None and not record.is_finished:
            self._finish_record(record, result)
        is_sent = status == "succeed" and not self.storing and not self.stops_in_order
        if self.answer_blob is not None and not is_sent:
            self.answer_blob.close()
        return result

    def _move_to_folder(self, record: TaskRecord, status: str) -> None:
        """Make the record a folder if there is more to keep than small values."""
        if record.metrics.has_any():
            record.need_metrics_folder()
        elif status != "succeed" or VALUE_MAX < self._answer_bytes <= self._keep_max:
            record.need_folder()

    def peak(self) -> int:
        """Return the highest memory so far, in bytes; 0 when it was not measured."""
        return self.usage.peak() if self.usage is not None else 0

    def _finish_record(self, record: TaskRecord, result: Result) -> None:
        is_here = record.takes_values and result.status == "succeed"
        is_here = is_here and self._answer_bytes <= min(VALUE_MAX, self._keep_max)
        if self.files_from is not None:
            sizes = {"input.json": self.input_bytes, "output.json": self._answer_bytes}
            # As JSON, a value has up to six times the bytes of another encoding.
            most = {name: 8 * size + 1024 for name, size in sizes.items()}
            record.take_values(self.files_from, most)
        is_in_head = self.protection is self._recorded_protection  # of the journal's file
        facts = result.outcome(with_protection=not is_in_head)
        if record.has_folder or self.series is not None:
            self._finish_files(record, result, facts["error"])
        if (not_kept := _not_kept(self.input_bytes, self._answer_bytes, self._keep_max)) is not None:
            facts["notKept"] = not_kept
        if self.ran_before and self._tail is not None:
            facts["ranBefore"] = list(self.ran_before)
        del facts["metricsDir"]  # it is below the record's own root, which may be moved
        record.finish(facts, self.answer if is_here else b"")
        if record.problems:
            result.problems.extend(record.problems)

    def _finish_files(self, record: TaskRecord, result: Result, error: object) -> None:
        """Complete the curves, and the files beside task.json, of a task that has a folder."""
        sampled = self.usage is not None and bool(self.usage.samples)
        # If the task was over before the first sample, its usage becomes one point of the curve: of a failed
        # task, where it may show the reason; of one that succeeded only beside curves of its own, since it
        # costs time.
        wanted = self.series is not None or result.status != "succeed"
        is_point = bool(result.peak_bytes) and not sampled and (wanted or record.metrics.has_any())
        if is_point and (series := self.need_series(is_ending=True)) is not None:
            cores = (result.cpu_s or 0.0) / max(result.duration_s, 0.001)
            series.sample(
                time.time(), cpu_cores=cores, memory_bytes=result.peak_bytes, limit_bytes=self.limit_bytes
            )
        if self.series is not None:
            self.series.close()
            if self.series.problem is not None:
                self.problems.append(self.series.problem)
        if self.usage is not None and self.usage.samples:
            names = ("time", "cpuCores", "memoryBytes", "processes")
            lines = [json.dumps(dict(zip(names, one, strict=True))) for one in self.usage.samples]
            record.write("samples.jsonl", ("\n".join(lines) + "\n").encode())
        if result.status != "succeed":
            with contextlib.suppress(OSError):  # made by a child that died before it had a result
                os.unlink(f"{record.folder_text}/.output.json.part")
        if error is not None:
            record.write("error.json", json.dumps(error).encode())

    def output(self) -> bytes | None:
        """Return the result's own JSON out of the answer, None for another encoding."""
        blob = self.answer_blob
        if blob is None:
            is_json = self.answer.startswith(DONE_JSON) and self.answer.endswith(b"}")
            return self.answer[len(DONE_JSON) : -1] if is_json else None
        if blob.read(0, min(len(DONE_JSON), blob.size)) != DONE_JSON or blob.read(blob.size - 1, 1) != b"}":
            return None
        return blob.read(len(DONE_JSON), blob.size - len(DONE_JSON) - 1)


def _not_kept(input_bytes: int, output_bytes: int, most: float) -> dict[str, int] | None:
    """Return the sizes of the values that are too large to be kept, if there are any."""
    if input_bytes <= most and output_bytes <= most:
        return None
    sizes = {"input": input_bytes, "output": output_bytes}
    return {name: size for name, size in sizes.items() if size > most}
