"""The process between an hkrunner.Pool and its workers: starts them, enforces time limits, reports each end.

    user's process                this process                    warden         worker
    Pool <- supervision_messages -> PoolSupervisor <--- lifeline ---> enforces ---> serves tasks
      ^                                                                             ^
      +----------------- tasks and results, over the worker's own socket -----------+

It never sees a task: once a worker has loaded the code, its task socket is passed to the user's process. So
tasks take no detour, and a user's process that is busy or stopped does not delay a limit.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from ...sandbox.parent import warden_launch
from ...sandbox.parent.child_handle import Child
from ...sandbox.parent.pooled_child import PooledChild
from ...sandbox.shared.datagrams import DATAGRAM_MAX, cut
from ...sandbox.shared.entry import Location
from ...sandbox.shared.message_format import Memfd, ProcessMessage
from ...sandbox.shared.messages import Loaded, LoadFailed, Problem, Sample
from ...sandbox.shared.outcome import Cause, Exit, not_started, report
from ...sandbox.shared.pool_messages import UseFunction
from ...sandbox.shared.supervision_messages import (
    AskWorkerUsage,
    EndWorkers,
    KillWorker,
    StartWorker,
    WatchWorker,
    WorkerEnded,
    WorkerLoaded,
    WorkerUsage,
)
from ..console.process_output import ProcessOutput
from ..console.terminal import Output
from ..io.loop import Loop
from ..io.message_socket import MessageSocket
from ..serving.child_starter import ChildStarter
from ..settings.settings import Settings
from .pool_deadlines import PoolDeadlines

#: How often time limits are checked here, and how long after a limit a worker is ended from here: the Pool
#: itself does so to the millisecond, unless C code in the user's process holds the interpreter lock.
CHECK_S, LATE_S = 0.1, 0.1
#: Time from taking a warden to starting the next one: a worker that starts needs the CPU more.
NEXT_WARDEN_S = 0.2
#: Memory that was refused up to this long after the Pool was told of the usage belongs to the failed task.
TOLD_S = 0.5
#: Bytes of each of the three texts in a WorkerEnded.
TEXT_MAX = DATAGRAM_MAX * 3 // 10


class PoolSupervisor:
    """Starts and ends workers as the Pool asks."""

    def __init__(
        self, loop: Loop, settings: Settings, where: Location, output: Output, function: Memfd | None
    ) -> None:
        """`function`: the pickled function of the Pool; None: the workers run the code at `where`."""
        self._loop = loop
        self._settings = settings
        self._output = output
        self._said: set[str] = set()  #: what was announced once for all workers
        self._function = function
        self._starter = ChildStarter(loop, settings, where, {})
        self._workers: dict[int, _Worker] = {}
        self._is_ending = False
        self._is_ended_now = False  #: whether running tasks were asked to end
        self._next_warden = loop.alarm(self._prepare_warden)
        self._next_check = loop.alarm(self._end_overdue)
        self.channel: MessageSocket | None = None  #: to the Pool

    # ---- messages of the Pool

    def on_message(self, message: ProcessMessage, fds: list[int]) -> None:
        """Act on a message of the Pool."""
        if isinstance(message, EndWorkers):
            self.end(now=message.now)
        elif isinstance(message, StartWorker):
            if not self._is_ending:
                self._start(message.worker)
        elif isinstance(message, (WatchWorker, KillWorker, AskWorkerUsage)):
            worker = self._workers.get(message.worker)
            if worker is not None and worker.child is not None:
                self._do_with(worker, worker.child, message)
            elif isinstance(message, AskWorkerUsage):
                self.send_usage(message.number, None)

    def _do_with(
        self, worker: _Worker, child: PooledChild, message: WatchWorker | KillWorker | AskWorkerUsage
    ) -> None:
        if isinstance(message, KillWorker):
            child.kill(Cause(message.cause), message.detail)
        elif isinstance(message, AskWorkerUsage):
            worker.ask_usage(message.number)
        else:
            child.watch(idle=message.idle)
            worker.has_tasks = not message.idle
            if worker.has_tasks and not self._next_check.pending:
                self._next_check.set(CHECK_S)

    def end(self, *, now: bool) -> None:
        """End all workers, then the loop.

        `now`: end running tasks, too: those of a function at once, others after the grace. The second time
        everything is killed.
        """
        is_repeated, self._is_ended_now = self._is_ended_now and now, self._is_ended_now or now
        self._is_ending = True
        self._next_warden.cancel()
        for worker in list(self._workers.values()):
            if worker.child is not None:
                # A function has no stop() that could be called.
                self._end_worker(worker.child, kill=is_repeated or (now and self._function is not None))
        self._stop_if_done()

    def _end_worker(self, child: PooledChild, *, kill: bool) -> None:
        if kill:
            child.kill(Cause.STOPPED)
            return
        child.exit({"exitCode": 0})
        self._loop.after(self._settings.serving.grace_s, lambda: child.kill(Cause.STOPPED))

    # ---- the workers

    def _start(self, number: int) -> None:
        worker = _Worker(number, self, ProcessOutput(self._output, self._said))
        self._workers[number] = worker
        try:
            worker.child = self._starter.start_as(PooledChild, worker, is_pooled=True)
        except OSError as error:
            self.worker_ended(worker, not_started(error))
            return
        if self._function is not None:
            worker.child.send(0, UseFunction(self._function))
        self._next_warden.set(NEXT_WARDEN_S)

    def _prepare_warden(self) -> None:
        """Start a warden in advance for the worker that replaces one of these: it saves 30 ms."""
        if not self._is_ending:
            warden_launch.prepare()

    def _end_overdue(self) -> None:
        """End the workers whose task takes longer than its time limit."""
        watched = [one for one in self._workers.values() if one.has_tasks and one.child is not None]
        if watched:
            self._next_check.set(CHECK_S)
        for worker in watched:
            assert worker.child is not None, "it is watched"
            overdue = worker.find_overdue()
            # Only what two checks find: the numbers may have been half written at the first.
            if overdue is not None and worker.overdue == overdue:
                worker.child.kill(Cause.TASK_TIMEOUT, f"{overdue.limit_s:.12g} s")
            worker.overdue = overdue

    def worker_loaded(self, number: int, child: PooledChild) -> None:
        """Pass the worker on to the Pool."""
        assert self.channel is not None, "it is set before the loop runs"
        file = PoolDeadlines.new_file()
        self._workers[number].deadlines = PoolDeadlines(file)
        self.channel.send(WorkerLoaded(number), (*child.hand_over(), file))
        os.close(file)

    def send_usage(self, number: int, sample: Sample | None) -> None:
        """Answer a question of the Pool; None: the worker is gone."""
        assert self.channel is not None, "it is set before the loop runs"
        if sample is None:
            self.channel.send(WorkerUsage(number))
        else:
            self.channel.send(WorkerUsage(number, sample.memory_bytes, sample.held_back))

    def worker_ended(self, worker: _Worker, exit: Exit) -> None:
        """Tell the Pool how the worker has ended."""
        assert self.channel is not None, "it is set before the loop runs"
        for number in worker.take_questions():
            self.send_usage(number, None)
        del self._workers[worker.number]
        if worker.deadlines is not None:
            worker.deadlines.close()
        self._warn_of_refused_memory(worker, exit)
        code, message, details = exit.error_code, report(exit), exit.stack
        if not exit.loaded:
            message = report(exit, during="during import")
            if worker.load_failure is not None and exit.cause is Cause.EXITED:
                failed = worker.load_failure
                code, message, details = failed.code, failed.message, failed.details
        self.channel.send(
            WorkerEnded(
                worker.number,
                loaded=exit.loaded,
                code=code,
                message=cut(message, TEXT_MAX),
                details=cut(details, TEXT_MAX),
                without_task=cut(
                    report(exit, during="between two tasks") if exit.loaded else message, TEXT_MAX
                ),
                stopped=exit.cause is Cause.STOPPED,
                peak_bytes=exit.peak_bytes or None,
                limit_bytes=exit.limit_bytes,
            )
        )
        self._stop_if_done()

    def _warn_of_refused_memory(self, worker: _Worker, exit: Exit) -> None:
        """Warn if a worker ends in order though a task of it may have been refused memory without failing.

        What was reported with a failed task is not repeated.
        """
        held, limit = exit.held_back, exit.limit_bytes
        is_in_order = exit.cause is Cause.STOPPED or (exit.cause is Cause.EXITED and exit.code == 0)
        if held is not None and limit is not None and is_in_order and held.at > worker.told_at + TOLD_S:
            from ..serving.memory_advice import refused_all_the_same  # late: most workers end without it

            self._output.warn(f"● in the Pool, {refused_all_the_same(held, self._settings.limits, limit)}")

    def _stop_if_done(self) -> None:
        if self._is_ending and not self._workers:
            self._loop.stop()


class _Overdue(NamedTuple):
    """A time limit that is exceeded."""

    at: float  #: when the task began, or should have ended
    limit_s: float


class _Worker:
    """One worker, as the listener of its child."""

    def __init__(self, number: int, supervisor: PoolSupervisor, output: Output) -> None:
        self.number = number
        self.child: PooledChild | None = None
        self.load_failure: LoadFailed | None = None
        self.has_tasks = False
        self.deadlines: PoolDeadlines | None = None  #: once it has loaded the code
        self.overdue: _Overdue | None = None  #: what find_overdue() has found last
        self.told_at = 0.0  #: when the Pool was last told of its usage
        #: Numbers of questions of the Pool: those that the next sample answers, and those that came later.
        self._asked: list[int] = []
        self._asked_later: list[int] = []
        self._supervisor = supervisor
        self._output = output

    def find_overdue(self) -> _Overdue | None:
        """Return which time limit the worker exceeds, if any: that of the task which it says to run, or,
        whatever it says, those of all tasks that were sent to it together."""
        if self.child is None or self.deadlines is None:
            return None
        latest = time.monotonic() - LATE_S
        due, first_s = self.deadlines.due()
        if due and due < latest:
            return _Overdue(due, first_s)
        task, began = self.child.running()
        limit_s = self.deadlines.limit_of(task)
        return _Overdue(began, limit_s) if began and limit_s and began + limit_s < latest else None

    def ask_usage(self, number: int) -> None:
        """Ask the warden for the usage of now, one question at a time: many failures do not keep it busy."""
        assert self.child is not None, "the caller has its child"
        if self._asked:
            self._asked_later.append(number)
        else:
            self._asked = [number]
            self.child.ask(number)

    def take_questions(self) -> list[int]:
        """Return the questions that were not answered, and forget them."""
        found = self._asked + self._asked_later
        self._asked, self._asked_later = [], []
        return found

    def on_message(self, child: Child, task: int, message: ProcessMessage) -> None:
        """Pass a worker on that has loaded the code; remember why it could not."""
        if isinstance(message, Loaded):
            assert isinstance(child, PooledChild), "it was started as one"
            self._supervisor.worker_loaded(self.number, child)
        elif isinstance(message, LoadFailed):
            self.load_failure = message
        elif isinstance(message, Problem):
            self._output.warn(f"✘ {message.text}")
        else:
            wire = getattr(message, "wire", None)
            if isinstance(wire, Memfd):
                os.close(wire.fd)

    def on_output(self, child: Child, stream: str, data: bytes) -> None:
        """Pass on what the worker prints, unless the reader is slow: then it stays in the pipes."""
        self._output.user(stream, data)
        if self._output.holding:
            child.hold_output(True)
            self._output.when_released(lambda: child.hold_output(False))

    def on_sample(self, child: Child, sample: Sample) -> None:
        """Answer the Pool's questions that came before this sample was asked for."""
        if not self._asked or sample.answers != self._asked[0]:
            return
        for number in self._asked:
            self._supervisor.send_usage(number, sample)
        self.told_at = time.monotonic()
        self._asked, self._asked_later = self._asked_later, []
        if self._asked:
            child.ask(self._asked[0])

    def on_ending(self, child: Child) -> None:
        """Ignore it: the next warden is ready."""

    def on_exit(self, child: Child, exit: Exit) -> None:
        """Report its end."""
        self._output.end_lines()
        self._supervisor.worker_ended(self, exit)
