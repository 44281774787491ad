"""The other algorithms of a local run: each task in a sandbox of its own, served as any task is.

    Calls.start -> Algorithms -> Station: Session <-in this process-> Supervisor -> child

A station is one process of one algorithm. It serves one task after the other, by the same supervisor, the
same limits, the same words as the algorithm of the run itself; only the wire between the worker's side and
ours is a few lines instead of a WebSocket. Stations that are free are kept for the next task, as HKube keeps
its workers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from ...boards.runs.files import replace_file, to_json
from ...boards.runs.store import Store
from ...sandbox.shared.channel import INLINE_MAX
from ...sandbox.shared.entry import Location
from ..console.event_sink import EventSink
from ..console.terminal import Output
from ..io.loop import Loop
from ..link.connection import Blob, Message
from ..protocol.result import Result
from ..serving.active_task import BlobSource
from ..serving.supervisor import Hooks, Supervisor
from ..settings.settings import Settings
from ..worker_stub.code_api import AT_A_TIME, Offer
from ..worker_stub.session import Ears, Session
from ..worker_stub.task import Answer, LocalTask


class Algorithms:
    """Hands tasks to stations; made with the code of each algorithm by its name."""

    def __init__(
        self,
        loop: Loop,
        output: Output,
        ready: Mapping[str, tuple[Settings, Location]],
        on_problem: Callable[[str], None],
    ) -> None:
        """`ready`: of each algorithm what it runs with, and where its code lies."""
        self._loop = loop
        self._output = Aside(output)
        self._ready = ready
        self._on_problem = on_problem
        self._free: dict[str, list[Station]] = {name: [] for name in ready}
        self._all: set[Station] = set()
        self._on_empty: Callable[[], None] | None = None
        self._closing = False
        #: Called when nothing of them is needed any more.
        self.on_close: Callable[[], None] = lambda: None
        #: What the tasks of these algorithms may ask for in their turn.
        self.offer = Offer(algorithms=self)

    def __contains__(self, name: object) -> bool:
        return name in self._ready

    def start(self, task: LocalTask, on_end: Callable[[Answer], None], *, ends_on_error: bool = False) -> Run:
        """Hand the task to a free station of its algorithm, or a new one."""
        free = self._free[task.algorithm]
        station = free.pop() if free else self._new_station(task.algorithm)
        return Run(station, station.begin(task, on_end, ends_on_error=ends_on_error))

    def _new_station(self, name: str) -> Station:
        settings, where = self._ready[name]
        store = Store(settings.state_dir) if settings.state_dir is not None else None
        station = Station(self._loop, settings, where, self._output, store, self.offer, self._on_problem)
        station.on_free = lambda: self._freed(name, station)
        station.on_gone = lambda: self._gone(name, station)
        self._all.add(station)
        return station

    def _freed(self, name: str, station: Station) -> None:
        if self._closing:
            return
        if len(self._free[name]) < AT_A_TIME:
            self._free[name].append(station)
        else:
            station.shutdown()

    def _gone(self, name: str, station: Station) -> None:
        self._all.discard(station)
        if station in self._free[name]:
            self._free[name].remove(station)
        if not self._all and self._on_empty is not None:
            on_empty, self._on_empty = self._on_empty, None
            on_empty()

    def shutdown(self) -> None:
        """End all of them in order; the second call kills."""
        self._closing = True
        for station in list(self._all):
            station.shutdown()

    def close(self) -> None:
        """What was unpacked for them is removed."""
        self.on_close()

    def when_gone(self, callback: Callable[[], None]) -> None:
        """End what there is, and call back when nothing is left."""
        if not self._closing:
            self.shutdown()
        if self._all:
            self._on_empty = callback
        else:
            callback()


class Run:
    """One task at a station; the station may have gone on to another one."""

    def __init__(self, station: Station, number: int) -> None:
        self._station = station
        self._number = number

    def stop(self) -> None:
        """Have it stopped, if it still runs."""
        self._station.stop(self._number)


class Station:
    """One process of an algorithm, with the worker's side and ours of its connection."""

    def __init__(
        self,
        loop: Loop,
        settings: Settings,
        where: Location,
        output: Output,
        store: Store | None,
        offer: Offer,
        on_problem: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._output = output
        self._number = 0
        self._on_end: Callable[[Answer], None] = lambda answer: None
        self._ends_on_error = False
        self._folder: str | None = None
        self.on_free: Callable[[], None] = lambda: None
        self.on_gone: Callable[[], None] = lambda: None
        hooks = Hooks(on_result=self._keep, on_finished=self._finished)
        supervisor = Supervisor(loop, settings, where, output, store, hooks)
        self._supervisor = supervisor
        self._line = InProcess(loop, supervisor)
        ears = Ears(self._answered, lambda text: on_problem(f"{where.shown}: {text}"))
        self._session = Session(loop, self._line, offer, ears)
        self._line.on_post = self._session.hear
        supervisor.attach(self._line)

    def begin(self, task: LocalTask, on_end: Callable[[Answer], None], *, ends_on_error: bool) -> int:
        """Hand the task out; returns what stop() knows it by."""
        self._ends_on_error = ends_on_error
        self._number += 1
        self._on_end = on_end
        self._output.debug(f"▶ {task.task}: {task.algorithm}")
        self._session.begin(task)
        return self._number

    def stop(self, number: int) -> None:
        """Have that task stopped: the user's stop(), the grace, the kill."""
        if number == self._number:
            self._session.stop(at_once=True)

    def shutdown(self) -> None:
        """End the process in order; the second call kills."""
        self._supervisor.shutdown(0)

    def _keep(self, result: Result) -> None:
        self._folder = result.folder

    def _answered(self, answer: Answer) -> None:
        keep_spans(self._folder, answer.spans)
        self._output.debug(f"  {answer.task.task}: {answer.command}")
        on_end, self._on_end = self._on_end, lambda answer: None
        if self._ends_on_error and answer.command == "errorMessage":
            self.shutdown()
        else:
            self.on_free()
        on_end(answer)

    def _finished(self) -> None:
        self._line.close()
        self._session.close()
        self.on_gone()


class InProcess:
    """The wire between a session and a supervisor of this process, in order, never at once."""

    encoding = "json"
    url = "this process"

    def __init__(self, loop: Loop, supervisor: Supervisor) -> None:
        self._loop = loop
        self._supervisor = supervisor
        self._closed = False
        self.on_relieved: Callable[[], None] | None = None
        self.on_post: Callable[[bytes], None] = lambda data: None

    def send(self, data: bytes) -> None:
        """The worker's side says something."""
        self._loop.after(
            0, lambda: None if self._closed else self._supervisor.on_link_message(_message(data))
        )

    def post(
        self, data: bytes, source: BlobSource | None = None, *, final: bool = False, soon: bool = False
    ) -> bool:
        """Our side says something; nothing waits here."""
        if source is not None:
            data = source.read(0, source.size)
            source.close()
        self._loop.after(0, lambda: None if self._closed else self.on_post(data))
        return False

    @property
    def is_open(self) -> bool:
        """It is not closed."""
        return not self._closed

    @property
    def congested(self) -> bool:
        """Nothing waits here."""
        return False

    def clear(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """What was said and not heard yet, is not heard any more."""
        self._closed = True


class Aside(Output):
    """The output for what runs beside the algorithm of the run: what it prints, and what goes wrong."""

    def __init__(self, output: Output) -> None:
        self._to = output
        self.out, self.err, self.verbose = output.out, output.err, output.verbose
        self.events = EventSink()  # events are those of the run's own algorithm

    def user(self, stream: str, data: bytes) -> None:
        """Bytes an algorithm has printed, as they are."""
        self._to.user(stream, data)

    def say(self, text: str) -> None:
        """A line for --verbose."""
        self._to.debug(text)

    def warn(self, text: str) -> None:
        """A line that is needed."""
        self._to.warn(text)

    def debug(self, text: str) -> None:
        """A line for --verbose."""
        self._to.debug(text)


def keep_spans(folder: str | None, spans: list[dict[str, Any]]) -> None:
    """Put the task's spans into its folder, if it has any."""
    if folder is not None and spans:
        # A disk that is full has been told of by the record itself.
        with contextlib.suppress(OSError):
            replace_file(f"{folder}/spans.json", to_json({"spans": spans}))


def _message(data: bytes) -> Message:
    if len(data) <= INLINE_MAX:
        return Message(data)
    blob = Blob(len(data))
    blob.map[:] = data
    blob.size = len(data)
    return Message(b"", blob)
