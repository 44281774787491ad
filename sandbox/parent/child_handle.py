"""The parent's handle on one child: send, stop, kill; in the end exactly one Exit.

Theory of operation
-------------------
Three processes: parent -> warden -> child. Between them:

    lifeline   socketpair, parent <-> warden. EOF in the warden means that the parent is gone.
    tasks      socketpair, parent <-> child. Setup and tasks to the child; all its messages to the parent.
    control    socketpair, parent -> child. StopTask, EndProcess, Reply.
    stdout,    pipes, child -> parent.
    stderr
    fault      a memory file that faulthandler writes into; read once, at the end.

The messages are declared in shared/messages.py. The lifeline and the task socket have no common order: so
nothing is read from a child before Spawned, which has its pid and how its limits are enforced.

The parent closes its copies of the child's ends as soon as the warden runs, the warden as soon as the
child runs. Nothing here blocks: writes go out as far as the kernel takes them, the rest when it takes
more. The warden reports what ended the child; an EOF does not tell: a grandchild may hold the sockets open,
and a child may close them and go on running.

The end, in this order: the warden has killed and reaped the tree and says Ended; the channel and the
output are drained; the warden is reaped; on_exit is called. If the warden itself is lost, its orphans
have become our children (the parent is a subreaper), and they are ended from here, in small steps.

This file has what every child needs, warded_child.py the usual child, which a warden starts, user_process.py
the process of --in-process, which the user has started. The two sockets make a ChildChannel
(child_channel.py); a program of --command, which speaks HKube's protocol, has another one (runner/program).
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Mapping
from typing import Protocol

from ..shared.channel import ChannelError
from ..shared.import_messages import DeepImport
from ..shared.limits import Limits
from ..shared.message_format import ProcessMessage, Wire
from ..shared.messages import Loaded, Protection, Sample, StillRunning
from ..shared.outcome import Cause, Exit
from .child_channel import ChildChannel
from .exit_report import fault_text, user_stack, with_stack
from .loop_protocol import Cancellable, LoopProtocol
from .output_pipes import DRAIN_READS, OutputPipes

#: An EOF on the channel means that the child is ending, or that it has closed our sockets. If the warden does
#: not report its end within this time, it is the latter.
CHANNEL_GRACE_S = 1.0
#: The messages from which the handle itself learns something.
_NOTED = frozenset((Loaded, StillRunning, DeepImport))


class ChildListener(Protocol):
    """Receives the events of a child, from the loop, in the order in which they happened."""

    def on_message(self, child: Child, task: int, message: ProcessMessage) -> None:
        """A message of the child, of this task (0: of none); a memfd in it is the listener's to close."""

    def on_output(self, child: Child, stream: str, data: bytes) -> None:
        """Bytes from the child's "stdout" or "stderr"."""

    def on_sample(self, child: Child, sample: Sample) -> None:
        """Usage of the tree, a few times a second while it is watched, and once for each ask()."""

    def on_ending(self, child: Child) -> None:
        """It has closed its socket: most probably it ends, and on_exit follows."""

    def on_exit(self, child: Child, exit: Exit) -> None:
        """No process of this child is left (or exit.left names them); the last call."""


class ChildState(enum.Enum):
    """The state of a child, as its handle knows it. States follow one another in this order."""

    STARTING = "its pid is not known, and nothing that it says is read"
    RUNNING = "what it says and prints is read"
    ENDED = "what ended it is known; the last that it said is being read"
    GONE = "nothing of it is open, and on_exit is called"


class Child:
    """A process that serves tasks. After on_exit nothing of it is open."""

    #: Whether it is killed when it does not end in its grace.
    may_kill = True

    def __init__(self, loop: LoopProtocol, listener: ChildListener | None, limits: Limits) -> None:
        """Prepare the handle. `listener`: None if set_listener() follows before the loop runs."""
        self._loop = loop
        if listener is not None:
            self.set_listener(listener)
        self._limits = limits
        self.pid = 0
        self.loaded = False
        self.began_at: float | None = None  #: on the monotonic clock; None: not known
        #: Whether its code has an init(); True until the child has said that it has none.
        self.has_init = True
        self.has_stop = False  #: whether its code has a stop()
        #: Whether it has read a small task, and has reported its names, when send() returns.
        self.reads_at_once = False
        #: How the limits are enforced, as the warden said; None until it has, or where there is no warden.
        self.protection: Protection | None = None
        #: What ran in or below the child when its last task ended: names of threads and processes.
        self.still_running: tuple[str, ...] = ()
        #: Pids of Python's own helper processes, as the child sees them; None: it does not say.
        self.helpers: list[int] | None = None
        #: Whether it may run processes without saying so: since the others were ended, it has named none.
        self.may_run_more = False
        self._imports_at = ""  #: the user's line that has begun the last deep import
        #: When the memory of its own process was read last, on the monotonic clock, and what it was in bytes.
        self.memory_read: tuple[float, int] = (float("-inf"), 0)
        self._state = ChildState.STARTING
        self._kill: tuple[Cause, str] | None = None  #: why it is being killed, and details in words
        #: Whether its messages wait; listen() can be called before they are read at all.
        self._is_paused = False
        self._timers: list[Cancellable] = []
        self._pipes = OutputPipes(loop, lambda name, data: self._listener.on_output(self, name, data))

    @property
    def records_folder(self) -> str | None:
        """The folder in which the child writes the files of its task; None: in the task's own."""
        return None

    def set_listener(self, listener: ChildListener) -> None:
        """Report what happens to this listener from now on."""
        self._listener = listener

    def __repr__(self) -> str:
        loaded = " loaded" if self.loaded else ""
        return f"<{type(self).__name__} pid {self.pid or '?'} {self._state.name.lower()}{loaded}>"

    def _connect(self, channel: ChildChannel, fault: int) -> None:
        """Take our end of its channel, and the file for its stacks."""
        self._channel, self._fault = channel, fault
        self.reads_at_once = channel.reads_at_once
        channel.listen_with(self._on_message, self._channel_broken, self._channel_closed)

    def _begin_reading(self) -> None:
        """Read its messages and its output from now on; its pid is known."""
        self._state = ChildState.RUNNING
        self._channel.resume()
        self.listen(not self._is_paused)
        self._pipes.start()

    # ---- messages of the parent

    def send(self, task: int, *messages: ProcessMessage) -> None:
        """Send messages of the task; a memfd stays the caller's."""
        self._channel.send(task, *messages)

    def reply(self, task: int, wire: Wire) -> None:
        """Pass on a reply of the worker to a call of the code API; a memfd stays the caller's."""
        self._channel.reply(task, wire)

    @property
    def is_quiet(self) -> bool:
        """Whether all its messages were read, and its socket is open: it probably waits for a task."""
        return self._channel.is_quiet

    def listen(self, on: bool) -> None:
        """Read the messages of the child, or leave them unread while its answers cannot be passed on."""
        self._is_paused = not on
        if self._state is ChildState.RUNNING:
            (self._channel.resume if on else self._channel.pause)()

    def stop(self, task: int, options: Mapping[str, object]) -> None:
        """Have the user's stop() called. The grace is the caller's."""
        self._channel.stop(task, options)

    def exit(self, options: Mapping[str, object]) -> None:
        """Have the child end: the user's stop() if a task runs, exit(), then its own end."""
        if not self._channel.exit(options):
            self.kill(Cause.STOPPED)

    def kill(self, cause: Cause, detail: str = "") -> None:
        """End the child now; on_exit follows."""
        raise NotImplementedError

    @property
    def is_being_killed(self) -> bool:
        """Whether kill() was called: later errors of the child may come from the kill itself."""
        return self._kill is not None

    # ---- what only a warden can do

    def watch(self, *, idle: bool, thread_lost: bool = False) -> None:
        """Set whether a task runs: an idle tree is sampled only where it could break a limit.

        `thread_lost`: end it at its memory limit when nothing is left that could run.
        """

    def ask(self, number: int, *, began_at: float | None = None) -> None:
        """Have the usage of this moment sent, with this number; `began_at`: count the peak from then on."""

    def end_others(self) -> None:
        """End every process of the tree but the child itself, and its helpers."""

    # ---- messages of the child

    def _on_message(self, task: int, message: ProcessMessage) -> None:
        if type(message) not in _NOTED:
            pass  # nearly always
        elif isinstance(message, Loaded):
            self.loaded = True
            self.has_init = "init" in message.methods
            self.has_stop = "stop" in message.methods
            self.helpers = [] if message.python else None  # another program has no version of Python
            self.watch(idle=True)  # until a task asks for its usage
        elif isinstance(message, StillRunning):
            more = message.count - len(message.names)
            self.still_running = (*message.names, *([f"{more} more"] if more > 0 else ()))
            self.helpers = message.helpers or []
            self.may_run_more = False
        elif isinstance(message, DeepImport):
            self._imports_at = message.place
        self._listener.on_message(self, task, message)

    def _channel_broken(self, error: ChannelError) -> None:
        self.kill(Cause.CHANNEL_BROKEN, str(error))

    def _channel_closed(self, cut: bool) -> None:
        if self._state is ChildState.RUNNING:
            what = "it closed the socket" + (" in the middle of a frame" if cut else "")
            self._later(CHANNEL_GRACE_S, lambda: self.kill(Cause.CHANNEL_BROKEN, what))
            self._listener.on_ending(self)

    def hold_output(self, on: bool) -> None:
        """Leave what the child prints in its pipes, so that it waits itself once they are full."""
        if self._state is not ChildState.GONE:
            self._pipes.hold(on)

    def drain_output(self, *, once: bool = False) -> None:
        """Read what the child has printed up to now: at most 16 MiB of each stream, or 64 KiB with `once`.

        Messages and output travel on different ways: without this a line may be heard after what came later.
        """
        self._pipes.drain(reads=1 if once else DRAIN_READS)

    # ---- the end

    def _finish(self, exit: Exit) -> None:
        """Read what is left, close everything, and report the end."""
        self._channel.drain()
        self._state = ChildState.GONE
        self._pipes.drain(DRAIN_READS)
        stack = user_stack(fault_text(self._fault))
        self._close()
        self._listener.on_exit(self, with_stack(exit, stack)._replace(imports_at=self._imports_at))

    def _close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._pipes.close()
        self._channel.close()
        os.close(self._fault)

    def _later(self, seconds: float, callback: Callable[[], None]) -> None:
        self._timers.append(self._loop.after(seconds, callback))
