"""The other algorithms of a local run, which tasks start through the code API.

    CodeApi -> LocalAlgorithms -> AlgorithmWorker: Session <- LoopbackLink -> Supervisor -> child

An AlgorithmWorker is one process of one algorithm. It runs one task after another under the same supervisor
and the same kind of limits as the run's own algorithm; only the connection between the worker's side and
ours is a LoopbackLink instead of a WebSocket. An idle worker is reused for the next task, as in HKube.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...boards.runs.files import replace_file, to_json
from ...boards.runs.store import Store
from ...sandbox.shared.entry import Location
from ..console.event_sink import EventSink
from ..console.terminal import Output
from ..io.loop import Loop
from ..protocol.result import Result
from ..serving.loopback_link import LoopbackLink
from ..serving.run_context import RunContext
from ..serving.supervisor import Hooks, Supervisor
from ..settings.settings import Settings
from ..worker_stub.catalog import SLOTS, Catalog
from ..worker_stub.session import Session, SessionListener
from ..worker_stub.task import Answer, LocalTask


class LocalAlgorithms:
    """Starts tasks of the algorithms of --algorithm, each task in an AlgorithmWorker."""

    def __init__(
        self,
        loop: Loop,
        output: Output,
        ready: Mapping[str, tuple[Settings, Location]],
        on_problem: Callable[[str], None],
    ) -> None:
        """ready: the settings and the code of each algorithm, by its name."""
        self._loop = loop
        self._output = BackgroundOutput(output)
        self._ready = ready
        self._on_problem = on_problem
        self._free: dict[str, list[AlgorithmWorker]] = {name: [] for name in ready}
        self._all: set[AlgorithmWorker] = set()
        self._on_empty: Callable[[], None] | None = None
        self._closing = False
        #: Called by close().
        self.on_close: Callable[[], None] = lambda: None
        #: What tasks, also those of these algorithms, can start and find.
        self.catalog = Catalog(algorithms=self)

    def __contains__(self, name: object) -> bool:
        return name in self._ready

    def start(
        self, task: LocalTask, on_end: Callable[[Answer], None], *, ends_on_error: bool = False
    ) -> WorkerTask:
        """Run the task in an idle worker of its algorithm, or a new one."""
        free = self._free[task.algorithm]
        worker = free.pop() if free else self._new_worker(task.algorithm)
        return WorkerTask(worker, worker.begin(task, on_end, ends_on_error=ends_on_error))

    def _new_worker(self, name: str) -> AlgorithmWorker:
        settings, where = self._ready[name]
        store = Store(settings.records.state_dir) if settings.records.state_dir is not None else None
        context = RunContext(self._loop, settings, where, self._output, store)
        worker = AlgorithmWorker(context, self.catalog, self._on_problem)
        worker.on_free = lambda: self._freed(name, worker)
        worker.on_gone = lambda: self._gone(name, worker)
        self._all.add(worker)
        return worker

    def _freed(self, name: str, worker: AlgorithmWorker) -> None:
        if self._closing:
            return
        if len(self._free[name]) < SLOTS:
            self._free[name].append(worker)
        else:
            worker.shutdown()

    def _gone(self, name: str, worker: AlgorithmWorker) -> None:
        self._all.discard(worker)
        if worker in self._free[name]:
            self._free[name].remove(worker)
        if not self._all and self._on_empty is not None:
            on_empty, self._on_empty = self._on_empty, None
            on_empty()

    def shutdown(self) -> None:
        """Shut down all workers; the second call kills them."""
        self._closing = True
        for worker in list(self._all):
            worker.shutdown()

    def close(self) -> None:
        """Remove the temporary folders of the algorithms."""
        self.on_close()

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Stop all workers, and call back once none is left."""
        if not self._closing:
            self.shutdown()
        if self._all:
            self._on_empty = callback
        else:
            callback()


class WorkerTask:
    """One task of a worker; the worker may have gone on to another task."""

    def __init__(self, worker: AlgorithmWorker, number: int) -> None:
        self._worker = worker
        self._number = number

    def stop(self) -> None:
        """Stop the task if it still runs."""
        self._worker.stop(self._number)


class AlgorithmWorker:
    """One process of an algorithm, with both sides of its connection."""

    def __init__(self, context: RunContext, catalog: Catalog, on_problem: Callable[[str], None]) -> None:
        self._output = context.output
        self._number = 0
        self._on_end: Callable[[Answer], None] = lambda answer: None
        self._ends_on_error = False
        self._folder: str | None = None
        self.on_free: Callable[[], None] = lambda: None
        self.on_gone: Callable[[], None] = lambda: None
        hooks = Hooks(on_result=self._note_folder, on_finished=self._finished)
        supervisor = Supervisor(context, hooks)
        self._supervisor = supervisor
        self._link = LoopbackLink(context.loop, supervisor)
        shown = context.where.shown
        listener = SessionListener(self._answered, lambda text: on_problem(f"{shown}: {text}"))
        self._session = Session(context.loop, self._link, catalog, listener)
        self._link.on_post = self._session.hear
        supervisor.attach(self._link)

    def begin(self, task: LocalTask, on_end: Callable[[Answer], None], *, ends_on_error: bool) -> int:
        """Start the task; return its number for stop()."""
        self._ends_on_error = ends_on_error
        self._number += 1
        self._on_end = on_end
        self._output.debug(f"▶ {task.task}: {task.algorithm}")
        self._session.begin(task)
        return self._number

    def stop(self, number: int) -> None:
        """Stop the task of that number: the user's stop(), the grace, the kill."""
        if number == self._number:
            self._session.stop(at_once=True)

    def shutdown(self) -> None:
        """Shut down the process; the second call kills it."""
        self._supervisor.shutdown(0)

    def _note_folder(self, result: Result) -> None:
        self._folder = result.folder

    def _answered(self, answer: Answer) -> None:
        save_spans(self._folder, answer.spans)
        self._output.debug(f"  {answer.task.task}: {answer.command}")
        on_end, self._on_end = self._on_end, lambda answer: None
        if self._ends_on_error and answer.command == "errorMessage":
            self.shutdown()
        else:
            self.on_free()
        on_end(answer)

    def _finished(self) -> None:
        self._link.close()
        self._session.close()
        self.on_gone()


class BackgroundOutput(Output):
    """The output of the other algorithms: what they print and what fails; the rest with --verbose only."""

    def __init__(self, output: Output) -> None:
        self._to = output
        self.out, self.err, self.verbose = output.out, output.err, output.verbose
        self.events = EventSink()  # events are those of the run's own algorithm

    def user(self, stream: str, data: bytes) -> None:
        """Pass on bytes that an algorithm has printed, unchanged."""
        self._to.user(stream, data)

    def when_released(self, callback: Callable[[], None]) -> None:
        """Call back once when the algorithms' pipes may be read again."""
        self._to.when_released(callback)

    def say(self, text: str) -> None:
        """Write a line with --verbose only."""
        self._to.debug(text)

    def warn(self, text: str, *, task: str | None = None) -> None:
        """Write a line; the events of the run have no such task."""
        self._to.warn(text)

    def debug(self, text: str) -> None:
        """Write a line with --verbose only."""
        self._to.debug(text)


def save_spans(folder: str | None, spans: Sequence[dict[str, Any]]) -> None:
    """Write the task's spans into its folder, if it has a folder and spans."""
    if folder is not None and spans:
        # The task's record reports a full disk.
        with contextlib.suppress(OSError):
            replace_file(f"{folder}/spans.json", to_json({"spans": spans}))
