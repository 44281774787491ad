"""A child handle without a process: it records what the supervisor asks, and the test sends the messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from hkrunner.sandbox.parent.child_handle import Child, ChildListener
from hkrunner.sandbox.shared.message_format import PROTOCOL_VERSION, Wire
from hkrunner.sandbox.shared.message_format import ProcessMessage as ChildMessage
from hkrunner.sandbox.shared.messages import HeldBack, Loaded, Protection, Sample
from hkrunner.sandbox.shared.outcome import Cause, Exit

#: Not a pid of a real process: Linux has at most 2**22.
PID = 2**23


class FakeChild:
    """Records the requests of the supervisor; the test calls methods to send the child's messages."""

    def __init__(self, listener: ChildListener, number: int) -> None:
        self.number = number  #: 1 for the first child of the run
        self.pid = PID + number
        self.loaded = False
        self.began_at: float | None = None
        self.has_init = True
        self.reads_at_once = False
        self.may_kill = True
        self.is_quiet = True
        self.protection = Protection("limits: none", "sampling", False)
        self.records_folder: str | None = None
        self.still_running: tuple[str, ...] = ()
        self.helpers: list[int] | None = None
        self.may_run_more = False
        self.memory_read = (float("-inf"), 0)
        self.sent: list[tuple[int, ChildMessage]] = []  #: on the task socket
        self.replies: list[tuple[int, Wire]] = []
        self.stops: list[tuple[int, Mapping[str, object]]] = []
        self.exits: list[Mapping[str, object]] = []
        self.kill_cause: Cause | None = None
        self.asked: list[int] = []  #: numbers of the requests to the warden
        self.is_listened_to = True
        self.idle: list[bool] = []
        self.ended_others = 0
        self.is_gone = False
        self.unread = b""  #: what it has printed on stdout, and the loop has not read
        self._listener = listener

    # ---- requests of the supervisor

    def set_listener(self, listener: ChildListener) -> None:
        self._listener = listener

    def send(self, task: int, *messages: ChildMessage) -> None:
        self.sent += [(task, one) for one in messages]

    def reply(self, task: int, wire: Wire) -> None:
        self.replies.append((task, wire))

    def stop(self, task: int, options: Mapping[str, object]) -> None:
        self.stops.append((task, options))

    def exit(self, options: Mapping[str, object]) -> None:
        self.exits.append(options)

    def kill(self, cause: Cause, detail: str = "") -> None:
        if self.kill_cause is None and not self.is_gone:
            self.kill_cause = cause

    @property
    def is_being_killed(self) -> bool:
        return self.kill_cause is not None

    def ask(self, number: int, *, began_at: float | None = None) -> None:
        self.asked.append(number)

    def watch(self, *, idle: bool, thread_lost: bool = False) -> None:
        self.idle.append(idle)

    def listen(self, on: bool) -> None:
        self.is_listened_to = on

    def end_others(self) -> None:
        self.ended_others += 1

    def hold_output(self, on: bool) -> None:
        pass

    def drain_output(self, *, once: bool = False) -> None:
        data, self.unread = self.unread, b""
        if data:
            self._listener.on_output(cast(Child, self), "stdout", data)

    # ---- messages that the test sends

    def says(self, message: ChildMessage, task: int = 0) -> None:
        self._listener.on_message(cast(Child, self), task, message)

    def loads(self, *methods: str) -> None:
        self.loaded = True
        self.has_init = "init" in methods
        self.says(Loaded(PROTOCOL_VERSION, list(methods), "3.11", {}))

    def samples(
        self,
        *,
        answers: int | None = None,
        memory: int = 1000,
        peak: int | None = None,
        held_back: HeldBack | None = None,
    ) -> None:
        sample = Sample(memory, memory if peak is None else peak, 0, 1, 0.5, answers, held_back)
        self._listener.on_sample(cast(Child, self), sample)

    def closes(self) -> None:
        self._listener.on_ending(cast(Child, self))

    def goes(self, exit: Exit | None = None) -> None:
        """End the child; by default as killed if the supervisor has killed it, otherwise with code 3."""
        self.is_gone = True
        if exit is None:
            cause = self.kill_cause or Cause.EXITED
            code = 3 if cause is Cause.EXITED else None
            exit = Exit(cause, pid=self.pid, code=code, loaded=self.loaded)
        self._listener.on_exit(cast(Child, self), exit)

    @property
    def kinds(self) -> list[str]:
        """Return the names of the messages that it got."""
        return [type(message).__name__ for _, message in self.sent]
