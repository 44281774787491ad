"""The usual child: a warden starts it, enforces its limits, and ends its tree. See child_handle.py."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from ..linux import kernel, process_tree
from ..linux.oom_counter import OomWatch
from ..linux.process_tree import Left
from ..shared.channel import INLINE_LIMIT, ChannelError
from ..shared.isolation_policy import Isolation
from ..shared.limits import Limits
from ..shared.message_format import PROTOCOL_VERSION, ProcessMessage, body_of, encode
from ..shared.messages import (
    FROM_WARDEN,
    AskUsage,
    Begin,
    Ended,
    EndOthers,
    Initialize,
    Kill,
    LimitCpu,
    ProcessMemory,
    Sample,
    Setup,
    Spawn,
    Spawned,
    WatchTree,
)
from ..shared.outcome import STACK_WANTED, Cause, Exit
from . import warden_launch
from .child_channel import ChildChannel, FramedChannel
from .child_handle import Child, ChildListener, ChildState
from .exit_report import exit_of, exit_without_warden
from .frame_receiver import FrameReceiver
from .loop_protocol import Cancellable, LoopProtocol
from .orphan_cleanup import REAP_S, OrphanCleanup, adopt, spared

if TYPE_CHECKING:
    from .pinhole_forwarder import PinholeForwarder
    from .private_folders import PrivateFolders

#: The warden's own kill has a deadline of 10 s, and it waits 2 s to remove a cgroup that has a process left;
#: after this time the warden itself hangs.
WARDEN_DEADLINE_S = 15.0
#: Time for the warden to read a message: it reads at once, or has ended.
WARDEN_READS_S = 5.0
#: Process 1 of a container looks so often for processes that others leave to it: of one that lives, no signal
#: tells.
LOOK_S = 5.0
_TASKS = (Begin, Initialize)

_next_look: Cancellable | None = None


class WardedChild(Child):
    """A child and its warden, which is the parent's only other process for it."""

    #: Every child whose warden lives: no process in these branches is an orphan of a lost warden.
    alive: ClassVar[set[WardedChild]] = set()

    def __init__(
        self,
        loop: LoopProtocol,
        listener: ChildListener | None,
        *,
        argv: Sequence[str],
        cwd: str,
        env: Mapping[str, str],
        setup: Setup | None,
        limits: Limits,
        channel: ChildChannel | None = None,
        folders: Sequence[str] = (),
        temporary_folders: Sequence[str] = (),
        isolation: Isolation | None = None,
        private: PrivateFolders | None = None,
        forwarder: PinholeForwarder | None = None,
    ) -> None:
        """Start the warden, which starts the child; on return both are under way, nothing is loaded.

        `listener`: None if set_listener() follows before the loop runs. `argv`: interpreter and options
        that start the child by file; the descriptors are appended. `channel`: to a program that is not our
        own code; then `argv` is its whole command, it inherits no descriptor, and gets no `setup`.
        `folders`: what limits.disk_bytes counts. `temporary_folders`: removed if we are killed.
        `isolation`: what it may do; None: what its user may do. `private`: folders to remove after its end.
        `forwarder`: a process to end then. Raises OSError when the warden could not be executed.
        """
        super().__init__(loop, listener, limits)
        self._problem = ""  #: why the child could not be executed
        self._is_refused = False  #: whether that was because it could not be isolated
        self._private = private
        self._forwarder = forwarder
        self._is_throttled = True
        self._task_sent_at = 0.0
        self._oom = OomWatch(time.monotonic())
        self._is_program = channel is not None
        kernel.become_subreaper()
        self._warden, self._lifeline = warden_launch.take()
        self._lifeline.setblocking(False)
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as undo:
            undo.callback(self._lifeline.close)  # the warden ends by itself then
            undo.callback(self._pipes.close)
            keep: list[str] = []
            fds: dict[str, int] = {}
            if channel is None:
                # Ours first in each pair; theirs are closed here once the warden has them.
                tasks, their_tasks = socket.socketpair()
                control, their_control = socket.socketpair()
                for one in (their_tasks, their_control):
                    theirs.enter_context(one)
                for one in (tasks, control):
                    undo.enter_context(one)
                fds = {"tasks": their_tasks.fileno(), "control": their_control.fileno()}
                keep = ["tasks", "control", "fault"]
                argv = [*argv, warden_launch.START, "child"]
                channel = FramedChannel(loop, tasks, control)
            for name in ("stdout", "stderr"):
                fds[name] = self._pipes.open(name)
                theirs.callback(os.close, fds[name])
            fault = os.memfd_create("hkrunner-fault", os.MFD_CLOEXEC)
            undo.callback(os.close, fault)
            fds["fault"] = os.dup(fault)
            theirs.callback(os.close, fds["fault"])
            if forwarder is not None:
                fds["pinholes"] = forwarder.channel.fileno()
            self._connect(channel, fault)
            undo.pop_all()
            WardedChild.alive.add(self)
            self._news = FrameReceiver(
                loop,
                self._lifeline,
                FROM_WARDEN,
                on_message=lambda task, message: self._on_news(message),
                on_error=self._on_bad_news,
                on_end=lambda cut: self._on_lifeline_end(),
            )
            self._news.resume()
            spec = Spawn(
                version=PROTOCOL_VERSION,
                argv=list(argv),
                cwd=cwd,
                # Not the warden's own: an LD_PRELOAD meant for the algorithm must not be loaded there.
                env=dict(env),
                fds=list(fds),
                keep=keep,
                limits=limits.to_json(),
                folders=list(folders),
                temporary_folders=[*temporary_folders, *(private.all if private is not None else ())],
                isolation=isolation,
            )
            if len(body_of(spec)) > INLINE_LIMIT:
                # Nothing has been started but the warden: it ends, which is handled in the usual way.
                self._problem = "the environment is larger than 1 MiB"
                self._lifeline.shutdown(socket.SHUT_WR)
                return
            self._tell_warden(spec, fds=fds.values())
        if setup is not None:
            brake = limits.memory_bytes if limits.enforced and limits.mem_mode == "brake" else None
            self.send(0, setup.replace(brake_bytes=brake))

    # ---- messages of the parent

    def send(self, task: int, *messages: ProcessMessage) -> None:
        """Send messages on the task socket, with one write; a memfd stays the caller's."""
        if isinstance(messages[0], _TASKS):
            self._task_sent_at = time.monotonic()
            self._oom.task_begins(self._task_sent_at)
            if not self._is_throttled:
                self._throttle(True)
        self._channel.send(task, *messages)

    def stop(self, task: int, options: Mapping[str, object]) -> None:
        """Have the user's stop() called. The grace is the caller's; the CPU limit rests meanwhile."""
        self._throttle(False)
        super().stop(task, options)

    def exit(self, options: Mapping[str, object]) -> None:
        """Have the child end: the user's stop() if a task runs, exit(), interpreter shutdown."""
        self._throttle(False)
        self.watch(idle=False)  # so that what it has made since the last task is found
        super().exit(options)

    def kill(self, cause: Cause, detail: str = "") -> None:
        """End the whole tree now. on_exit follows, within 100 ms unless the kernel holds a process."""
        if self._state is ChildState.GONE or self._kill is not None:
            return
        self._kill = (cause, detail)
        self._tell_warden(Kill(self._channel.tells_stacks and cause in STACK_WANTED))
        self._later(WARDEN_DEADLINE_S, lambda: self._on_warden_lost("it did not answer"))

    def watch(self, *, idle: bool, thread_lost: bool = False) -> None:
        """Set whether a task runs: an idle tree is sampled only where it could break a limit."""
        if not idle:  # the tasks of a Pool come another way than by send()
            self._oom.task_begins(time.monotonic())
        self._tell_warden(WatchTree(idle, self.loaded, self.has_stop, thread_lost))

    def ask(self, number: int, *, began_at: float | None = None) -> None:
        """Have the usage of this moment sent, with this number; `began_at`: count the peak from then on."""
        self._tell_warden(AskUsage(number, began_at is not None, began_at or 0.0))

    def pids(self) -> list[int]:
        """Return the processes of the tree."""
        return list(process_tree.descendants(self._warden.pid))

    def end_others(self) -> None:
        """End every process of the tree but the child itself, and its helpers."""
        self._tell_warden(EndOthers(self.helpers))

    def _throttle(self, on: bool) -> None:
        """Switch the CPU limit off while a stop or an exit runs, so that its grace suffices, and on again."""
        if self._limits.cpu_cores is not None and on != self._is_throttled:
            self._is_throttled = on
            self._tell_warden(LimitCpu(on))

    def _tell_warden(self, message: ProcessMessage, *, fds: Iterable[int] = ()) -> None:
        if self._state is ChildState.GONE:
            return
        try:
            self._lifeline.settimeout(WARDEN_READS_S)
            data = encode(0, message)
            # The descriptors travel with the first bytes.
            sent = socket.send_fds(self._lifeline, [data], list(fds)) if fds else 0
            self._lifeline.sendall(data[sent:])
        except TimeoutError:  # it is stopped, and may have half a message
            self._later(0, lambda: self._on_warden_lost("it reads no messages"))
        except OSError:
            pass  # it is gone, which the lifeline's EOF tells
        self._lifeline.setblocking(False)

    # ---- messages of the warden

    def _on_news(self, message: ProcessMessage) -> None:
        if self._state is ChildState.GONE:
            return
        if isinstance(message, Spawned):
            self.pid, self._problem, self.protection = message.pid, message.problem, message.protection
            self._is_refused = message.is_refused
            if message.is_refused:
                from ..isolation.remedies import unavailable

                self._problem = unavailable(message.protection.refused or (), message.protection.possible)
            self.began_at = time.monotonic()
            self._begin_reading()
        elif isinstance(message, Sample):
            self._listener.on_sample(self, message)
        elif isinstance(message, Ended):
            self._state = ChildState.ENDED
            self._channel.drain()  # whether the child has closed its socket is part of how it ended
            exit = exit_of(
                message,
                pid=self.pid,
                problem=self._problem,
                is_refused=self._is_refused,
                kill=self._kill,
                channel_closed=self._channel.has_ended,
                limits=self._limits,
                loaded=self.loaded,
                task_began=self._task_began_at(),
                oom_in_task=self._oom.has_struck(),
            )
            if exit.left:
                # On a busy machine, a killed process may not have had the time to die.
                self._end_orphans(lambda ended, left: self._on_rest_ended(exit, left))
            else:
                self._finish(exit)

    def _task_began_at(self) -> float:
        """Return when its last task began, on the monotonic clock; 0: it had none."""
        return self._task_sent_at

    def _on_bad_news(self, error: ChannelError) -> None:
        """End the tree from here: the warden is of another version, or has sent what is no message."""
        self._problem = self._problem or str(error)
        self._on_warden_lost(str(error))

    def _on_lifeline_end(self) -> None:
        if self._state in (ChildState.STARTING, ChildState.RUNNING):
            self._on_warden_lost("it ended unexpectedly")

    # ---- the end

    def _finish(self, exit: Exit) -> None:
        WardedChild.alive.discard(self)
        with warden_launch.offered(warden_launch.WaitingWarden(self._warden, self._lifeline)):
            super()._finish(exit._replace(is_program=self._is_program))
        if self._private is not None:
            self._private.remove()
        if self._forwarder is not None:
            self._forwarder.end()

    @property
    def records_folder(self) -> str | None:
        """The folder in which the child writes the files of its task; None: in the task's own."""
        return self._private.records if self._private is not None else None

    def _close(self) -> None:
        self._news.close()
        super()._close()

    def _on_warden_lost(self, why: str) -> None:
        """End the tree from here: the warden is gone or does not answer."""
        if self._state is ChildState.GONE or self not in WardedChild.alive:
            return
        self._end_orphans(lambda ended, left: self._on_orphans_ended(why, ended, left))

    def _end_orphans(self, on_done: Callable[[list[Left], list[Left]], None]) -> None:
        """End the warden, and then the processes that are orphans below this process."""
        self._warden.kill()
        self._warden.wait()
        WardedChild.alive.discard(self)
        OrphanCleanup(
            self._loop,
            spared=lambda: _wardens() | spared(),
            on_done=on_done,
        ).step()

    def _on_rest_ended(self, exit: Exit, left: list[Left]) -> None:
        if self._state is not ChildState.GONE:
            self._finish(exit._replace(left=tuple(ProcessMemory(*one) for one in left)))

    def _on_orphans_ended(self, why: str, ended: list[Left], left: list[Left]) -> None:
        if self._state is ChildState.GONE:
            return
        from ..linux import cgroup  # late: a warden is lost only if somebody kills it

        cgroup.remove_dead_groups()
        self._finish(
            exit_without_warden(
                why,
                pid=self.pid,
                problem=self._problem,
                kill=self._kill,
                ended=ended,
                left=left,
                loaded=self.loaded,
            )
        )


def look_after_children(loop: LoopProtocol) -> None:
    """Continue a warden that was stopped, and reap or spare what other processes have left to this one.

    To be called at each SIGCHLD.
    """
    global _next_look
    # While a warden is stopped, nobody enforces limits. What suspends a whole job stops this process, too.
    for pid in _wardens():
        process_tree.go_on(pid)
    if _next_look is not None:
        _next_look.cancel()
        _next_look = None
    wait_s = LOOK_S if os.getpid() == 1 else None
    if adopt(_wardens()):
        wait_s = REAP_S
    if wait_s is not None:
        _next_look = loop.after(wait_s, lambda: look_after_children(loop))


def _wardens() -> frozenset[int]:
    """Return the pids of all wardens that live, as far as this process knows."""
    return frozenset(one._warden.pid for one in WardedChild.alive) | warden_launch.waiting()
