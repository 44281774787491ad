"""Hands a task to its child in one of four ways, and begins to measure it once the child has it.

The child has to read the task, its folders have to be made, init() has to run, and the worker waits for
`initialized` and then says `start`. Each way below saves a round trip or a wake-up against the one before,
and needs more to be known of the task and the child.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import Enum
from typing import Any

from ...boards.runs.journal_values import VALUE_MAX
from ...sandbox.parent.child_handle import Child
from ...sandbox.shared.message_format import Memfd, ProcessMessage
from ...sandbox.shared.messages import Begin, BeginAndStart, Initialize, Start, UseFolder
from ...sandbox.shared.outcome import Cause, Exit
from ..io.loop import Loop
from ..link.connection import WorkerMessage
from ..protocol import encoding
from ..protocol.task_state import Event, State
from ..settings.settings import Settings
from .active_task import ActiveTask
from .child_pool import ChildPool
from .gpu_sampler import GpuSampler
from .task_control import TaskControl
from .task_opener import TaskOpener
from .task_usage import WATCH_S, TaskUsage

#: Causes of the end of a child that nothing here has decided.
BY_ITSELF = (Cause.EXITED, Cause.SIGNALLED, Cause.CHANNEL_BROKEN, Cause.WARDEN_LOST)
#: The beginning of the record of a task that has not ended by then is on disk; a shorter one has one write.
RECORD_S = 0.005
#: Time after the first message of this kind, after which the parent prepares to read names in them.
PREPARE_AFTER_S = 0.05
_VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
_START = Start()  # the same for every task


class Handover(Enum):
    """The way in which a task is handed to its child."""

    CHILD_NAMES_IT = "Initialize: the child reads the task and reports its names, then gets its folders"
    NAMED_AHEAD = "Begin: the names are found here, so the task goes with its folders; init() is awaited"
    AT_ONCE = "Begin, and `initialized` is posted before it is sent: there is no init() to wait for"
    WITH_START = "as AT_ONCE, but it waits for `start`: the child is woken once, by BeginAndStart"


def choose(*, is_named: bool, needs_no_init: bool, waits_for_start: bool) -> Handover:
    """Return the quickest way there is.

    is_named: the names were found in the message, and the child has loaded its code.
    needs_no_init: the child's code has no init(), and as far as one can tell the child waits for a task.
    waits_for_start: the child could not read Begin before Start is sent.
    """
    if not is_named:
        return Handover.CHILD_NAMES_IT
    if not needs_no_init:
        return Handover.NAMED_AHEAD
    return Handover.WITH_START if waits_for_start else Handover.AT_ONCE


class TaskHandover:
    """Hands the current task to the serving child, and to a second one if the first dies too early."""

    def __init__(
        self,
        loop: Loop,
        settings: Settings,
        control: TaskControl,
        pool: ChildPool,
        opener: TaskOpener,
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._control = control
        self._pool = pool
        self._opener = opener
        visible = settings.code.variables.get(_VISIBLE_GPUS, os.environ.get(_VISIBLE_GPUS))
        self._gpus = GpuSampler(visible)
        kept_bytes = settings.records.keep_values_bytes
        #: Whether each value that is kept has its place in the journal, if the task's record is there.
        self._keeps_no_large_values = kept_bytes is not None and kept_bytes <= VALUE_MAX
        self._usage_alarm = loop.alarm(self._watch_usage)
        self._record_alarm = loop.alarm(self._flush_record)
        #: A child, and ALGO_METRICS_DIR as it has it.
        self._told_metrics: tuple[Child | None, str] = (None, "")
        # Of the current task:
        self._way = Handover.CHILD_NAMES_IT
        self._children = 0  #: how many it was handed to
        self._kept_begin: tuple[ProcessMessage, ...] = ()  #: goes to the child with Start

    def begin(self, message: WorkerMessage) -> None:
        """Make the task of this initialize, and hand it to the serving child."""
        control, limits = self._control, self._settings.limits
        control.number += 1
        control.task = ActiveTask(
            control.number,
            self._loop.clock(),
            message,
            limit_bytes=limits.memory_bytes if limits.enforced else None,
            keep_bytes=self._settings.records.keep_values_bytes,
            gpus=self._gpus,
        )
        self._children = 0
        if self._settings.serving.storage is None:
            self.hand_over()
        else:
            self._pool.ready()  # a new child loads the code meanwhile
            control.step(Event.MUST_FETCH)

    def hand_over(self) -> None:
        """Hand the current task to the serving child, which is started if there is none."""
        control, task = self._control, self._control.task
        assert task is not None and task.message is not None, "a task is handed over before a child has begun"
        message, child = task.message, self._pool.ready()
        if isinstance(child, Exit):
            exit = child
            self._loop.after(0, lambda: self._not_started(task, exit))
            return
        self._children += 1
        self._kept_begin = ()
        self._pool.task_begins()
        is_named = False
        names: Mapping[str, str | None] | None = task.names
        if child.loaded and not child.reads_at_once and (names is not None or self._can_name(message)):
            if task.ids is None and names is None:
                names = self._opener.names_ahead(task)
            is_named = task.ids is not None or names is not None
        if is_named and self._opener.is_awaited:
            self._opener.open(task, names, child.protection, begins_later=True)
        way = self._way = choose(
            is_named=is_named,
            needs_no_init=is_named and not child.has_init and child.may_kill and child.is_quiet,
            # With one core the child cannot read Begin before `start` is here.
            waits_for_start=self._loop.one_core or control.state in (State.STARTING, State.RESTARTING),
        )
        match way:
            case Handover.AT_ONCE:
                control.step(Event.CHILD_INITIALIZED)
                self._opener.open(task, names, child.protection, begins_later=True)
                child.send(task.number, *self._begin(task, message, is_announced=True))
                self._record_later(task)
                self._measure(task, child)
            case Handover.WITH_START:
                # Without `start`, the worker is told first: it works on that while the rest is done here.
                waits = control.state is State.INITIALIZING
                if waits:
                    control.step(Event.CHILD_INITIALIZED)
                self._opener.open(task, names, child.protection, begins_later=True)
                self._kept_begin = self._begin(task, message, is_announced=True, kind=BeginAndStart)
                if not waits:
                    control.step(Event.CHILD_INITIALIZED)
                else:
                    task.begin_record()  # the worker says `start` while we wait for it, not before
                self._record_later(task)
                self._measure(task, child)
            case Handover.NAMED_AHEAD:
                self._opener.open(task, names, child.protection, begins_later=True)
                child.send(task.number, *self._begin(task, message, is_announced=False))
                task.begin_record()  # while the child reads its task
                self._record_later(task)
            case Handover.CHILD_NAMES_IT:
                child.send(task.number, _initialize(message))
                if not child.reads_at_once:
                    return
        # The child is ready in a moment, or the worker says `start`.
        self._loop.expect("ready")

    def _record_later(self, task: ActiveTask) -> None:
        """Have the beginning of the record on disk after RECORD_S. It is made once Start is sent, if not
        before: the child works meanwhile."""
        if task.record is not None:
            self._record_alarm.set(RECORD_S)

    def _flush_record(self) -> None:
        if self._control.task is not None:
            self._control.task.flush_record()

    def _can_name(self, message: WorkerMessage) -> bool:
        """Whether the names of a task are found here: quicker than by the child, but for a large message."""
        wire_encoding = self._settings.serving.encoding
        if message.size > encoding.NAMES_MAX:
            return False
        if encoding.finds_names_at_once(wire_encoding, message.size):
            return True
        # In a pause: no task shall wait for an import.
        self._loop.after(PREPARE_AFTER_S, lambda: encoding.prepare_for_larger(wire_encoding))
        return False

    def _not_started(self, task: ActiveTask, exit: Exit) -> None:
        """The system had no process for this task's child."""
        if task is self._control.task:
            task.exit = exit
            self._control.step(Event.CHILD_GONE)

    def _begin(
        self, task: ActiveTask, message: WorkerMessage, *, is_announced: bool, kind: type[Begin] = Begin
    ) -> tuple[ProcessMessage, ...]:
        """Return what the child needs to begin. Begin has no room for a memfd: it is two messages then."""
        if task.record is None and message.blob is None:
            return (kind(message.data, is_announced),)
        place = self._folders(task)
        if message.blob is not None:
            return _initialize(message), UseFolder(is_announced=is_announced, **place)
        return (kind(message.data, is_announced, **place),)

    def _folders(self, task: ActiveTask) -> dict[str, Any]:
        """Return UseFolder's fields: where the child finds the task's folders, and what it keeps there."""
        record = task.record
        if record is None:
            return {}
        child, link = self._pool.child, record.metrics.link
        place: dict[str, Any] = {}
        if self._settings.local_run.is_local:
            place["env"] = record.environment
        elif self._told_metrics != (child, link):
            # Only what stays the same: glibc keeps every value that a variable ever had, 130 bytes a task for
            # ever (measured). And a message without fields is read in no time.
            self._told_metrics = child, link
            place["env"] = {"ALGO_METRICS_DIR": link}
        if record.takes_values and self._keeps_no_large_values:
            return place
        task.begin_record()  # from then on its folder has a name
        folder = record.folder_text if record.has_folder or record.takes_values else None
        if folder is not None and child is not None and child.records_folder is not None:
            # An isolated child cannot reach the records: at the end its files are moved there.
            folder = task.files_from = child.records_folder
        if record.takes_values:
            place["recorded_bytes"] = VALUE_MAX
        return {**place, "folder": folder, "keep_max_bytes": self._settings.records.keep_values_bytes}

    # ---- what the child does with it

    def task_read(self, child: Child, task: ActiveTask, names: Mapping[str, str | None]) -> None:
        """The child has read the task and reports its names: open it, and give the child its folders."""
        if self._way in (Handover.AT_ONCE, Handover.WITH_START):
            self._taken_up(task)  # everything else was done when it was announced
            return
        if child.reads_at_once and task.ids is None:
            names = task.names or self._opener.names_ahead(task) or {}  # the program tells none
        is_named_by_child = self._way is Handover.CHILD_NAMES_IT
        # Then the child does not say that it is initialized.
        needs_no_init = is_named_by_child and not (child.has_init or child.reads_at_once) and child.may_kill
        # As with WITH_START. If `start` is here, it goes to the child after the folders.
        is_told_first = needs_no_init and self._control.state is State.INITIALIZING
        if not is_told_first or self._opener.is_awaited:
            self._opener.open(task, names, child.protection, begins_later=is_told_first)
        if is_told_first:
            self._control.step(Event.CHILD_INITIALIZED)
            self._opener.open(task, names, child.protection, begins_later=True)
            self._record_later(task)
        self.begun(task, child)
        if is_named_by_child:
            child.send(task.number, UseFolder(is_announced=needs_no_init, **self._folders(task)))
            if needs_no_init and not is_told_first:
                self._control.step(Event.CHILD_INITIALIZED)

    def begun(self, task: ActiveTask, child: Child) -> None:
        """The child has begun the task, which no other child can take any more."""
        self._taken_up(task)
        self._measure(task, child)

    def _taken_up(self, task: ActiveTask) -> None:
        task.release_message()
        self._pool.has_begun = True

    def _measure(self, task: ActiveTask, child: Child) -> None:
        """Measure and time the task from here on."""
        task.protection, task.ran_before = child.protection, child.still_running
        limits = self._settings.limits
        task.usage = TaskUsage(
            child,
            limit_bytes=task.limit_bytes,
            reserved_counts=limits.mem_mode == "brake",
            is_first=not self._pool.served,
        )
        self._usage_alarm.set(WATCH_S)
        if limits.task_timeout_s is not None and limits.enforced:
            limit_s = limits.task_timeout_s
            task.timeout = self._loop.after(
                limit_s, lambda: child.kill(Cause.TASK_TIMEOUT, f"{limit_s:.12g} s")
            )

    def _watch_usage(self) -> None:
        task = self._control.task
        if task is None or task.usage is None:
            return
        if not task.usage.is_asked:
            task.usage.watch()
            self._pool.task_is_measured()
            self._usage_alarm.set(WATCH_S)
        elif task.usage.is_watched:
            task.need_series()  # it has curves at its end, whose answer should not wait for their folder

    def start(self) -> None:
        """Have the child call start()."""
        child, task = self._pool.child, self._control.task
        if child is None or task is None:
            return
        begin, self._kept_begin = self._kept_begin, ()
        if not (begin and isinstance(begin[0], BeginAndStart)):
            begin = (*begin, _START)
        child.send(task.number, *begin)
        self._pool.has_begun = True  # a child that gets all at once does not say that it has read it
        task.begin_record()  # while the child works
        self._loop.expect("done")  # a tiny task is done in no time

    def send_kept_begin(self) -> None:
        """Send the Begin that waits for Start: there will be no Start."""
        if not self._kept_begin:
            return
        begin, self._kept_begin = self._kept_begin, ()
        child, task = self._pool.child, self._control.task
        if child is not None and task is not None:
            if isinstance(begin[0], BeginAndStart):
                begin = (Begin(**vars(begin[0])),)
            child.send(task.number, *begin)

    def may_go_to_another(self, task: ActiveTask, exit: Exit) -> bool:
        """Whether another child may take the task of one that has died: it had not begun with it.

        Only once, and only from a child that had loaded the code and died by itself or with its warden, or
        closed its channel, or whose memory may be that of an earlier task: a second one would do the same
        otherwise.
        """
        if task.message is None or self._children != 1 or not exit.loaded:
            return False
        is_of_earlier_task = exit.cause is Cause.MEMORY and self._pool.served > 0
        return is_of_earlier_task or exit.cause in BY_ITSELF


def _initialize(message: WorkerMessage) -> Initialize:
    blob = message.blob
    return Initialize(message.data if blob is None else Memfd(blob.fd, blob.size))
