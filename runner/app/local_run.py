"""A local run: one input after another through an embedded worker, results to stdout.

The algorithm is loaded before the connection to the worker, so that code that cannot be loaded is reported
at once. The next task starts once the result of the last one is printed: a slow reader of stdout slows the
run down instead of filling memory.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from operator import length_hint
from typing import Any

from ...boards.runs.store import Store
from ...boards.runs.task_ids import local_job_id
from ...sandbox.codec.codec import json_text
from ...sandbox.shared.entry import Location
from ..console.status_line import StatusLine, can_be_drawn
from ..console.task_report import ProgressLog, TaskReport, progress_line
from ..console.terminal import Output, wants_color
from ..io.loop import Loop
from ..protocol.error_codes import MEMORY_CODES, exit_status_of
from ..protocol.messages import Failure
from ..protocol.result import Result
from ..serving.child_pool import ChildPool
from ..serving.supervisor import Hooks, Supervisor
from ..settings.settings import Settings
from ..settings.worker_url import worker_url
from ..worker_stub.server import Answer, LocalTask, LocalWorker
from .other_algorithms import save_spans
from .stand_in_options import algorithms_of

#: Bytes that may wait for a slow reader of stdout before the next task starts.
HOLD_BACK = 1024 * 1024


class LocalRun:
    """Runs each input as a task; report.status is the exit status at the end."""

    def __init__(
        self,
        loop: Loop,
        settings: Settings,
        where: Location,
        output: Output,
        store: Store | None,
        inputs: Iterator[bytes],
        pool: ChildPool | None = None,
    ) -> None:
        """pool: holds the algorithm's process, if that was started already."""
        self._settings = settings
        self._output = output
        self._store = store
        self._inputs = inputs
        self._job = local_job_id(time.time())
        self._count = 0
        self._results: dict[str, Result] = {}
        #: The name of the algorithm, and of its node.
        self._name = settings.name or os.path.splitext(os.path.basename(where.shown))[0]
        self.report = TaskReport(settings, output)
        hooks = Hooks(
            on_result=self._ended,
            on_loaded=self._loaded,
            on_load_failed=self._load_failed,
            on_finished=self._finished,
        )
        pool = pool or ChildPool(loop, settings, where, store.environment() if store is not None else {})
        #: Returns the pid of the algorithm's process; 0 when there is none.
        self.child_pid = pool.child_pid
        self.supervisor = Supervisor(loop, settings, where, output, store, hooks, pool)
        self._loop = loop
        #: The algorithms that tasks may start; their processes end with the run.
        self._others = algorithms_of(loop, settings, output, self._problem)
        self._worker = LocalWorker(
            loop,
            on_answer=self._answered,
            on_problem=self._problem,
            on_progress=self._progressed,
            catalog=self._others.catalog,
        )
        self._connected = False
        self._status_line = None
        # With --in-process the code owns the terminal, and the line would cut its prompts.
        if not settings.console.quiet and not settings.local_run.in_process and can_be_drawn(os.environ):
            self._status_line = StatusLine(
                loop,
                output,
                total=length_hint(inputs),
                limit_bytes=settings.limits.memory_bytes if settings.limits.enforced else None,
                samples=lambda: self.supervisor.samples,
                color=wants_color(settings.console.color, os.environ),
                code=where.shown,
            )
        self._progress_log = ProgressLog(output.say, loop.clock)

    def begin(self) -> None:
        """Start the run; it stops the loop at its end."""
        self._port = self._worker.listen()
        self.supervisor.preload()

    def interrupt(self, status: int) -> None:
        """Shut down, with this exit status; the second call kills."""
        self.supervisor.shutdown(status)
        self._others.shutdown()

    def close(self) -> None:
        """Close the worker."""
        if self._status_line is not None:
            self._status_line.close()
        self._worker.close()
        self._others.close()

    def _finished(self) -> None:
        self._others.when_gone(self._loop.stop)

    def _loaded(self) -> None:
        if not self._connected:
            self._connected = True
            url = f"ws://127.0.0.1:{self._port}"
            self.supervisor.connect(worker_url(url, {}, self._settings.serving.encoding))
            self._next()

    def _load_failed(self, failure: Failure) -> None:
        if self._connected:
            return  # a later process: its task is answered with the failure
        self._output.warn(f"✘ {self.report.words(failure)}")
        status = exit_status_of(failure.code) if failure.code in MEMORY_CODES else 4
        self.report.note_status(status)
        self.supervisor.shutdown(status)

    def _next(self) -> None:
        """Start the next task, or end the run."""
        if self._output.out.broken:
            if self._settings.console.output_file is not None:
                self.report.note_status(1)  # reported at the end of the run
            else:
                self.report.note_broken_stdout()
            self._end()
            return
        if self._output.out.waiting > HOLD_BACK:
            self._output.out.on_drained = self._next
            return
        data = next(self._inputs, None)
        if data is None:
            self._output.when_taken(self._end)  # a signal may end it before
            return
        self._count += 1
        name = self._store.next_local_task() if self._store is not None else f"t{self._count}"
        if self._status_line is not None:
            self._status_line.begin(name)
        self._progress_log.begin()
        self._worker.submit(LocalTask(name, self._job, self._name, self._name, "local", data))

    def _end(self) -> None:
        if self._worker.connected:
            self._worker.exit(0)
        else:
            self.supervisor.shutdown(0)  # there was no task

    def _ended(self, result: Result) -> None:
        self._results[result.task] = result
        if self.supervisor.ending:
            # The worker gets no answer any more, so _answered() will not be called for this task.
            save_spans(result.folder, self._worker.spans())
            self._show(result)

    def _answered(self, answer: Answer) -> None:
        result = self._results.get(answer.task.task)
        if result is not None:
            save_spans(result.folder, answer.spans)
            if result.output is None and result.status == "succeed":
                # Another encoding: the JSON text is made of what the worker has decoded.
                result.output = json_text(answer.message.get("data"))
            self._show(result)
            self._next()

    def _show(self, result: Result) -> None:
        del self._results[result.task]
        if self._status_line is not None:
            self._status_line.end()
        self.report.show(result)

    def _progressed(self, task: LocalTask, data: Any) -> None:
        fields = data if isinstance(data, dict) else {}
        if self._status_line is not None:
            self._status_line.progress(fields.get("progress"), fields.get("details"))
        elif not self._output.verbose:  # which shows every line
            self._progress_log.progress(task.task, data)
        self._output.debug(progress_line(task.task, data))

    def _problem(self, text: str) -> None:
        if not self.supervisor.ending:
            self._output.warn(f"✘ local worker: {text}")
