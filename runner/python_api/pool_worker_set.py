"""The workers of a Pool: those that get tasks, a spare, those that start, and those that end."""

from __future__ import annotations

import time
from collections.abc import Callable

from ...sandbox.shared.channel import Buffer, Frame
from ...sandbox.shared.message_format import ProcessMessage
from ...sandbox.shared.outcome import Cause
from ...sandbox.shared.supervision_messages import EndWorkers, KillWorker, StartWorker, WatchWorker
from ..io.loop import Loop
from .pool_process import SupervisorProcess
from .pool_task import PoolTask
from .pool_worker import PoolWorker

#: Once a task has taken this long, those that were sent behind it are recalled.
STUCK_S = 0.005
#: A worker that has had no task for this long is measured less often.
IDLE_S = 1.0
#: A worker that has closed its socket, and has not ended after this time, is killed.
BROKEN_S = 1.0
#: After workers that ended without a task, the next one waits this long for each of them in a row.
LOSS_PAUSE_S, LOSS_PAUSE_MAX_S = 0.2, 5.0


class WorkerSet:
    """Has workers started and ended, so that as many are active as were asked for."""

    def __init__(
        self,
        loop: Loop,
        *,
        size: int,
        spare: bool,
        requeue: Callable[[list[PoolTask]], None],
        on_room: Callable[[], None],
        on_frame: Callable[[PoolWorker, Frame], None],
    ) -> None:
        """`requeue`: takes back tasks that a worker has not begun. `on_room`: called when a worker may take
        tasks. `on_frame`: gets the answers."""
        self._loop = loop
        self._size = size
        self._spare = spare
        self._requeue = requeue
        self._on_room = on_room
        self._on_frame = on_frame
        self._process: SupervisorProcess | None = None
        self._workers: dict[int, PoolWorker] = {}  #: those that are not gone
        self._numbers = 0
        self.is_ending = False  #: whether they were told to end
        self.was_loaded = False  #: whether one ever has loaded the code
        self.losses = 0  #: how many in a row have ended without having begun a task
        self._stuck_alarm = loop.alarm(self._recall_stuck)
        self._idle_alarm = loop.alarm(self._rest)
        self._start_alarm = loop.alarm(self._start_after_loss)

    def begin(self, process: SupervisorProcess) -> None:
        """Have this process start the workers. There are none: see lose_process()."""
        self._process = process
        self._start_alarm.cancel()
        for _ in range(self._size):
            self._start()

    def lose_process(self) -> list[PoolTask]:
        """Forget the process, which has ended, and its workers; return the tasks that these had begun."""
        self._process = None
        begun: list[PoolTask] = []
        for worker in self.all():
            worker.drain()
            self._requeue(worker.recall(all=True))
            begun += worker.take_all()
            worker.close()
            self.remove(worker)
        return begun

    def get(self, number: int) -> PoolWorker | None:
        """Return the worker of this number, None if it is gone."""
        return self._workers.get(number)

    def all(self) -> list[PoolWorker]:
        """Return those that are not gone."""
        return list(self._workers.values())

    def active(self) -> list[PoolWorker]:
        """Return those that get tasks."""
        return [one for one in self._workers.values() if one.is_active]

    def end(self, *, now: bool) -> None:
        """Have them end. `now`: those with tasks, too."""
        if now or not self.is_ending:
            self.is_ending = True
            if self._process is not None:
                self._send(EndWorkers(now))

    def recall_all(self) -> None:
        """Requeue every task that was sent and has not begun."""
        for worker in self._workers.values():
            self._requeue(worker.recall(all=True))

    def remove(self, worker: PoolWorker) -> None:
        """Forget a worker that is gone."""
        del self._workers[worker.number]

    # ---- how many there are

    def attach(self, worker: PoolWorker, tasks: int, marks: int, deadlines: int) -> None:
        """Use a worker that has loaded the code; the others are descriptors: see PoolWorker.attach()."""
        worker.attach(tasks, marks, deadlines, self._on_frame, self.on_broken, self._on_room)
        self.was_loaded = True
        self.fill_up()

    def fill_up(self) -> None:
        """Make workers active that are loaded, and start others, as far as some are missing."""
        if self.is_ending or self._process is None:
            return
        usable = [one for one in self._workers.values() if not one.is_leaving]
        missing = self._size - sum(one.is_active for one in usable)
        for worker in usable:
            if missing > 0 and worker.is_loaded and not worker.is_active:
                worker.is_active = True
                missing -= 1
        wanted = self._size + (self._spare and missing <= 0)
        if not self.losses:
            for _ in range(wanted - len(usable)):
                self._start()
        elif len(usable) < wanted and not self._start_alarm.pending:
            self._start_alarm.set(min(LOSS_PAUSE_S * self.losses, LOSS_PAUSE_MAX_S))

    def _start_after_loss(self) -> None:
        """Start one worker; the others follow when a worker has taken up a task again."""
        if self.is_ending or self._process is None:
            return
        if not any(one.is_starting for one in self._workers.values()):
            self._start()

    def _start(self) -> None:
        self._numbers += 1
        self._workers[self._numbers] = PoolWorker(self._loop, self._numbers, self._on_overdue)
        self._send(StartWorker(self._numbers))

    # ---- the end of one

    def retire(self, worker: PoolWorker) -> None:
        """Have another worker take the place of this one, which ends; nothing more is sent to it."""
        if not worker.is_leaving:
            worker.is_leaving, worker.is_active = True, False
            self._requeue(worker.recall(all=True))
            self.fill_up()

    def on_broken(self, worker: PoolWorker, what: str) -> None:
        """The worker has closed its socket, or has sent what is no answer.

        Usually it has died, as the supervising process will report: only the task that it had begun waits for
        that report.
        """
        if not worker.is_leaving:
            worker.deny_first()
            self._loop.after(BROKEN_S, lambda: self._kill(worker, Cause.CHANNEL_BROKEN, what))
            self.retire(worker)

    def _on_overdue(self, worker: PoolWorker) -> None:
        """End the worker: its task takes longer than its timeout."""
        if not worker.is_past_first() or not worker.reads_answer_of_first():
            self._requeue(worker.recall())
            worker.deny_first()
            if worker.has_begun_first():
                self._kill(worker, Cause.TASK_TIMEOUT, f"{worker.sent[0].task.timeout_s:.12g} s")
            else:
                self._kill(worker, Cause.CHANNEL_BROKEN, "it did not begin the next task")
            self.retire(worker)
        self._on_room()

    def _kill(self, worker: PoolWorker, cause: Cause, detail: str) -> None:
        if worker.number in self._workers and self._process is not None:
            self._send(KillWorker(worker.number, cause.value, detail))

    # ---- their tasks

    def send(
        self, worker: PoolWorker, tasks: list[tuple[PoolTask, list[Buffer]]]
    ) -> list[tuple[PoolTask, OSError]]:
        """Send the worker these tasks; return those that failed, as PoolWorker.send() does."""
        # It is watched before: the user's code may take the interpreter's lock for long when the worker has
        # the tasks, and nothing would end one that takes too long.
        if not worker.is_watched:
            worker.is_watched = True
            self._send(WatchWorker(worker.number, idle=False))
        if len(worker.sent) + len(tasks) > 1 and not self._stuck_alarm.pending:
            self._stuck_alarm.set(STUCK_S)
        return worker.send(tasks)

    def note_answered(self, worker: PoolWorker) -> None:
        """Note that the worker has answered a task."""
        if self.losses:
            self.losses = 0
            self.fill_up()
        if not worker.sent:
            self._idle_alarm.set(IDLE_S)

    def _recall_stuck(self) -> None:
        """Give the tasks behind one that takes long to other workers."""
        due = time.monotonic() - STUCK_S
        for worker in self.all():
            if len(worker.sent) > 1:
                self._stuck_alarm.set(STUCK_S)
                if worker.progressed_at <= due:
                    if not worker.is_past_first():
                        self._requeue(worker.recall())
                    elif not worker.reads_answer_of_first():
                        self.on_broken(worker, "it has begun a task before it answered the one before")
        self._on_room()

    def _rest(self) -> None:
        """Have the wardens of workers without a task measure less often."""
        due = time.monotonic() - IDLE_S
        for worker in self._workers.values():
            if worker.is_watched and not worker.sent and worker.progressed_at <= due:
                worker.is_watched = False
                self._send(WatchWorker(worker.number, idle=True))

    def _send(self, message: ProcessMessage) -> None:
        assert self._process is not None, "begin() comes first, and again after lose_process()"
        self._process.send(message)
