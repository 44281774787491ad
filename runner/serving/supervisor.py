"""The one file that knows everybody: turns what becomes ready into events, and actions into I/O.

    worker -ws-> Link -> command_of -> Machine.step -> Child.send -> the child's main thread
    worker <-ws- Link <- Machine.step <- Child.on_message <- the child encodes the answer once

What may happen when stands in task.TABLE; here is how it is done. Messages carry no task id, so each task
has a running number: messages of the child with another number belong to a task that is over, and are
dropped. A child that is given up is killed in the background and never listened to again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ...boards.runs.store import Store
from ...boards.runs.task_ids import TaskIds, local_job_id
from ...sandbox.child.api import ANSWERS
from ...sandbox.codec.codec import MESSAGE_LIMIT
from ...sandbox.parent import warden_launch
from ...sandbox.parent.child_handle import Child
from ...sandbox.shared.channel import blob_problem
from ...sandbox.shared.entry import Location
from ...sandbox.shared.messages import (
    ApiCall,
    Begin,
    Blob,
    Done,
    Failed,
    Initialize,
    Initialized,
    Loaded,
    LoadFailed,
    Problem,
    Progress,
    Sample,
    Start,
    StopReturned,
    TaskRead,
    UseFolder,
    Wire,
)
from ...sandbox.shared.messages import Message as ChildMessage
from ...sandbox.shared.outcome import Cause, Exit, left_behind, report
from ..console.terminal import Output
from ..io.loop import Loop, Timer
from ..link.connection import Link, Message
from ..protocol import encoding, messages
from ..protocol.messages import Failure
from ..protocol.result import Result
from ..protocol.task_state import Action, Event, Machine, State, UnexpectedEvent
from ..settings.settings import NO_LIMITS, Settings
from .active_task import BlobSource, Current
from .child_pool import Crew
from .log_redirect import Redirect, Worker
from .memory_advice import LeakWatch, explain_refusal
from .task_usage import ASK_S, WATCH_S, Meter

#: States in which the worker takes messages of the code API (PROTOCOL 2.2).
_WORKING = frozenset((State.INITIALIZING, State.STARTING, State.INITIALIZED, State.RUNNING))
#: HKube's worker gives a task or a stop up 10 s after the last `alive` or `stopping`.
SIGN_OF_LIFE_S = 4.0
#: After this long without a task the warden looks only where a limit could be broken meanwhile.
IDLE_S = 1.0

#: So long at the start it is not told that there is no worker before the code is loaded.
FIRST_S = 3.0


@dataclass
class Hooks:
    """What the caller wants to be told."""

    on_result: Callable[[Result], None] = lambda result: None
    on_loaded: Callable[[], None] = lambda: None
    on_load_failed: Callable[[Failure], None] = lambda failure: None
    on_given_up: Callable[[str], None] = lambda reason: None
    #: Nothing is left of it; without this the loop is stopped.
    on_finished: Callable[[], None] | None = None


class Line(Protocol):
    """The way to the worker: the Link, or what stands in for it inside this process."""

    url: str
    on_relieved: Callable[[], None] | None

    @property
    def is_open(self) -> bool: ...
    @property
    def congested(self) -> bool: ...
    def post(
        self, data: bytes, source: BlobSource | None = None, *, final: bool = False, soon: bool = False
    ) -> bool: ...
    def clear(self) -> None: ...
    def close(self) -> None: ...


class Supervisor:
    """Serves one worker with one algorithm until it is told to end."""

    def __init__(
        self,
        loop: Loop,
        settings: Settings,
        where: Location,
        output: Output,
        store: Store | None,
        hooks: Hooks,
        crew: Crew | None = None,
    ) -> None:
        """`crew`: with the child that serves, if that was begun already."""
        self._loop = loop
        self._settings = settings
        self._where = where
        self._shown = where.shown
        self._output = output
        self._store = store
        self._hooks = hooks
        self._machine = Machine()
        self._link: Line | None = None
        self._crew = crew or Crew(loop, settings, where, store.environment() if store is not None else {})
        self._crew.tell(self)
        self._current: Current | None = None
        self._cut_off: Current | None = None  #: its `initialized` may have been lost with a connection
        self._number = 0
        self._served = 0  #: tasks of the child that serves
        self._leaks = LeakWatch()
        self._grace: Timer | None = None
        self._rested = loop.alarm(self._rest)
        self._lasts = loop.alarm(self._watch)
        self._is_idle = False
        self._stop_options: dict[str, Any] = {"forceStop": True}
        self._exit_options: dict[str, Any] = {"exitCode": 0}
        self._last_exit: Exit | None = None
        self._unknown: set[str] = set()
        self._began = loop.clock()
        self._unreachable: str | None = None  #: why there is no worker yet, if it was not told
        self._told: set[str] = set()
        stem = settings.name or os.path.splitext(os.path.basename(where.shown))[0]
        #: For a task whose message has none.
        self._names = TaskIds("", local_job_id(time.time()), stem, "local")
        self._redirect = Redirect(self._log_taker, self._post_lines) if settings.redirect_logs else None
        self._held: set[Child] = set()  #: children whose output is not read for now
        output.on_release = self._release_output
        self.exit_status = 0
        self._handlers: dict[str, Callable[[Message], None]] = {
            messages.INITIALIZE: self._on_initialize,
            messages.START: lambda message: self._step(Event.START),
            messages.STOP: self._on_stop_command,
            messages.EXIT: self._on_exit_command,
            messages.ALREADY_CONNECTED: self._on_already_connected,
            messages.DISCOVERY: lambda message: None,  # for streaming between peers, which v1 has not
        }
        self._actions: dict[Action, Callable[[], None]] = {
            Action.BEGIN: self._begin,
            Action.ABANDON: lambda: self._crew.abandon(Cause.REPLACED),
            Action.CHILD_START: self._child_start,
            Action.CHILD_STOP: self._child_stop,
            Action.CHILD_EXIT: self._child_exit,
            Action.CHILD_KILL: self._child_kill,
            Action.ARM_GRACE: self._arm_grace,
            Action.DISARM_GRACE: self._disarm_grace,
            Action.POST_INITIALIZED: self._post_initialized,
            Action.POST_STARTED: lambda: self._post(self._wire_started, soon=True),
            Action.POST_RESULT: self._post_result,
            Action.POST_FAILURE: self._post_failure,
            Action.POST_DEATH: self._post_death,
            Action.POST_STOPPED: self._post_stopped,
            Action.KEEP_STOPPED: self._keep_stopped,
            Action.REPLACE: self._replace,
            Action.FINISH: self._finish,
        }
        self._wire_initialized = encoding.encode(settings.encoding, messages.INITIALIZED)
        self._wire_started = encoding.encode(settings.encoding, messages.STARTED)
        self._wire_alive = encoding.encode(settings.encoding, messages.ALIVE)
        self._wire_stopping = encoding.encode(settings.encoding, messages.STOPPING)
        self._sign = loop.alarm(self._give_sign)
        self._wire_stopped = encoding.encode(settings.encoding, messages.STOPPED)
        self._pending_initialize: Message | None = None

    # ---- from outside

    def preload(self) -> None:
        """Start the child, so that its code is loaded when the first task comes."""
        problem = self._make_ready()
        if problem is not None:
            self._loop.after(0, lambda: self._hooks.on_load_failed(problem))

    def connect(self, url: str) -> None:
        """Connect to the worker, and stay connected."""
        link = Link(
            self._loop,
            self,
            url,
            text=encoding.is_text(self._settings.encoding),
            connect_timeout_s=self._settings.connect_timeout_s,
        )
        self._link = link
        link.open()

    def attach(self, line: Line) -> None:
        """Serve a worker that is in this process."""
        self._link = line

    def shutdown(self, status: int) -> None:
        """End in order: the user's stop(), the grace, exit(), nothing left. The second call kills."""
        if self._machine.state in (State.EXITING, State.EXITED):
            self._step(Event.KILL_NOW)
            return
        self.exit_status = status
        self._step(Event.EXIT)

    @property
    def samples(self) -> list[tuple[float, float, int, int]]:
        """Those of the task that is on (see Meter); none when there is none."""
        meter = self._current.meter if self._current is not None else None
        return meter.samples if meter is not None else []

    @property
    def ending(self) -> bool:
        """The end was asked for: no answer goes to the worker any more."""
        return self._machine.state in (State.EXITING, State.EXITED)

    # ---- the worker

    def on_link_open(self) -> None:
        """The worker is there."""
        self._told.discard("waiting")
        self._unreachable = None
        assert self._link is not None
        say = self._output.debug if self._settings.local else self._output.say
        say(f"● connected to {self._link.url}")
        if self._output.events is not None:
            encoding_name = self._settings.encoding
            self._output.events.emit("connected", {"url": self._link.url, "encoding": encoding_name})

    def on_link_unreachable(self, reason: str) -> None:
        """Say once what is waited for."""
        if "waiting" in self._told or self._link is None:
            return
        child = self._crew.child
        young = self._loop.clock() - self._began < FIRST_S
        if child is not None and not child.loaded and young:
            # Both take their time at the start: first it is told what is there to be served.
            self._unreachable = reason
            return
        self._told.add("waiting")
        self._output.say(f"◌ waiting for an HKube worker at {self._link.url}: {reason}; trying on")
        if not self._settings.local:
            self._output.say(f"  no worker here? run one task without it:  {self._settings.local_command}")

    def on_link_given_up(self, reason: str) -> None:
        """No worker in --connect-timeout."""
        self._hooks.on_given_up(reason)

    def on_link_resumed(self, *, all_written: bool) -> None:
        """The same worker is back, and waits: for what may have been lost with the old connection."""
        current, self._cut_off = self._cut_off, None
        waits = self._machine.state is State.INITIALIZED and current is self._current
        if waits and current is not None and all_written:
            self._post(self._wire_initialized)

    def on_link_drop(self, reason: str) -> None:
        """The task goes on; what is not sent waits for the next connection."""
        self._cut_off = self._current if self._machine.state is State.INITIALIZED else None
        if self._machine.state is not State.EXITED:
            self._output.say(f"◌ connection lost: {reason}; connecting again")

    def on_link_message(self, message: Message) -> None:
        """One message of the worker."""
        kept = False
        try:
            command = encoding.command_of(self._settings.encoding, message.head, message.whole)
            handler = self._handlers.get(command)
            if handler is None and command in ANSWERS:
                self._pass_answer(message)
            elif handler is None:
                self._unknown_command(command)
            else:
                if self._output.verbose:
                    self._output.debug(f"worker: {command}")
                kept = command == messages.INITIALIZE
                handler(message)
        except ValueError as error:
            self._output.warn(f"✘ the worker sent a message that cannot be read: {error}")
        finally:
            if not kept:
                message.release()

    def _pass_answer(self, message: Message) -> None:
        """An answer to a call of the code API goes to the child as it came."""
        child, current = self._crew.child, self._current
        if child is None or current is None or self._machine.state not in _WORKING:
            return  # for a task that is over: nobody waits for it
        if message.blob is not None:
            child.reply(current.number, Blob(message.blob.fd, message.blob.size))
            # The child reads it in its own time: this memory is not used again for the next message.
            message.blob.disown()
        else:
            child.reply(current.number, message.data)

    def _on_already_connected(self, message: Message) -> None:
        host = messages.data_of(self._small(message)).get("hostname")
        self._output.warn(f"✘ the worker serves another client already{f', on {host}' if host else ''}")

    def _unknown_command(self, command: str) -> None:
        if command not in self._unknown and len(self._unknown) < 100:
            self._unknown.add(command)
            self._output.say(f"◌ the worker sent {command[:80]!r}, which is not served; ignored from now on")

    def _on_initialize(self, message: Message) -> None:
        if self._is_said_again(message):
            # HKube's debug server says it again after each reconnect; the task is not run twice.
            self._output.debug("worker: initialize again, for the task that is running")
            if self._machine.state is State.INITIALIZED and self._link is not None:
                # The worker that had the first one is gone, or it still waits to be sent: one in all.
                self._link.clear()
                self._post(self._wire_initialized)
            message.release()
            return
        if self._machine.state in (State.EXITING, State.EXITED):
            message.release()
            return
        # A task that the worker has begun anew wants no answers of an old one.
        if self._link is not None:
            self._link.clear()
        self._pending_initialize = message
        self._step(Event.INITIALIZE)

    def _is_said_again(self, message: Message) -> bool:
        """It is for the very task that is being worked on: one with a name, that is not being ended."""
        current = self._current
        if current is None or current.ids is None or self._machine.state not in _WORKING:
            return False
        told = self._names_in(message)
        name, job = _text(told, "taskId"), _text(told, "jobId")
        # Of another job it is another task: a stand-in that was started again counts its tasks from 1.
        return name != "" and name == current.ids.task and job in ("", current.ids.job)

    def _on_stop_command(self, message: Message) -> None:
        self._stop_options = messages.data_of(self._small(message)) or {"forceStop": True}
        self._step(Event.STOP)

    def _on_exit_command(self, message: Message) -> None:
        data = self._small(message)
        self._exit_options = messages.data_of(data) or {"exitCode": 0}
        if self._machine.state is not State.EXITING:
            self.exit_status = messages.exit_code_of(data)
        self._step(Event.EXIT)

    def _small(self, message: Message) -> Any:
        """Decode a message that carries little; {} for one that claims to be large, or cannot be read."""
        if message.blob is not None:
            return {}
        try:
            return encoding.decode(self._settings.encoding, message.data)
        except ValueError as error:
            # Its command was read, and is obeyed: the worker waits 10 or 20 s, then ends the pod.
            self._output.warn(f"✘ the worker sent data that cannot be read: {error}")
            return {}

    # ---- the table

    def _step(self, event: Event) -> None:
        before = self._machine.state
        try:
            actions = self._machine.step(event)
        except UnexpectedEvent as error:
            self._output.warn(f"✘ protocol: unexpected {error}; ignored")
            return
        if before is not self._machine.state:
            if self._output.verbose:
                self._output.debug(f"task {self._number}: {before.name} -> {self._machine.state.name}")
            if self._output.events is not None:
                self._output.events.moved(before, self._machine.state)
        for action in actions:
            self._actions[action]()

    # ---- the child

    def _send(self, message: ChildMessage) -> None:
        if self._crew.child is not None and self._current is not None:
            self._crew.child.send(self._current.number, message)

    def _begin(self) -> None:
        """Open the next task and hand it to the child."""
        message, self._pending_initialize = self._pending_initialize, None
        assert message is not None, "INITIALIZE is stepped with its message at hand"
        self._number += 1
        limits = self._settings.limits
        self._current = Current(
            self._number,
            self._loop.clock(),
            message,
            limit_bytes=limits.memory_bytes if limits.enforced else None,
            keep_bytes=self._settings.keep_values_bytes,
        )
        self._rested.cancel()
        self._hand_out(self._current)

    def _make_ready(self) -> Failure | None:
        """Have a child that serves; the failure if the system has no process for us."""
        try:
            self._crew.ready()
        except OSError as error:
            exit = Exit(Cause.NOT_STARTED, detail=error.strerror or str(error), loaded=False)
            self._last_exit = exit
            return Failure(exit.error_code, report(exit))
        return None

    def _hand_out(self, current: Current) -> None:
        message = current.message
        assert message is not None, "a task is handed out before it is admitted"
        fresh = self._crew.child is None
        if self._make_ready() is not None:
            current.exit = self._last_exit
            self._loop.after(0, lambda: self._step(Event.CHILD_GONE))
            return
        child = self._crew.child
        assert child is not None, "it was made ready"
        if fresh:
            self._served = 0
        elif self._is_idle:
            child.watch(idle=False)
        self._is_idle = False
        current.placed, current.held = False, None
        if message.blob is not None:
            child.send(current.number, Initialize(Blob(message.blob.fd, message.blob.size)))
        elif child.loaded and message.size <= encoding.NAMES_MAX and self._open_ahead(current, message.data):
            current.placed = True
            # Without an init() nothing is left to be waited for: a round trip to the child, and its wake-up.
            at_once = not child.has_init and child.may_kill and child.is_quiet
            if at_once:
                self._step(Event.CHILD_INITIALIZED)
            begin = Begin(message.data, at_once, **self._place(current).as_dict())
            if at_once and self._loop.one_core:
                # The child could not read it before `start` is here: with that, it is woken once, not twice.
                current.held = begin
            else:
                child.send(current.number, begin)
            if at_once:
                self._admitted(current, child)
            self._loop.expect()  # of the child that it is ready, or of the worker its start
        else:
            child.send(current.number, Initialize(message.data))

    def _open_ahead(self, current: Current, data: bytes) -> bool:
        """Open the task with names found here; False when the child has to tell them."""
        if current.ids is None:
            told = encoding.ids_of(self._settings.encoding, data)
            if told is None:
                return False
            self._open(current, self._ids(told))
        return True

    def _began_too_late(self, current: Current, exit: Exit) -> bool:
        """A warm child died before it had read the task: the task has not begun, another child takes it."""
        return (
            # INITIALIZED: only if there is no init(), else its message is not kept so long.
            self._machine.state in (State.INITIALIZING, State.STARTING, State.INITIALIZED)
            and current.message is not None
            and exit.loaded
            and exit.cause in (Cause.EXITED, Cause.SIGNALLED)
            and not current.retried
        )

    def _child_start(self) -> None:
        child, current = self._crew.child, self._current
        if child is None or current is None:
            return
        held, current.held = current.held, None
        child.send(current.number, *([] if held is None else [held]), Start())
        self._loop.expect()  # a tiny task is done in no time

    def _let_begin(self) -> None:
        """There will be no START: the child gets what was held for it, as if nothing had been."""
        current = self._current
        if current is not None and current.held is not None:
            held, current.held = current.held, None
            self._send(held)

    def _child_stop(self) -> None:
        self._sign.set(SIGN_OF_LIFE_S)
        self._output.say(f"■ stopping task {self._name()}: stop() is called, {self._patience()}")
        self._stop_begins()
        if self._crew.child is not None and self._current is not None:
            self._crew.child.stop(self._current.number, self._stop_options)

    def _stop_begins(self) -> None:
        if self._current is not None and self._current.stop_began is None:
            self._current.stop_began = self._loop.clock()

    def _child_exit(self) -> None:
        if self._current is not None:
            self._output.say(f"■ stopping: {self._patience()}")
            self._stop_begins()
        self._crew.drop_spare()
        self._let_begin()
        if self._crew.child is None:
            self._loop.after(0, lambda: self._step(Event.CHILD_GONE))
        else:
            self._crew.child.exit(self._exit_options)

    def _child_kill(self) -> None:
        if self._crew.child is None:
            return
        in_grace = self._grace is not None and self._grace.pending
        interrupted = self._machine.state is State.EXITING and in_grace
        self._crew.child.kill(Cause.INTERRUPTED if interrupted else Cause.STOPPED)
        if self._machine.state is not State.EXITING:
            warden_launch.prepare()  # for the child that takes its place

    def _may_kill(self) -> bool:
        """The child is killed when it does not end: one that stands at a breakpoint is waited for."""
        return self._crew.child is None or self._crew.child.may_kill

    def _patience(self) -> str:
        return f"{self._settings.grace_s:g} s to end" if self._may_kill() else "it is waited for"

    def _arm_grace(self) -> None:
        if not self._may_kill():
            return
        self._grace = self._loop.after(self._settings.grace_s, lambda: self._step(Event.GRACE_OVER))

    def _disarm_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def _replace(self) -> None:
        """Start the next child now, unless it would only die like the last one."""
        exit = self._last_exit
        if exit is not None and exit.loaded and self._served and exit.cause is not Cause.NOT_STARTED:
            self._make_ready()
            self._served = 0

    def on_message(self, child: Child, task: int, message: ChildMessage) -> None:
        """One message of a child."""
        current = self._current
        stale = (
            child is not self._crew.child
            or child.is_being_killed
            or (task and (current is None or task != current.number))
        )
        if stale or (task == 0 and isinstance(message, (Done, ApiCall))):
            if isinstance(message, (Done, ApiCall)) and isinstance(message.wire, Blob):
                os.close(message.wire.fd)
            return
        match message:
            case Done(wire=wire) if current is not None:
                if isinstance(wire, Blob):
                    self._take_blob(child, current, wire.fd, wire.size)
                else:
                    current.answer = wire
                    self._task_ended(current, Event.CHILD_DONE)
            case ApiCall(wire=wire) if current is not None:
                self._on_call(child, wire)
            case Initialized():
                if current is not None and current.message is not None:
                    self._take_on(current, child)  # there was no init() to call
                self._step(Event.CHILD_INITIALIZED)
            case Progress() if current is not None:
                self._on_progress(current, message)
            case TaskRead(ids=ids) if current is not None:
                self._admit(current, ids)
            case Failed() if current is not None:
                current.failure = Failure(message.code, message.message, message.details)
                if message.ends:
                    self._end_redirect(child)
                    self._crew.let_go()
                    self._step(Event.CHILD_FAILED)
                else:
                    self._task_ended(current, Event.CHILD_FAILED)
            case StopReturned(error=error):
                if error:
                    self._output.warn(f"✘ stop() of task {self._name()} failed: {error}")
            case Loaded():
                self._loaded(message)
            case LoadFailed():
                self._load_failed(Failure(message.code, message.message, message.details))
            case Problem(text=text):
                if current is not None:
                    current.problems.append(text)  # told with the end of the task
                else:
                    self._output.warn(f"✘ {text}")

    def _on_call(self, child: Child, wire: Wire) -> None:
        if not isinstance(wire, Blob):
            self._pass_call(wire)
            return
        problem = blob_problem(wire.fd, wire.size)
        if problem is not None:
            os.close(wire.fd)
            child.kill(Cause.CHANNEL_BROKEN, f"the memory of a call: {problem}")
            return
        self._pass_call(b"", BlobSource(wire.fd, wire.size))

    def _pass_call(self, wire: bytes, source: BlobSource | None = None) -> None:
        """A message of the code API; it has a meaning only while the task is being worked on."""
        if self._machine.state not in _WORKING:
            if source is not None:
                source.close()
            return
        self._post(wire, source)

    def _on_progress(self, current: Current, progress: Progress) -> None:
        current.progressed(progress.value, progress.details)
        data = {"progress": progress.value, "details": progress.details}
        if self._output.events is not None:
            self._output.events.emit("progress", data)
        if self._machine.state in _WORKING:
            self._post(encoding.encode(self._settings.encoding, {"command": "progress", "data": data}))

    def _take_blob(self, child: Child, current: Current, fd: int, size: int) -> None:
        problem = blob_problem(fd, size)
        if problem is None and size > MESSAGE_LIMIT:
            problem = f"{size:,} bytes, HKube's worker takes at most {MESSAGE_LIMIT:,}"
        if problem is not None:
            os.close(fd)
            current.failure = Failure("RESULT_INVALID", f"RESULT_INVALID: the result's memory: {problem}")
            self._task_ended(current, Event.CHILD_FAILED)
            return
        current.answer_blob = BlobSource(fd, size)
        self._task_ended(current, Event.CHILD_DONE)

    def _task_ended(self, current: Current, event: Event) -> None:
        """The child has answered; a task that lasted has the account of its whole tree asked for first."""
        if self._crew.child is not None:
            self._end_redirect(self._crew.child)
        failure = current.failure
        wanted = failure is not None and failure.code == "MEMORY_ERROR"
        if current.meter is None or current.ending is not None or not (wanted or current.meter.watched):
            self._step(event)
            return
        current.ending = (event, self._loop.after(ASK_S, lambda: self._settle(current)))
        current.meter.ask()

    def _end_redirect(self, child: Child | None = None) -> None:
        """The last of the task's lines go out before its answer, and none of them into the next task's."""
        if child is not None and self._redirect is not None:
            child.drain_output()
        if self._redirect is not None:
            self._redirect.end()

    def _settle(self, current: Current) -> None:
        """The account is there, or will not come: now the end of the task is an event."""
        if current is self._current and current.ending is not None:
            event, timer = current.ending
            timer.cancel()
            current.ending = None
            self._step(event)

    def on_sample(self, child: Child, sample: Sample) -> None:
        """Usage of a tree."""
        current = self._current
        if current is None or child is not self._crew.child or current.meter is None:
            return
        current.on_sample(sample)
        if self._output.events is not None:
            self._output.events.sampled(current.meter.samples)
        if sample.answers == current.meter.end_ask and current.ending is not None:
            self._settle(current)

    def _loaded(self, loaded: Loaded) -> None:
        has = loaded.methods
        lacks = [one for one in ("init", "stop", "exit") if one not in has]
        without = f" (no {', '.join(lacks)})" if lacks else ""
        say = self._output.debug if self._settings.local or "loaded" in self._told else self._output.say
        say(f"● {self._shown} loaded: {', '.join(has)}{without}")
        if self._output.events is not None:
            told_of_it = {"entry": self._shown, "methods": has, "python": loaded.python}
            self._output.events.emit("loaded", told_of_it)
        self._tell_protection()
        self._told.add("loaded")
        if self._unreachable is not None:
            self.on_link_unreachable(self._unreachable)
        self._crew.prepare_spare()
        self._hooks.on_loaded()

    def _tell_protection(self) -> None:
        """Say once which limits hold and who holds them."""
        child = self._crew.child
        if child is None or child.protection is None or "loaded" in self._told:
            return
        line = child.protection.line
        if self._settings.limits_from:
            line += f" ({self._settings.limits_from})"
        signals = "confined" if child.protection.signals_confined else "not confined (this kernel cannot)"
        asked = self._settings.limits != NO_LIMITS
        say = self._output.say if asked or not self._settings.local else self._output.debug
        say(f"● {line}; signals {signals}")

    def _load_failed(self, failure: Failure) -> None:
        """This child ends by itself; the next task tries the code again with a new one."""
        if self._machine.state is State.EXITING:
            return  # its end is all that is waited for
        self._crew.let_go()
        if self._current is not None:
            self._current.failure = failure
            self._current.exit = Exit(Cause.EXITED, loaded=False)
            self._step(Event.CHILD_FAILED)
        else:
            self._hooks.on_load_failed(failure)

    def on_output(self, child: Child, stream: str, data: bytes) -> None:
        """What the algorithm prints goes on as it comes, and into the task's record."""
        self._output.user(stream, data)
        if self._output.holding:
            self._held.add(child)
            child.hold_output(True)
        if self._redirect is not None and child is self._crew.child:
            self._redirect.feed(stream, data)
        if self._current is not None and child is self._crew.child:
            self._current.printed(stream, data)

    def _log_taker(self) -> Worker:
        if self._machine.state not in _WORKING or self._link is None:
            return Worker.WANTS_NONE
        return Worker.IS_SLOW if self._link.congested else Worker.TAKES

    def _post_lines(self, lines: list[str]) -> None:
        self._post(encoding.encode(self._settings.encoding, {"command": "logData", "data": lines}))

    def _release_output(self) -> None:
        held, self._held = self._held, set()
        for child in held:
            child.hold_output(False)

    def on_exit(self, child: Child, exit: Exit) -> None:
        """Nothing of this child is left."""
        if not self._crew.gone(child):
            return
        self._last_exit = exit
        current = self._current
        if current is not None and current.ending is not None:
            # It had answered: that counts, whatever became of it since.
            self._settle(current)
            current = self._current
        if current is not None and self._began_too_late(current, exit):
            self._output.warn(f"✘ before task {self._number}: {report(exit, during='while no task ran')}")
            current.retried = True
            current.unmeter()
            self._step(Event.CHILD_AGAIN)
            self._hand_out(current)
            return
        if current is not None:
            self._end_redirect()
            current.exit = replace(exit, last_lines=current.last_lines())
        elif self._machine.state is State.IDLE:
            self._died_idle(exit)
        else:
            for line in left_behind(exit):
                self._output.say(f"  {line}")
        self._step(Event.CHILD_GONE)

    def _died_idle(self, exit: Exit) -> None:
        if not exit.loaded:
            self._hooks.on_load_failed(Failure(exit.error_code, report(exit, during="during import")))
        elif exit.cause is not Cause.RECYCLED:
            self._output.warn(f"✘ between two tasks: {report(exit, during='while no task ran')}")

    # ---- the record

    def _name(self) -> str:
        return self._current.name if self._current is not None else str(self._number)

    def _admit(self, current: Current, told: Mapping[str, Any]) -> None:
        """The child has read the task: it is known by name now, and gets its folders."""
        if current.ids is None:
            self._open(current, self._ids(told))
        child = self._crew.child
        assert child is not None, "its frame has just come"
        self._take_on(current, child)
        if not current.placed:
            self._send(self._place(current))

    def _take_on(self, current: Current, child: Child) -> None:
        """The task has begun in the child, which nobody else can take any more."""
        current.release()
        self._admitted(current, child)

    def _admitted(self, current: Current, child: Child) -> None:
        """The task is the child's: it is measured and timed from here on."""
        current.protection = child.protection
        current.meter = Meter(child, exact=current.limit_bytes is not None)
        self._lasts.set(WATCH_S)
        limits = self._settings.limits
        if limits.task_timeout_s is not None and limits.enforced:
            text = f"{limits.task_timeout_s:g} s"
            current.timeout = self._loop.after(limits.task_timeout_s, lambda: self._overdue(child, text))

    def _watch(self) -> None:
        if self._current is not None and self._current.meter is not None:
            self._current.meter.watch()

    def _overdue(self, child: Child, after: str) -> None:
        child.kill(Cause.TASK_TIMEOUT, after)
        warden_launch.prepare()  # for the child that takes its place

    def _place(self, current: Current) -> UseFolder:
        """Where the child finds the task's folders, and what it is to keep there."""
        record = current.record
        if record is None:
            return UseFolder()
        env = record.environment
        if not self._settings.local:
            # glibc keeps every value that a variable ever had: 130 bytes a task, for ever (measured).
            del env["HKRUNNER_TASK_METRICS_DIR"]
        folder = record.folder_text if record.is_there else None
        return UseFolder(folder, self._settings.keep_values_bytes, env)

    def _open(self, current: Current, ids: TaskIds) -> None:
        current.open(self._store, ids, self._shown, self._settings.given)
        if self._output.events is not None:
            self._output.events.begin(ids)
        if not self._settings.local:
            line = f"▶ task {ids.task}  job {ids.job}  {ids.pipeline}/{ids.node}"
            self._output.say(messages.printable(line, 1000))

    def _ids(self, told: Mapping[str, Any]) -> TaskIds:
        names = self._names
        return TaskIds(
            task=_text(told, "taskId") or f"task-{self._number}",
            job=_text(told, "jobId") or names.job,
            node=_text(told, "nodeName") or _text(told, "algorithmName") or names.node,
            pipeline=_text(told, "pipelineName") or names.pipeline,
        )

    def _names_in(self, message: Message) -> Mapping[str, Any]:
        """Find the names here: only for a task whose child cannot tell them."""
        if message.blob is None:
            return encoding.ids_of(self._settings.encoding, message.data) or {}
        with message.blob.view() as view:
            return encoding.ids_of(self._settings.encoding, view) or {}

    def _close(
        self,
        status: str,
        failure: Failure | None = None,
        *,
        answer: tuple[bytes, BlobSource | None] | None = None,
    ) -> None:
        """The task is over: all about it is on disk, then the answer leaves, then we see to the rest."""
        current = self._current
        if current is None:
            return
        if current.ids is None:
            # Its child never read it: the names have to be found here.
            self._open(current, self._ids(self._names_in(current.message) if current.message else {}))
        self._let_begin()
        child = self._crew.child
        if child is not None:
            child.drain_output()
        if self._redirect is not None:
            self._redirect.forget()
        self._sign.cancel()
        self._lasts.cancel()
        duration_s = self._loop.clock() - current.began
        if answer is not None and current.record is None and not self._settings.local:
            self._post(*answer, final=True)  # nothing has to be on disk before it, nor is it shown
            answer = None
        result = current.close(status, failure, duration_s, with_output=self._settings.local)
        self._current = None
        self._served += 1
        if answer is not None:
            self._post(*answer, final=True)
        if child is not None:
            self._after_task(child, current, result)
        self._hooks.on_result(result)

    def _after_task(self, child: Child, current: Current, result: Result) -> None:
        """Look after the child that goes on: what it keeps, what it has left running, how old it is."""
        meter = current.meter
        if meter is not None and meter.processes > 1:
            if self._settings.end_children:
                child.end_others()
            elif "left running" not in self._told:
                self._told.add("left running")
                self._output.say(
                    f"  task {result.task} left {meter.processes - 1} more processes running; they end with "
                    "the algorithm's own process (--end-children: with the task)"
                )
        leak = self._leaks.look(self._served, result)
        if leak is not None:
            self._output.warn(leak)
        recycle = self._settings.recycle_after
        if recycle is not None and self._served >= recycle and self._machine.state is State.IDLE:
            self._output.debug(f"a new process after {self._served} tasks (--recycle-after)")
            self._crew.let_go(Cause.RECYCLED, ask=True)
            self._make_ready()
            self._served = 0
        self._rested.set(IDLE_S)

    def _rest(self) -> None:
        """No task for a while: the warden need not look so often."""
        if self._current is None and self._crew.child is not None and not self._is_idle:
            self._is_idle = True
            self._crew.child.watch(idle=True)

    # ---- answers

    def _post(
        self, wire: bytes, source: BlobSource | None = None, *, final: bool = False, soon: bool = False
    ) -> None:
        link = self._link
        if link is None:
            return
        full = link.post(wire, source, final=final, soon=soon)
        if full and self._crew.child is not None and link.on_relieved is None:
            # The child waits with what it wants to send until the worker has taken some of it.
            child = self._crew.child
            child.listen(False)
            link.on_relieved = lambda: child.listen(True)

    def _post_initialized(self) -> None:
        current = self._current
        assert current is not None, "a task that is initialized is there"
        if current.announced:
            return  # another child has it now; a second one would end HKube's worker (PROTOCOL, rule 3)
        current.announced = True
        self._post(self._wire_initialized)
        self._sign.set(SIGN_OF_LIFE_S)

    def _give_sign(self) -> None:
        """Say that the task goes on, or that its stop does, as long as that is true.

        `alive` only between `initialized` and the answer, `stopping` only between a stop and `stopped`:
        the worker takes either one amiss at any other time (PROTOCOL 3.3, 3.5).
        """
        if self._current is None or self._crew.child is None:
            return
        state = self._machine.state
        open_link = self._link is not None and self._link.is_open
        if open_link and state in (State.INITIALIZED, State.RUNNING):
            self._post(self._wire_alive)
        elif open_link and state in (State.STOPPING, State.KILLING):
            self._post(self._wire_stopping)
        self._sign.set(SIGN_OF_LIFE_S)

    def _post_result(self) -> None:
        current = self._current
        assert current is not None, "a task that is done is there"
        self._close("succeed", answer=(current.answer, current.answer_blob))

    def _post_failure(self) -> None:
        current = self._current
        assert current is not None and current.failure is not None, "a failure came with the event"
        self._fail(explain_refusal(current.failure, self._settings.limits, current.limit_bytes, current.peak))

    def _post_death(self) -> None:
        current = self._current
        assert current is not None and current.exit is not None, "the end came with the event"
        exit = current.exit
        during = "before answering" if exit.loaded else "during import"
        self._fail(Failure(exit.error_code, report(exit, during=during), exit.stack))

    def _fail(self, failure: Failure) -> None:
        wire = encoding.encode(self._settings.encoding, failure.to_message())
        self._close("failed", failure, answer=(wire, None))

    def _post_stopped(self) -> None:
        if self._current is None:
            self._post(self._wire_stopped, final=True)
        else:
            self._close("stopped", self._stop_failure(), answer=(self._wire_stopped, None))

    def _keep_stopped(self) -> None:
        if self._current is not None:
            self._close("stopped", self._stop_failure())

    def _stop_failure(self) -> Failure | None:
        """What there is to say of a stop: that it took a kill."""
        exit = self._current.exit if self._current is not None else None
        if exit is None or exit.cause not in (Cause.STOPPED, Cause.INTERRUPTED):
            return None
        return Failure(exit.error_code, report(exit))

    def _finish(self) -> None:
        self._crew.drop_spare()
        if not self._crew.empty:
            self._crew.on_empty = self._finish  # the last of them comes back here
            return
        if self._link is not None:
            self._link.close()
        if self._store is not None:
            self._store.close()
        (self._hooks.on_finished or self._loop.stop)()


def _text(told: Mapping[str, Any], name: str) -> str:
    value = told.get(name)
    return "" if value is None else str(value)
