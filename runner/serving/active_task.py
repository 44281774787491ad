"""The task that is being served: its names, its record, what it printed, how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from ...boards.runs.resource_series import ResourceSeries
from ...boards.runs.store import Store
from ...boards.runs.task_ids import TaskIds
from ...boards.runs.task_record import TaskRecord
from ...sandbox.shared.messages import Begin, Protection, Sample
from ...sandbox.shared.outcome import Exit
from ..io.loop import Timer
from ..link.connection import Message
from ..protocol.messages import Failure
from ..protocol.result import Result
from ..protocol.task_state import Event
from .task_usage import Meter

#: Lines of output that go into the message of a task that died.
LAST_LINES = 10
_TAIL_BYTES = 4096
_DONE = b'{"command":"done","data":'


class BlobSource:
    """A large answer in the child's memfd. It is read, never mapped: see channel.blob_problem."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly this piece."""
        data = os.pread(self._fd, length, offset)
        if len(data) != length:
            raise OSError("the answer became shorter while it was sent")
        return data

    def close(self) -> None:
        """The memory is the child's alone again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Current:
    """One task, from its initialize to its last byte on disk."""

    ids: TaskIds | None = None
    placed: bool = False  #: the child gets its folders with the task itself
    held: Begin | None = None  #: what goes to the child together with Start
    record: TaskRecord | None = None
    series: ResourceSeries | None = None
    meter: Meter | None = None
    timeout: Timer | None = None
    ending: tuple[Event, Timer] | None = None  #: it has ended; its last account is waited for
    answer: bytes = b""
    answer_blob: BlobSource | None = None
    failure: Failure | None = None
    exit: Exit | None = None
    retried: bool = False
    announced: bool = False  #: the worker has its `initialized`
    protection: Protection | None = None
    progress: tuple[float, Any] | None = None
    stop_began: float | None = None  #: when it was asked to end
    _tail_bytes: int = 0

    # Not a dataclass: most of the above is never set for a task that is over in no time.
    def __init__(
        self,
        number: int,
        began: float,
        message: Message,
        *,
        limit_bytes: int | None = None,
        keep_bytes: int | None = None,
    ) -> None:
        """`began`: on the loop's clock. `limit_bytes`: of memory, if any. `keep_bytes`: inputs and results up
        to this size are kept; None: all."""
        self.number = number
        self.began = began
        self.started_at = time.time()
        self.message: Message | None = message  #: its initialize, until the child has read it
        self.input_bytes = message.size
        self.limit_bytes = limit_bytes
        self.keep_bytes = keep_bytes
        self.problems: list[str] = []
        self._tail: deque[bytes] = deque()

    @property
    def name(self) -> str:
        """What the task is called in messages."""
        return self.ids.task if self.ids is not None else str(self.number)

    def release(self) -> None:
        """Its initialize is not needed any more."""
        if self.message is not None:
            self.message.release()
            self.message = None

    def unmeter(self) -> None:
        """Its child has died before it had begun with it: what was measured is not the task's."""
        self.meter = None
        if self.timeout is not None:
            self.timeout.cancel()

    def open(self, store: Store | None, ids: TaskIds, entry: str, settings: Mapping[str, object]) -> None:
        """The task is known by name, and has its folders. `settings`: what it takes to run it again."""
        self.ids = ids
        if store is not None:
            extra = {"settings": settings}
            self.record = store.open(ids, entry=entry, started_at=self.started_at, extra=extra)

    def printed(self, stream: str, data: bytes) -> None:
        """Keep what the algorithm has printed, and the end of it at hand."""
        if self.record is not None:
            self.record.append(stream, data)
        self._tail.append(data[-_TAIL_BYTES:])
        self._tail_bytes += len(self._tail[-1])
        while self._tail_bytes - len(self._tail[0]) >= _TAIL_BYTES:
            self._tail_bytes -= len(self._tail.popleft())

    def progressed(self, value: float, details: Any) -> None:
        """Take how far the algorithm says that it is."""
        self.progress = (value, details)
        if self.record is not None:
            self._need_series(self.record).progress(time.time(), value)

    def _need_series(self, record: TaskRecord) -> ResourceSeries:
        if self.series is None:
            self.series = ResourceSeries(record.metrics_dir, started_at=self.started_at)
        return self.series

    def last_lines(self) -> tuple[str, ...]:
        """Return the last lines it printed."""
        text = b"".join(self._tail).decode("utf-8", "replace")
        lines = [line[:400] for line in text.splitlines() if line.strip()]
        return tuple(lines[-LAST_LINES:])

    def on_sample(self, sample: Sample) -> None:
        """Draw the curve of what it uses."""
        if self.meter is None:
            return
        before = len(self.meter.samples)
        self.meter.on_sample(sample)
        if len(self.meter.samples) <= before or self.record is None:
            return
        at, cores, memory, processes = self.meter.samples[-1]
        self._need_series(self.record).sample(
            at, cpu_cores=cores, memory_bytes=memory, limit_bytes=self.limit_bytes, processes=processes
        )

    def close(self, status: str, failure: Failure | None, duration_s: float, *, with_output: bool) -> Result:
        """The task is over: everything about it is on disk when this returns.

        `with_output`: the result carries its own JSON, which may be large.
        """
        assert self.ids is not None, "a task is opened before it is closed"
        self.release()
        if self.timeout is not None:
            self.timeout.cancel()
        peak_bytes, cpu_s = self._account()
        ids, record = self.ids, self.record
        result = Result(
            ids.task,
            ids.job,
            ids.node,
            ids.pipeline,
            status,
            self.started_at,
            time.time(),
            duration_s,
            output=self.output() if with_output and status == "succeed" else None,
            failure=failure,
            exit=self.exit,
            loaded=self.exit is None or self.exit.loaded,
            metrics_dir=record.metrics_text if record is not None else None,
            folder=record.folder_text if record is not None and record.is_there else None,
            peak_bytes=peak_bytes or None,
            limit_bytes=self.limit_bytes,
            cpu_s=cpu_s,
            protection=self.protection.as_dict() if self.protection is not None else None,
            stop_s=None if self.stop_began is None else self.began + duration_s - self.stop_began,
            problems=self.problems,
        )
        if record is not None:
            self._keep(record, result)
        if status != "succeed" and self.answer_blob is not None:
            self.answer_blob.close()
        return result

    def peak(self) -> int:
        """Return the highest memory so far, in bytes; 0 when it was not measured."""
        return self.meter.peak() if self.meter is not None else 0

    def _account(self) -> tuple[int, float]:
        peak_bytes, cpu_s = 0, 0.0
        if self.meter is not None and self.exit is None:
            peak_bytes, cpu_s = self.meter.end()
        elif self.meter is not None:
            peak_bytes = self.meter.peak_bytes
        if self.exit is not None:
            peak_bytes = max(peak_bytes, self.exit.peak_bytes)
            cpu_s = cpu_s or self.exit.cpu_s
        return peak_bytes, cpu_s

    def _keep(self, record: TaskRecord, result: Result) -> None:
        facts = result.facts()
        sampled = self.meter is not None and bool(self.meter.samples)
        # Over before the first sample. Who looks for why it failed finds its usage; a task that succeeded
        # has it beside its own curves, and no file of its own when it wrote none: serving is fast.
        wanted = self.series is not None or result.status != "succeed"
        if result.peak_bytes and not sampled and (wanted or record.has_metrics()):
            cores = (result.cpu_s or 0.0) / max(result.duration_s, 0.001)
            self._need_series(record).sample(
                time.time(), cpu_cores=cores, memory_bytes=result.peak_bytes, limit_bytes=self.limit_bytes
            )
        if self.series is not None:
            self.series.close()
            if self.series.problem is not None:
                self.problems.append(self.series.problem)
        if self.meter is not None and self.meter.samples:
            names = ("time", "cpuCores", "memoryBytes", "processes")
            lines = [json.dumps(dict(zip(names, one, strict=True))) for one in self.meter.samples]
            record.write("samples.jsonl", ("\n".join(lines) + "\n").encode())
        if result.status != "succeed":
            with contextlib.suppress(OSError):  # made by a child that died before it had a result
                os.unlink(f"{record.folder_text}/.output.json.part")
        if result.failure is not None:
            record.write("error.json", json.dumps(facts["error"]).encode())
        if self.keep_bytes is not None:
            sizes = {"input": self.input_bytes, "output": self._answer_bytes}
            large = {name: size for name, size in sizes.items() if size > self.keep_bytes}
            if large:
                facts["notKept"] = large
        del facts["metricsDir"]  # the record has it below its own root: the folder may be moved
        record.finish(facts)
        result.problems.extend(record.problems)

    @property
    def _answer_bytes(self) -> int:
        return len(self.answer) if self.answer_blob is None else self.answer_blob.size

    def output(self) -> bytes | None:
        """Return the result's own JSON out of the answer, None for another encoding."""
        blob = self.answer_blob
        if blob is None:
            return self.answer[len(_DONE) : -1] if self.answer.startswith(_DONE) else None
        if blob.read(0, min(len(_DONE), blob.size)) != _DONE:
            return None
        return blob.read(len(_DONE), blob.size - len(_DONE) - 1)
