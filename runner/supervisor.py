"""The one file that knows everybody: turns what becomes ready into events, and actions into I/O.

    worker -ws-> Link -> command_of -> Machine.step -> Child.send -> the child's main thread
    worker <-ws- Link <- Machine.step <- Child.on_frame <- the child encodes the answer once

What may happen when stands in task.TABLE; here is how it is done. Messages carry no task id, so each task
has a running number: frames of the child with another number belong to a task that is over, and are
dropped. A child that is given up is killed in the background and never listened to again.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..boards.store import Store, TaskIds, TaskRecord, local_job_id
from ..sandbox.channel import Frame, Kind, blob_problem
from ..sandbox.codec import MESSAGE_LIMIT
from ..sandbox.entry import Location
from ..sandbox.outcome import Cause, Exit, report
from ..sandbox.process import Child
from . import encoding, messages
from .link import Link, Message
from .loop import Loop, Timer
from .messages import Failure
from .output import Output
from .result import Result
from .settings import Settings
from .task import Action, Event, Machine, State, UnexpectedEvent

#: Lines of output that go into the message of a task that died.
LAST_LINES = 10
_TAIL_BYTES = 4096
#: What the parent keeps of an answer to show or record it, when the child has not.
_DONE = b'{"command":"done","data":'


@dataclass
class Hooks:
    """What the caller wants to be told."""

    on_result: Callable[[Result], None] = lambda result: None
    on_loaded: Callable[[], None] = lambda: None
    on_load_failed: Callable[[Failure], None] = lambda failure: None
    on_given_up: Callable[[str], None] = lambda reason: None


@dataclass
class Current:
    """The task that is being served."""

    number: int
    began: float
    started_at: float
    message: Message | None  #: its initialize, until the child has read it
    ids: TaskIds | None = None
    record: TaskRecord | None = None
    answer: bytes = b""
    answer_blob: BlobSource | None = None
    failure: Failure | None = None
    exit: Exit | None = None
    tail: deque[bytes] = field(default_factory=deque)
    tail_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    retried: bool = False


class BlobSource:
    """A large answer in the child's memfd. It is read, never mapped: see channel.blob_problem."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly this piece."""
        data = os.pread(self._fd, length, offset)
        if len(data) != length:
            raise OSError("the answer became shorter while it was sent")
        return data

    def close(self) -> None:
        """The memory is the child's alone again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


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
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._where = where
        self._output = output
        self._store = store
        self._hooks = hooks
        self._machine = Machine()
        self._link: Link | None = None
        self._child: Child | None = None
        self._given_up: set[Child] = set()
        self._current: Current | None = None
        self._number = 0
        self._served = 0
        self._grace: Timer | None = None
        self._exit_options: dict[str, Any] = {"exitCode": 0}
        self._finishing = False
        self._job = local_job_id(time.time())
        self._unknown: set[str] = set()
        self._told_waiting = False
        self.exit_status = 0
        self._handlers: dict[str, Callable[[Message], None]] = {
            messages.INITIALIZE: self._on_initialize,
            messages.START: lambda message: self._step(Event.START),
            messages.STOP: lambda message: self._step(Event.STOP),
            messages.EXIT: self._on_exit_command,
        }
        self._actions: dict[Action, Callable[[], None]] = {
            Action.BEGIN: self._begin,
            Action.ABANDON: self._abandon,
            Action.CHILD_START: lambda: self._send(Kind.START),
            Action.CHILD_STOP: self._child_stop,
            Action.CHILD_EXIT: self._child_exit,
            Action.CHILD_KILL: self._child_kill,
            Action.ARM_GRACE: self._arm_grace,
            Action.DISARM_GRACE: self._disarm_grace,
            Action.POST_INITIALIZED: lambda: self._post(self._wire_initialized),
            Action.POST_STARTED: lambda: self._post(self._wire_started),
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
        self._wire_stopped = encoding.encode(settings.encoding, messages.STOPPED)
        self._pending_initialize: Message | None = None

    # ---- from outside

    def preload(self) -> None:
        """Start the child, so that its code is loaded when the first task comes."""
        self._new_child()

    def connect(self, url: str) -> None:
        """Connect to the worker, and stay connected."""
        self._link = Link(
            self._loop,
            self,
            url,
            text=encoding.is_text(self._settings.encoding),
            connect_timeout_s=self._settings.connect_timeout_s,
        )
        self._link.open()

    def shutdown(self, status: int) -> None:
        """End in order: the user's stop(), the grace, exit(), nothing left. The second call kills."""
        if self._machine.state in (State.EXITING, State.EXITED):
            self._step(Event.KILL_NOW)
            return
        self.exit_status = status
        self._step(Event.EXIT)

    @property
    def ending(self) -> bool:
        """The end was asked for: no answer goes to the worker any more."""
        return self._machine.state in (State.EXITING, State.EXITED)

    # ---- the worker

    def on_link_open(self) -> None:
        """The worker is there."""
        self._told_waiting = False
        assert self._link is not None
        say = self._output.debug if self._settings.local else self._output.say
        say(f"● connected to {self._link.url}")

    def on_link_unreachable(self, reason: str) -> None:
        """Say once what is waited for."""
        if self._told_waiting or self._link is None:
            return
        self._told_waiting = True
        self._output.say(f"◌ waiting for an HKube worker at {self._link.url}: {reason}; trying on")
        if not self._settings.local:
            self._output.say(
                f"  no worker here? run one task without it:  hkrunner --entry {self._settings.entry or '…'}"
                " --input '[…]'"
            )

    def on_link_given_up(self, reason: str) -> None:
        """No worker in --connect-timeout."""
        self._hooks.on_given_up(reason)

    def on_link_drop(self, reason: str) -> None:
        """The task goes on; what is not sent waits for the next connection."""
        if self._machine.state is not State.EXITED:
            self._output.say(f"◌ connection lost: {reason}; connecting again")

    def on_link_message(self, message: Message) -> None:
        """One message of the worker."""
        kept = False
        try:
            command = encoding.command_of(self._settings.encoding, message.head, message.whole)
            handler = self._handlers.get(command)
            if handler is None:
                self._unknown_command(command)
            else:
                self._output.debug(f"worker: {command}")
                kept = command == messages.INITIALIZE
                handler(message)
        except ValueError as error:
            self._output.warn(f"✘ the worker sent a message that cannot be read: {error}")
        finally:
            if not kept:
                message.release()

    def _unknown_command(self, command: str) -> None:
        if command not in self._unknown and len(self._unknown) < 100:
            self._unknown.add(command)
            self._output.say(f"◌ the worker sent {command[:80]!r}, which is not served; ignored from now on")

    def _on_initialize(self, message: Message) -> None:
        current = self._current
        if (
            current is not None
            and current.ids is not None
            and self._machine.state is not State.IDLE
            and self._ids_of(message).task == current.ids.task
        ):
            # HKube's debug server says it again after each reconnect; the task is not run twice.
            self._output.debug("worker: initialize again, for the task that is running")
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

    def _on_exit_command(self, message: Message) -> None:
        data = self._small(message)
        self._exit_options = messages.data_of(data) or {"exitCode": 0}
        if self._machine.state is not State.EXITING:
            self.exit_status = messages.exit_code_of(data)
        self._step(Event.EXIT)

    def _small(self, message: Message) -> Any:
        """Decode a message that carries little; {} for one that claims to be large."""
        if message.blob is not None:
            return {}
        return encoding.decode(self._settings.encoding, message.data)

    # ---- the table

    def _step(self, event: Event) -> None:
        before = self._machine.state
        try:
            actions = self._machine.step(event)
        except UnexpectedEvent as error:
            self._output.warn(f"✘ protocol: unexpected {error}; ignored")
            return
        if before is not self._machine.state:
            self._output.debug(f"task {self._number}: {before.name} -> {self._machine.state.name}")
        for action in actions:
            self._actions[action]()

    # ---- the child

    def _new_child(self) -> Child:
        settings, where = self._settings, self._where
        env = dict(os.environ)
        env.update(settings.child_env)
        python_path = [one for one in env.pop("PYTHONPATH", "").split(os.pathsep) if one]
        try:
            child = Child(
                self._loop,
                self,
                argv=[settings.python, "-u"],
                cwd=where.folder,
                env=env,
                setup={
                    "where": list(where),
                    "encoding": settings.encoding,
                    "python_path": [os.path.abspath(one) for one in python_path],
                },
            )
        except OSError as error:
            raise RuntimeError(f"cannot start a process: {error}") from error
        self._child = child
        self._served = 0
        return child

    def _send(self, kind: Kind, body: bytes = b"") -> None:
        if self._child is not None and self._current is not None:
            self._child.send(kind, self._current.number, body)

    def _begin(self) -> None:
        """Open the next task and hand it to the child."""
        message, self._pending_initialize = self._pending_initialize, None
        assert message is not None, "INITIALIZE is stepped with its message at hand"
        self._number += 1
        self._current = Current(self._number, self._loop.clock(), time.time(), message)
        self._hand_out(self._current)

    def _hand_out(self, current: Current) -> None:
        message = current.message
        assert message is not None, "a task is handed out before it is admitted"
        child = self._child if self._child is not None else self._new_child()
        if message.blob is not None:
            child.send_blob(Kind.INIT, current.number, message.blob.fd, message.blob.size)
        else:
            child.send(Kind.INIT, current.number, message.data)

    def _began_too_late(self, current: Current, exit: Exit) -> bool:
        """A warm child died before it had read the task: the task has not begun, another child takes it."""
        return (
            self._machine.state in (State.INITIALIZING, State.STARTING)
            and current.message is not None
            and exit.loaded
            and exit.cause in (Cause.EXITED, Cause.SIGNALLED)
            and not current.retried
        )

    def _abandon(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            self._given_up.add(child)
            child.kill(Cause.REPLACED)

    def _let_go(self, child: Child) -> None:
        """This child ends by itself and takes no further task; it gets the grace for it."""
        self._child = None
        self._given_up.add(child)
        self._loop.after(self._settings.grace_s, lambda: child.kill(Cause.STOPPED))

    def _child_stop(self) -> None:
        self._output.say(
            f"■ stopping task {self._name()}: stop() is called, {self._settings.grace_s:g} s to end"
        )
        if self._child is not None and self._current is not None:
            self._child.stop(self._current.number, {"forceStop": True})

    def _child_exit(self) -> None:
        if self._current is not None:
            self._output.say(f"■ stopping: {self._settings.grace_s:g} s to end")
        if self._child is None:
            self._loop.after(0, lambda: self._step(Event.CHILD_GONE))
        else:
            self._child.exit(self._exit_options)

    def _child_kill(self) -> None:
        if self._child is None:
            return
        if self._machine.state is State.EXITING and self._grace is not None and self._grace.pending:
            self._child.kill(Cause.INTERRUPTED)
        else:
            self._child.kill(Cause.STOPPED)

    def _arm_grace(self) -> None:
        self._grace = self._loop.after(self._settings.grace_s, lambda: self._step(Event.GRACE_OVER))

    def _disarm_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def _replace(self) -> None:
        """Start the next child now, unless it would only die like the last one."""
        exit = self._last_exit
        if exit is not None and exit.loaded and self._served and exit.cause is not Cause.NOT_STARTED:
            self._new_child()

    _last_exit: Exit | None = None

    def on_frame(self, child: Child, frame: Frame) -> None:
        """One frame of a child."""
        current = self._current
        stale = child is not self._child or (frame.task and (current is None or frame.task != current.number))
        if stale:
            if frame.fd is not None:
                os.close(frame.fd)
            return
        try:
            self._take(child, frame)
        except (ValueError, KeyError, TypeError) as error:
            # Well-formed frames with a body that is none of ours: user code wrote into the channel.
            child.kill(Cause.CHANNEL_BROKEN, f"frame {frame.kind} with a bad body: {error}")

    def _take(self, child: Child, frame: Frame) -> None:
        current, kind = self._current, frame.kind
        if kind == Kind.DONE and current is not None:
            if frame.fd is not None:
                self._take_blob(child, current, frame.fd, frame.size)
            else:
                current.answer = frame.body
                self._step(Event.CHILD_DONE)
            return
        if frame.fd is not None:
            os.close(frame.fd)
            raise ValueError("a descriptor nobody asked for")
        if kind == Kind.INITIALIZED:
            self._step(Event.CHILD_INITIALIZED)
        elif kind == Kind.ADMIT and current is not None:
            self._admit(current, json.loads(frame.body))
        elif kind == Kind.FAILED and current is not None:
            told = json.loads(frame.body)
            current.failure = _failure_of(told)
            if told.get("ends"):
                child.drain_output()
                self._let_go(child)
            self._step(Event.CHILD_FAILED)
        elif kind == Kind.STOPPED:
            told = json.loads(frame.body)
            if told.get("error"):
                self._output.warn(f"✘ stop() of task {self._name()} failed: {told['error']}")
        elif kind == Kind.LOADED:
            self._loaded(json.loads(frame.body))
        elif kind == Kind.LOAD_FAILED:
            self._load_failed(_failure_of(json.loads(frame.body)))
        elif kind == Kind.NOTE:
            problem = str(json.loads(frame.body)["problem"])
            if current is not None:
                current.problems.append(problem)
            self._output.warn(f"✘ {problem}")
        else:
            raise ValueError("a kind nobody sends")

    def _take_blob(self, child: Child, current: Current, fd: int, size: int) -> None:
        problem = blob_problem(fd, size)
        if problem is None and size > MESSAGE_LIMIT:
            problem = f"{size:,} bytes, HKube's worker takes at most {MESSAGE_LIMIT:,}"
        if problem is not None:
            os.close(fd)
            current.failure = Failure("RESULT_INVALID", f"RESULT_INVALID: the result's memory: {problem}")
            self._step(Event.CHILD_FAILED)
            return
        current.answer_blob = BlobSource(fd, size)
        self._step(Event.CHILD_DONE)

    def _loaded(self, told: Mapping[str, Any]) -> None:
        has = [str(one) for one in told["methods"]]
        lacks = [one for one in ("init", "stop", "exit") if one not in has]
        without = f" (no {', '.join(lacks)})" if lacks else ""
        say = self._output.debug if self._settings.local or self._served else self._output.say
        say(f"● {self._where.shown} loaded: {', '.join(has)}{without}")
        self._hooks.on_loaded()

    def _load_failed(self, failure: Failure) -> None:
        """This child ends by itself; the next task tries the code again with a new one."""
        if self._child is not None:
            self._let_go(self._child)
        if self._current is not None:
            self._current.failure = failure
            self._current.exit = Exit(Cause.EXITED, loaded=False)
            self._step(Event.CHILD_FAILED)
        else:
            self._hooks.on_load_failed(failure)

    def on_output(self, child: Child, stream: str, data: bytes) -> None:
        """What the algorithm prints goes on as it comes, and into the task's record."""
        self._output.user(stream, data)
        current = self._current
        if current is None or child is not self._child:
            return
        if current.record is not None:
            current.record.append(stream, data)
        current.tail.append(data[-_TAIL_BYTES:])
        current.tail_bytes += len(current.tail[-1])
        while current.tail_bytes - len(current.tail[0]) >= _TAIL_BYTES:
            current.tail_bytes -= len(current.tail.popleft())

    def on_exit(self, child: Child, exit: Exit) -> None:
        """Nothing of this child is left."""
        if child is not self._child:
            self._given_up.discard(child)
            if self._finishing:
                self._finish()
            return
        self._child = None
        self._last_exit = exit
        current = self._current
        if current is not None and self._began_too_late(current, exit):
            self._output.warn(f"✘ before task {self._number}: {report(exit, during='while no task ran')}")
            current.retried = True
            self._hand_out(current)
            return
        if current is not None:
            current.exit = replace(exit, last_lines=_last_lines(current.tail))
        elif self._machine.state is State.IDLE:
            if not exit.loaded:
                self._hooks.on_load_failed(Failure(exit.error_code, report(exit, during="during import")))
            else:
                self._output.warn(f"✘ between two tasks: {report(exit, during='while no task ran')}")
        self._step(Event.CHILD_GONE)

    # ---- the record

    def _name(self) -> str:
        current = self._current
        return current.ids.task if current is not None and current.ids is not None else str(self._number)

    def _admit(self, current: Current, told: Mapping[str, Any]) -> None:
        """The child has read the task: it is known by name now, and gets its folders."""
        if current.message is not None:
            current.message.release()
            current.message = None
        if current.ids is None:
            self._open_record(current, self._ids(told))
        record = current.record
        go: dict[str, Any] = {"folder": None, "env": {}}
        if record is not None:
            go = {"folder": str(record.folder), "env": record.environment}
        self._send(Kind.GO, json.dumps(go).encode())

    def _open_record(self, current: Current, ids: TaskIds) -> None:
        current.ids = ids
        if not self._settings.local:
            self._output.say(f"▶ task {ids.task}  job {ids.job}  {ids.pipeline}/{ids.node}")
        if self._store is not None:
            current.record = self._store.open(ids, entry=self._where.shown, started_at=current.started_at)

    def _ids(self, told: Mapping[str, Any]) -> TaskIds:
        def text(name: str) -> str:
            value = told.get(name)
            return str(value) if value not in (None, "") else ""

        stem = os.path.splitext(os.path.basename(self._where.shown))[0]
        return TaskIds(
            task=text("taskId") or f"task-{self._number}",
            job=text("jobId") or self._job,
            node=text("nodeName") or text("algorithmName") or stem,
            pipeline=text("pipelineName") or "local",
        )

    def _ids_of(self, message: Message) -> TaskIds:
        """Decode the ids here: only for a task whose child cannot tell them."""
        try:
            data = messages.data_of(encoding.decode(self._settings.encoding, message.whole()))
        except ValueError:
            data = {}
        return self._ids(data)

    def _close(self, status: str, failure: Failure | None = None) -> Result | None:
        """The task is over: everything about it is on disk when this returns."""
        current, self._current = self._current, None
        if current is None:
            return None
        if current.ids is None:
            message = current.message
            self._current = current
            self._open_record(current, self._ids_of(message) if message is not None else self._ids({}))
            self._current = None
        if current.message is not None:
            current.message.release()
        if self._child is not None:
            self._current = current
            self._child.drain_output()
            self._current = None
        self._served += 1
        ids, record = current.ids, current.record
        assert ids is not None, "opened above at the latest"
        result = Result(
            ids.task,
            ids.job,
            ids.node,
            ids.pipeline,
            status,
            current.started_at,
            time.time(),
            self._loop.clock() - current.began,
            output=_output_of(current) if status == "succeed" else None,
            failure=failure,
            exit=current.exit,
            loaded=current.exit is None or current.exit.loaded,
            metrics_dir=str(record.metrics_dir) if record is not None else None,
            folder=str(record.folder) if record is not None else None,
            problems=current.problems,
        )
        facts = result.facts()
        if record is not None:
            if failure is not None:
                record.write("error.json", json.dumps(facts["error"]).encode())
            record.finish(facts)
            result.problems.extend(record.problems)
        if status != "succeed" and current.answer_blob is not None:
            current.answer_blob.close()
        self._hooks.on_result(result)
        return result

    # ---- answers

    def _post(self, wire: bytes, source: BlobSource | None = None) -> None:
        if self._link is not None:
            self._link.post(wire, source)

    def _post_result(self) -> None:
        current = self._current
        assert current is not None, "a task that is done is there"
        self._close("succeed")
        self._post(current.answer, current.answer_blob)

    def _post_failure(self) -> None:
        current = self._current
        assert current is not None and current.failure is not None, "a failure came with the event"
        self._fail(current.failure)

    def _post_death(self) -> None:
        current = self._current
        assert current is not None and current.exit is not None, "the end came with the event"
        exit = current.exit
        during = "before answering" if exit.loaded else "during import"
        self._fail(Failure(exit.error_code, report(exit, during=during), exit.stack))

    def _fail(self, failure: Failure) -> None:
        self._close("failed", failure)
        self._post(encoding.encode(self._settings.encoding, failure.to_message()))

    def _post_stopped(self) -> None:
        self._keep_stopped()
        self._post(self._wire_stopped)

    def _keep_stopped(self) -> None:
        current = self._current
        if current is None:
            return
        failure = None
        if current.exit is not None and current.exit.cause in (Cause.STOPPED, Cause.INTERRUPTED):
            failure = Failure(current.exit.error_code, report(current.exit))
        self._close("stopped", failure)

    def _finish(self) -> None:
        self._finishing = True
        if self._given_up:
            return  # the last of them comes back here
        if self._link is not None:
            self._link.close()
        if self._store is not None:
            self._store.close()
        self._loop.stop()


def _failure_of(told: Mapping[str, Any]) -> Failure:
    return Failure(str(told["code"]), str(told["message"]), str(told.get("details") or ""))


def _output_of(current: Current) -> bytes | None:
    """Return the result's own JSON out of the answer, None for another encoding."""
    if current.answer_blob is not None:
        head = current.answer_blob.read(0, min(len(_DONE), current.answer_blob.size))
        if head != _DONE:
            return None
        return current.answer_blob.read(len(_DONE), current.answer_blob.size - len(_DONE) - 1)
    return current.answer[len(_DONE) : -1] if current.answer.startswith(_DONE) else None


def _last_lines(tail: deque[bytes]) -> tuple[str, ...]:
    text = b"".join(tail).decode("utf-8", "replace")
    lines = [line[:400] for line in text.splitlines() if line.strip()]
    return tuple(lines[-LAST_LINES:])
