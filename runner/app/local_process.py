"""One process of the algorithm in a local run, with both sides of its connection.

    LocalRun -> LocalProcess: LocalWorker <-ws-> Supervisor -> child

A run with --parallel has several, each with its own child, embedded worker and ALGO_METRICS_DIR, so a crash
or a limit in one of them does not affect the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..console.task_report import ProgressLog
from ..link import connect
from ..protocol.messages import Failure
from ..protocol.result import Result
from ..serving.child_pool import ChildPool
from ..serving.run_context import RunContext
from ..serving.supervisor import Hooks, Supervisor
from ..settings.worker_url import worker_url
from ..worker_stub.catalog import Catalog
from ..worker_stub.server import Answer, LocalTask, LocalWorker
from .other_algorithms import save_spans


@dataclass
class LocalProcessListener:
    """Callbacks for what a process does."""

    on_loaded: Callable[[LocalProcess], None]  #: it takes tasks from now on
    on_load_failed: Callable[[LocalProcess, Failure], None]
    on_result: Callable[[LocalProcess, Result], None]  #: of its task
    on_free: Callable[[LocalProcess], None]  #: its task has ended, and it takes the next one
    on_progress: Callable[[LocalProcess, LocalTask, Any], None]
    on_finished: Callable[[LocalProcess], None]  #: it has ended, and nothing of it is left


class LocalProcess:
    """Runs one task after another in a child of its own."""

    def __init__(
        self,
        context: RunContext,
        catalog: Catalog,
        listener: LocalProcessListener,
        pool: ChildPool | None = None,
    ) -> None:
        """pool: holds the algorithm's process, if that was started already."""
        self.output = context.output
        self.store = context.store
        self.progress_log = ProgressLog(context.output.say, context.loop.clock)
        self.position = 0  #: of the input of its task
        self._encoding = context.settings.serving.encoding
        self._listener = listener
        self._result: Result | None = None
        self._is_loaded = False
        hooks = Hooks(
            on_result=self._ended,
            on_loaded=self._loaded,
            on_load_failed=self._load_failed,
            on_finished=self._finished,
        )
        pool = pool or context.child_pool()
        #: Returns the pid of the algorithm's process; 0 when there is none.
        self.child_pid = pool.child_pid
        self.supervisor = Supervisor(context, hooks, pool)
        self._worker = LocalWorker(
            context.loop,
            on_answer=self._answered,
            on_problem=self._problem,
            on_progress=lambda task, data: listener.on_progress(self, task, data),
            catalog=catalog,
        )

    def begin(self) -> None:
        """Start the child."""
        self._port = self._worker.listen()
        self.supervisor.preload()
        connect.preload()  # while the child starts there is nothing else to do

    def begin_task(self, task: LocalTask, position: int) -> None:
        """Start the task; the process must be free. `position`: of its input."""
        self.position = position
        self.progress_log.begin()
        self._worker.submit(task)

    def end(self) -> None:
        """End in order: there are no more tasks."""
        if self._worker.connected:
            self._worker.exit(0)
            return
        self.supervisor.shutdown(0)  # there was no task
        if not self._is_loaded:
            self.supervisor.shutdown(0)  # what it loads has no use any more

    def close(self) -> None:
        """Close the worker."""
        self._worker.close()

    def _loaded(self) -> None:
        if not self._is_loaded:
            self._is_loaded = True
            self.supervisor.connect(worker_url(f"ws://127.0.0.1:{self._port}", {}, self._encoding))
            self._listener.on_loaded(self)

    def _load_failed(self, failure: Failure) -> None:
        if not self._is_loaded:  # else it is a later child: its task is answered with the failure
            self._listener.on_load_failed(self, failure)

    def _ended(self, result: Result) -> None:
        self._result = result
        if self.supervisor.ending:
            # The worker gets no answer any more, so _answered() will not be called for this task.
            save_spans(result.folder, self._worker.spans())
            self._pass_on(result)

    def _answered(self, answer: Answer) -> None:
        result = self._result
        if result is not None and result.task == answer.task.task:
            save_spans(result.folder, answer.spans)
            if result.output is None and result.status == "succeed":
                # Another encoding: the JSON text is made of what the worker has decoded.
                result.take_output(answer.message.get("data"))
            self._pass_on(result)
            self._listener.on_free(self)

    def _pass_on(self, result: Result) -> None:
        self._result = None
        self._listener.on_result(self, result)

    def _problem(self, text: str) -> None:
        if not self.supervisor.ending:
            self.output.warn(f"✘ local worker: {text}")

    def _finished(self) -> None:
        self._listener.on_finished(self)
