"""`hkrunner worker`: the local worker by itself, for a wrapper of any language that connects.

It sends one input after another and prints the results as a local run does. The wrapper is no child process:
it is asked to exit, and has the time that HKube gives it, but is never killed.
"""

from __future__ import annotations

import errno
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from ...boards.runs.store import Store
from ...boards.runs.task_ids import TaskIds, local_job_id
from ...boards.runs.task_record import TaskRecord
from ..console.task_report import TaskReport, progress_line
from ..console.terminal import Output
from ..errors import SettingsError
from ..io.loop import Loop, Timer
from ..prepare.inputs import StdinTasks, as_list
from ..protocol.error_codes import CODES
from ..protocol.messages import Failure
from ..protocol.result import Result
from ..settings.settings import WorkerSettings
from ..worker_stub.server import LocalWorker
from ..worker_stub.task import Answer, LocalTask
from .local_run import HOLD_BACK
from .other_algorithms import save_spans
from .stand_in_options import algorithms_of

#: The time HKube's worker gives a container after `exit`, and an algorithm after a stop.
EXIT_S = 20.0
STOP_S = 10.0
#: A task is sent again until more than this many clients were lost with it: HKube's limit of retries.
LOST_MAX = 3
#: The error of HKube's worker for a client that has disconnected, in its own words.
LOST = "the algorithm killed due to an unknown reason, please check the logs for more details"
ENTRY = "(the wrapper that connected)"


class StandaloneWorker:
    """Serves one client after another until all inputs are answered; report.status is the exit status."""

    def __init__(
        self,
        loop: Loop,
        asked: WorkerSettings,
        output: Output,
        store: Store | None,
        inputs: Iterable[bytes],
    ) -> None:
        self._loop = loop
        self._asked = asked
        self._output = output
        self._store = store
        self._inputs = deque(inputs)
        settings = asked.settings
        self._reading = settings.local_run.tasks == "-"
        #: Whether only a signal ends it, because no inputs were given.
        self._endless = not self._inputs and not self._reading and settings.local_run.tasks is None
        self.report = TaskReport(settings, output)
        self._others = algorithms_of(loop, settings, output, self._problem)
        self._worker = LocalWorker(
            loop,
            on_answer=self._answered,
            on_problem=self._problem,
            on_client=self._client,
            on_progress=self._progressed,
            on_logs=self._logged,
            catalog=self._others.catalog,
            storage=asked.storage,
        )
        self._job = local_job_id(time.time())
        self._task: LocalTask | None = None
        self._record: TaskRecord | None = None
        self._began = 0.0
        self._began_at = 0.0
        self._count = 0
        self._lost = 0
        self._ending = False
        self._stopping = False
        self._timers: list[Timer] = []

    def begin(self) -> None:
        """Listen. Raises SettingsError when the port is in use."""
        host, port = self._asked.host, self._asked.port
        try:
            port = self._worker.listen(host, port)
        except OSError as error:
            told = (error.strerror or str(error)).partition(" (while")[0]
            flag = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
            raise SettingsError(
                f"cannot listen on {host} port {port}: {told}; choose another with {flag}"
            ) from None
        shown = f"[{host}]" if ":" in host else host
        self._output.say(f"● local worker on ws://{shown}:{port}: waiting for a wrapper to connect")
        if self._endless:
            self._output.say(
                "◌ no inputs: add --input '[…]' or --tasks FILE, or --tasks - to read a line of JSON per task"
                " from stdin"
            )
        if self._reading:
            StdinTasks(self._loop, self._more, self._bad_line, self._no_more)
        # Without inputs: not from here, before the loop runs, where its stop() would be forgotten.
        self._timers.append(self._loop.after(0, self._end_if_finished))

    def interrupt(self, status: int) -> None:
        """Stop the task and ask the client to exit; the second call ends without waiting."""
        if self._ending or self._stopping:
            self._finish()
            return
        self.report.note_status(status)
        self._stopping = True
        if self._task is not None and self._worker.stop():
            self._output.say(
                f"■ stopping task {self._task.task}: the wrapper has {STOP_S:g} s to answer `stopped`"
            )
            self._timers.append(self._loop.after(STOP_S, self._give_up_stop))
        else:
            self._give_up_stop()

    def close(self) -> None:
        """Close the port and the connection."""
        for timer in self._timers:
            timer.cancel()
        self._worker.close()
        self._others.close()

    # ---- inputs

    def _more(self, line: bytes, number: int) -> None:
        try:
            self._inputs.append(as_list(line, f"line {number} of stdin (--tasks)"))
        except SettingsError as error:
            self._bad_line(str(error))
            return
        self._next()

    def _bad_line(self, problem: str) -> None:
        self._output.warn(f"✘ {problem}")
        self.report.note_status(2)

    def _no_more(self) -> None:
        self._reading = False
        self._end_if_finished()

    def _next(self) -> None:
        """Send the next input if the client is free and stdout is being read."""
        out = self._output.out
        if self._task is not None or self._ending or self._stopping or not self._worker.connected:
            return
        if out.broken:
            self.report.note_broken_stdout()
            self._end()
        elif out.waiting > HOLD_BACK:
            out.on_drained = self._next
        elif self._inputs:
            self._send(self._inputs.popleft())
        else:
            self._end_if_finished()

    def _end_if_finished(self) -> None:
        nothing_left = not self._inputs and not self._reading and self._task is None
        if nothing_left and not self._endless and not self._ending:
            self._end()

    def _send(self, data: bytes) -> None:
        self._count += 1
        self._lost = 0
        name = self._store.next_local_task() if self._store is not None else f"t{self._count}"
        self._task = LocalTask(name, self._job, "wrapper", "wrapper", "local", data)
        self._began, self._began_at = self._loop.clock(), time.time()
        if self._store is not None:
            ids = TaskIds(name, self._job, "wrapper", "local")
            self._record = self._store.open(ids, entry=ENTRY, started_at=self._began_at)
            self._record.write("input.json", data)
        self._output.debug(f"▶ task {name}")
        self._worker.submit(self._task)

    # ---- the client

    def _client(self, there: bool) -> None:
        if there:
            self._output.say("● a wrapper connected")
            self._next()
            return
        if self._ending:
            self._finish()
            return
        if self._task is not None:
            self._lost += 1
            if self._asked.once or self._stopping or self._lost > LOST_MAX:
                self._worker.withdraw()
                self._conclude_lost()
        if self._asked.once or self._stopping:
            self._end()
        else:
            self._output.say("◌ the wrapper disconnected; waiting for another one")

    def _conclude_lost(self) -> None:
        if self._stopping:
            self._conclude("stopped", None, [])
        else:
            self._conclude("failed", Failure("CLIENT_LOST", LOST), [])

    def _answered(self, answer: Answer) -> None:
        if self._task is None or answer.task is not self._task:
            return
        status = {"done": "succeed", "stopped": "stopped"}.get(answer.command, "failed")
        failure = _failure_of(answer) if status == "failed" else None
        self._conclude(status, failure, answer.spans, answer.message.get("data"))
        if self._stopping:
            self._end()
        else:
            # In a later turn: the worker is still handling this answer.
            self._loop.after(0, self._next)

    def _conclude(
        self, status: str, failure: Failure | None, spans: Sequence[dict[str, Any]], value: Any = None
    ) -> None:
        task, self._task = self._task, None
        record, self._record = self._record, None
        assert task is not None, "a task that ends was handed out"
        folder = str(record.folder) if record is not None else None
        duration_s = self._loop.clock() - self._began
        result = Result(
            task.task,
            task.job,
            task.node,
            task.pipeline,
            status,
            self._began_at,
            time.time(),
            duration_s,
            failure=failure,
            folder=folder,
        )
        if status == "succeed":
            result.take_output(value)
        if record is not None:
            if result.output is not None:
                record.write("output.json", result.output)
            save_spans(folder, spans)
            record.finish(result.outcome())
            result.problems.extend(record.problems)
        self.report.show(result)

    def _progressed(self, task: LocalTask, data: Any) -> None:
        self._output.say(progress_line(task.task, data))

    def _logged(self, lines: list[str]) -> None:
        data = "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")
        self._output.user("stderr", data)
        if self._record is not None:
            self._record.append("stdout", data)

    def _problem(self, text: str) -> None:
        self._output.warn(f"✘ {text}")

    # ---- the end

    def _give_up_stop(self) -> None:
        """End the task without its answer, and ask the client to exit."""
        if self._ending:
            return
        if self._task is not None:
            self._conclude("stopped", None, self._worker.spans())
        self._end()

    def _end(self) -> None:
        """Ask the client to exit, and wait for that."""
        if self._ending:
            return
        self._ending = True
        self._others.shutdown()
        if self._asked.once and self._inputs and not self._stopping:
            self.report.note_status(1)
            self._output.warn(f"✘ the wrapper disconnected before {len(self._inputs)} more inputs were sent")
        if self._worker.connected:
            self._worker.exit(0)
            self._timers.append(self._loop.after(EXIT_S, self._exit_overdue))
        else:
            self._finish()

    def _exit_overdue(self) -> None:
        self._problem(f"the wrapper did not exit within {EXIT_S:g} s of `exit`; HKube would delete its pod")
        self._finish()

    def _finish(self) -> None:
        self._ending = True
        self._others.when_gone(self._loop.stop)


def _failure_of(answer: Answer) -> Failure:
    error = answer.message.get("error")
    told = error if isinstance(error, dict) else {}
    code, details = str(told.get("code") or ""), told.get("details")
    if code not in CODES:
        code = "ALGORITHM_ERROR"  # wrappers have codes of their own
    return Failure(code, answer.error, "" if details is None else str(details))
