"""A local run: one input after another, results to stdout.

    inputs -> LocalRun -> a free LocalProcess -> LocalRun -> results, in the order of the inputs

The algorithm is loaded before the connection to the worker, so that code that cannot be loaded is reported
at once. The next task starts once the result of the last one is printed: a slow reader of stdout slows the
run down instead of filling memory. With --parallel there are several processes, and the next input goes to
the next free one.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from ...boards.runs.task_ids import local_job_id
from ..console.process_output import ProcessOutput
from ..console.status_line import Sample, StatusLine, can_be_drawn
from ..console.task_report import TaskReport, progress_line
from ..console.terminal import wants_color
from ..prepare.code_name import code_name
from ..protocol.error_codes import MEMORY_CODES, SANDBOX_UNAVAILABLE, exit_status_of
from ..protocol.messages import Failure
from ..protocol.result import Result
from ..serving.child_pool import ChildPool
from ..serving.run_context import RunContext
from ..worker_stub.server import LocalTask
from .local_process import LocalProcess, LocalProcessListener
from .stand_in_options import algorithms_of

#: The next task starts only while fewer bytes than this wait for a slow reader of stdout.
HOLD_BACK = 1024 * 1024
#: Bytes of results that may wait for the result of an earlier input before the next task starts.
OUT_OF_ORDER_MAX = 256 * 1024 * 1024


class LocalRun:
    """Runs each input as a task; report.status is the exit status at the end."""

    def __init__(
        self,
        context: RunContext,
        inputs: Sequence[bytes],
        pool: ChildPool | None = None,
        *,
        processes: int = 1,
    ) -> None:
        """pool: that of the first process, if it was started already. processes: how many run at a time."""
        loop, settings, where, output, _ = context
        self._loop = loop
        self._settings = settings
        self._output = output
        self._inputs = enumerate(inputs)
        self._job = local_job_id(time.time())
        #: The name of the algorithm, and of its node.
        self._name = code_name(settings, where)
        self.report = TaskReport(settings, output)
        self._is_over = False  #: whether the processes were asked to end
        self._count = 0  #: tasks that have begun
        self._is_ordered = not (settings.local_run.unordered or settings.console.events)
        self._next_printed = 0  #: position of the input whose result is printed next
        self._waiting: dict[int, Result] = {}  #: results of later inputs, by position
        #: The algorithms that tasks may start; their processes end with the run.
        self._others = algorithms_of(loop, settings, output, self._problem)
        listener = LocalProcessListener(
            on_loaded=self._free_again,
            on_load_failed=self._load_failed,
            on_result=self._ended,
            on_free=self._free_again,
            on_progress=self._progressed,
            on_finished=self._finished,
        )
        said: set[str] = set()  # lines that are printed once for all processes
        contexts = [context, *(context.with_new_store() for _ in range(processes - 1))]
        self._processes = [
            LocalProcess(
                one if processes == 1 else one._replace(output=ProcessOutput(output, said)),
                self._others.catalog,
                listener,
                pool if number == 0 else None,
            )
            for number, one in enumerate(contexts)
        ]
        self._left = set(self._processes)  #: those that have not finished
        self._usable = set(self._processes)  #: those that have loaded the code, or still do
        self._load_failures: set[str] = set()  #: reported errors of those that could not
        self._free: deque[LocalProcess] = deque()
        self._working: set[LocalProcess] = set()
        self._status_line = None
        # With --in-process the code owns the terminal, and the line would cut its prompts.
        if not settings.console.quiet and not settings.local_run.in_process and can_be_drawn(os.environ):
            limit_bytes = settings.limits.memory_bytes if settings.limits.enforced else None
            self._status_line = StatusLine(
                loop,
                output,
                total=len(inputs),
                limit_bytes=None if limit_bytes is None else limit_bytes * processes,
                samples=self._samples,
                color=wants_color(settings.console.color, os.environ),
                code=where.shown,
            )

    def begin(self) -> None:
        """Start the run; it stops the loop at its end."""
        for process in self._processes:
            process.begin()

    def interrupt(self, status: int) -> None:
        """Shut down, with this exit status; the second call kills."""
        if not self._is_over and not self._count:
            grace_s = self._settings.serving.grace_s
            self._output.announce(f"■ stopping: the code is still loading, {grace_s:.12g} s to end")
        self._is_over = True
        for process in tuple(self._left):
            process.supervisor.shutdown(status)
        self._others.shutdown()

    def close(self) -> None:
        """Close the workers."""
        if self._status_line is not None:
            self._status_line.close()
        for process in self._processes:
            process.close()
        self._others.close()

    @property
    def exit_status(self) -> int:
        """The highest of the tasks' exit statuses, and of those with which processes were shut down."""
        return max(self.report.status, *(one.supervisor.exit_status for one in self._processes))

    def child_pids(self) -> list[int]:
        """Return the pids of the algorithm's processes."""
        return [pid for one in self._processes if (pid := one.child_pid())]

    # ---- tasks

    def _free_again(self, process: LocalProcess) -> None:
        self._working.discard(process)
        self._free.append(process)
        self._hand_out()

    def _hand_out(self) -> None:
        """Start a task in each free process, or end the run."""
        if self._is_over:
            return
        out = self._output.out
        while self._free and not out.broken:
            if out.waiting > HOLD_BACK:
                out.on_drained = self._hand_out
                return
            if self._working and self._out_of_order_bytes() > OUT_OF_ORDER_MAX:
                return  # the process with the awaited result becomes free, and this is called again
            position, data = next(self._inputs, (-1, b""))
            if position < 0:
                break
            self._begin_task(self._free.popleft(), position, data)
        if self._working:
            return
        if not out.broken:
            self._output.when_taken(self._end)  # a signal may end it before
            return
        if self._settings.console.output_file is not None:
            self.report.note_status(1)  # reported at the end of the run
        else:
            self.report.note_broken_stdout()
        self._end()

    def _begin_task(self, process: LocalProcess, position: int, data: bytes) -> None:
        self._working.add(process)
        self._count += 1
        store = process.store
        name = store.next_local_task() if store is not None else f"t{self._count}"
        if self._status_line is not None:
            self._status_line.begin(name)
        process.begin_task(LocalTask(name, self._job, self._name, self._name, "local", data), position)

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            for process in tuple(self._left):
                process.end()

    def _finished(self, process: LocalProcess) -> None:
        self._left.discard(process)
        if self._left:
            return
        for position in sorted(self._waiting):  # the tasks before them were not run
            self.report.print_result(self._waiting.pop(position))
        self._others.when_gone(self._loop.stop)

    def _load_failed(self, process: LocalProcess, failure: Failure) -> None:
        """End the process; the others continue, and the last one ends the run."""
        words = self.report.words(failure)
        if words not in self._load_failures:  # most often all processes fail alike
            self._load_failures.add(words)
            self._output.warn(f"✘ {words}")
        self._usable.discard(process)
        if self._usable:
            process.supervisor.shutdown(0)
            return
        known = failure.code in (*MEMORY_CODES, SANDBOX_UNAVAILABLE, "ENTRY_NOT_FOUND")
        status = exit_status_of(failure.code) if known else 4
        self.report.note_status(status)
        self._is_over = True
        process.supervisor.shutdown(status)

    # ---- results

    def _ended(self, process: LocalProcess, result: Result) -> None:
        if self._status_line is not None:
            self._status_line.end(result.task)
        if self._settings.local_run.parallel is not None:
            result.position = process.position
        self.report.note_status(result.exit_status)
        process.output.end_lines()
        if self._is_ordered:
            self._waiting[process.position] = result
            while (next_one := self._waiting.pop(self._next_printed, None)) is not None:
                self._next_printed += 1
                self.report.print_result(next_one)
        else:
            self.report.print_result(result)
        self.report.show_end(result)
        process.output.events.result(result)

    def _out_of_order_bytes(self) -> int:
        return sum(len(one.output or b"") for one in self._waiting.values())

    # ---- the view

    def _samples(self) -> Sequence[Sample]:
        """Return the samples of the task; for several tasks, one sample, the sum of the latest of each."""
        each = [samples for one in self._working if (samples := one.supervisor.samples)]
        if len(each) <= 1:
            return each[0] if each else []
        at, cores, memory, processes = zip(*(samples[-1] for samples in each), strict=True)
        return [(max(at), sum(cores), sum(memory), sum(processes))]

    def _progressed(self, process: LocalProcess, task: LocalTask, data: Any) -> None:
        fields = data if isinstance(data, dict) else {}
        if self._status_line is not None:
            self._status_line.progress(task.task, fields.get("progress"), fields.get("details"))
        elif not self._output.verbose:  # which shows every line
            process.progress_log.progress(task.task, data)
        self._output.debug(progress_line(task.task, data))

    def _problem(self, text: str) -> None:
        if not self._is_over:
            self._output.warn(f"✘ local worker: {text}")
