"""The parent's handle on one child: start, send, stop, kill; in the end exactly one Exit.

Theory of operation
-------------------
Three processes: parent -> warden -> child. Between them:

    lifeline   socketpair, parent <-> warden. EOF in the warden means that the parent is gone.
    tasks      socketpair, parent <-> child. Setup and the tasks down; all that the child says up.
    control    socketpair, parent -> child. StopTask, EndProcess, Reply.
    stdout,    pipes, child -> parent.
    stderr
    fault      a memory file that faulthandler writes into; read once, at the end.

What is said stands in shared/messages.py. Nothing orders the lifeline and the task socket: so nothing is read
from a child before Spawned was, which has its pid and how its limits are enforced.

The parent closes its copies of the child's ends as soon as the warden runs, the warden as soon as the
child runs. Nothing here blocks: writes go out as far as the kernel takes them, the rest when it takes
more. What ended the child is told by the warden, never guessed from an EOF: a grandchild may hold the
sockets open, and a child may close them and live on.

The end, in this order: the warden has killed and reaped the tree and says Ended; the channel and the
output are drained; the warden is reaped; on_exit is called. If the warden itself is lost, its orphans
have become our children (the parent is a subreaper), and they are ended from here, in small steps.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Protocol

from ..linux import kernel, process_tree
from ..shared.channel import (
    EXIT_CHANNEL_LOST,
    INLINE_LIMIT,
    INLINE_MAX,
    ChannelError,
    FrameReader,
    fds_of,
    header,
)
from ..shared.limits import Limits
from ..shared.messages import (
    FROM_CHILD,
    FROM_WARDEN,
    PROTOCOL_VERSION,
    AskUsage,
    Begin,
    Blob,
    Ended,
    EndOthers,
    EndProcess,
    Initialize,
    Kill,
    Loaded,
    Message,
    ProcessMemory,
    Protection,
    Reply,
    Sample,
    Setup,
    SharedMemoryUse,
    Spawn,
    Spawned,
    StopTask,
    Throttle,
    Watch,
    Wire,
    body_of,
    decode,
    encode,
)
from ..shared.outcome import STACK_WANTED, Breach, Cause, Exit, Process
from . import warden_launch

#: Read from a pipe or socket at most this much before others get their turn.
CHUNK = 65536
#: A program that prints line after line would wake us for each of them: after so many small reads without a
#: pause between them its pipe is left alone for a moment, in which more can come.
QUICK_READS = 16
SMALL_BYTES = 16384
REST_S = 0.002
#: An EOF on the channel says that the child is ending, or that it has closed our sockets. After this
#: long without news from the warden it is the latter.
CHANNEL_GRACE_S = 1.0
#: The warden's own kill has a deadline of 10 s; after this long it is not coming back.
WARDEN_DEADLINE_S = 12.0
_STACK_MAX = 32_000
#: What is read from a child's socket, until it is taken apart: at once, and by one thread.
_scratch = bytearray(CHUNK)
_scratch_view = memoryview(_scratch)


class Timer(Protocol):
    """A call in the future that can be cancelled."""

    def cancel(self) -> None: ...


class Loop(Protocol):
    """What is asked of the loop that serves us."""

    def on_readable(self, fd: int, callback: Callable[[], None] | None) -> None: ...
    def on_writable(self, fd: int, callback: Callable[[], None] | None) -> None: ...
    def after(self, seconds: float, callback: Callable[[], None]) -> Timer: ...


class Listener(Protocol):
    """Who is told. Calls come from the loop, in the order in which things happened."""

    def on_message(self, child: Child, task: int, message: Message) -> None:
        """A message of the child, of this task (0: of none); a memfd in it is the listener's to close."""

    def on_output(self, child: Child, stream: str, data: bytes) -> None:
        """Bytes from the child's "stdout" or "stderr"."""

    def on_sample(self, child: Child, sample: Sample) -> None:
        """Usage of the tree, a few times a second while it is watched, and once for each ask()."""

    def on_exit(self, child: Child, exit: Exit) -> None:
        """No process of this child is left (or exit.left names them); the last call."""


class Child:
    """A child and its warden. Made by start(); after on_exit nothing of it is open."""

    #: Every child whose warden lives: nobody in these branches is an orphan of a lost warden.
    alive: ClassVar[set[Child]] = set()
    #: It is killed when it does not end in its grace.
    may_kill = True

    def __init__(
        self,
        loop: Loop,
        listener: Listener | None,
        *,
        argv: Sequence[str],
        cwd: str,
        env: Mapping[str, str],
        setup: Setup,
        limits: Limits,
        folders: Sequence[str] = (),
    ) -> None:
        """Start the warden, which starts the child; on return both are under way, nothing is loaded.

        `listener`: None if tell() follows before the loop turns. `argv`: interpreter and options that start
        the child by file; the descriptors are appended.
        `folders`: what limits.disk_bytes counts. Raises OSError when the warden could not be executed.
        """
        self._set_out(loop, listener, limits)
        kernel.become_subreaper()
        self._warden, self._lifeline = warden_launch.take()
        self._lifeline.setblocking(False)
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as undo:
            undo.callback(self._lifeline.close)  # it ends by itself then
            # Ours first in each pair; theirs are closed here once the warden has them.
            self._tasks, tasks = socket.socketpair()
            self._control, control = socket.socketpair()
            for one in (tasks, control):
                theirs.enter_context(one)
            fds = {"tasks": tasks.fileno(), "control": control.fileno()}
            for name in ("stdout", "stderr"):
                ours, other = os.pipe2(os.O_CLOEXEC)
                theirs.callback(os.close, other)
                os.set_blocking(ours, False)
                self._streams[ours] = name
                self._streams_poll.register(ours, select.POLLIN)
                fds[name] = other
            self._fault = os.memfd_create("hkrunner-fault", os.MFD_CLOEXEC)
            fds["fault"] = os.dup(self._fault)
            theirs.callback(os.close, fds["fault"])
            for ours_socket in (self._tasks, self._control):
                ours_socket.setblocking(False)
            self._to_main = _Sender(loop, self._tasks)
            self._to_control = _Sender(loop, self._control)
            undo.pop_all()
            Child.alive.add(self)
            spec = Spawn(
                version=PROTOCOL_VERSION,
                argv=[*argv, warden_launch.START, "child"],
                cwd=cwd,
                # Not the warden's own: an LD_PRELOAD meant for the algorithm must not be loaded there.
                env=dict(env),
                fds=list(fds),
                keep=["tasks", "control", "fault"],
                limits=limits.to_json(),
                folders=list(folders),
            )
            self._loop.on_readable(self._lifeline.fileno(), self._on_news)
            if len(body_of(spec)) > INLINE_LIMIT:
                # Nothing has been started but the warden: it ends, and says so in the usual way.
                self._problem = "the environment is larger than 1 MiB"
                self._lifeline.shutdown(socket.SHUT_WR)
                return
            self._tell_warden(spec, fds=fds.values())
        brake = limits.memory_bytes if limits.enforced and limits.mem_mode == "brake" else None
        self.send(0, setup.replace(brake_bytes=brake))

    def tell(self, listener: Listener) -> None:
        """Tell this listener from now on."""
        self._listener = listener

    def _set_out(self, loop: Loop, listener: Listener | None, limits: Limits) -> None:
        self._loop = loop
        if listener is not None:
            self.tell(listener)
        self.pid = 0
        self.loaded = False
        #: Its code has an init(), as far as the child has told.
        self.has_init = True
        self._reader = FrameReader()
        self._news = FrameReader()
        self._has_ended = False
        self._problem = ""
        self._kill: Cause | None = None
        self._kill_detail = ""
        self._gone = False
        self._closed = False
        self._is_heard = False  #: Spawned was read, and the task socket is read since
        self._is_paused = False  #: see listen()
        self._throttled = True
        self._timers: list[Timer] = []
        self._streams: dict[int, str] = {}
        #: A read that finds nothing costs five times as much as to ask: Python makes an exception of it.
        self._streams_poll: select.poll = select.poll()
        self._output_held = False
        self._resting: set[int] = set()  #: pipes that are left alone for REST_S
        self._read_at: dict[int, float] = {}
        self._quick_reads: dict[int, int] = {}
        self._limits = limits
        #: How the limits are enforced, as the warden said; None until it has, or where there is no warden.
        self.protection: Protection | None = None

    def __repr__(self) -> str:
        state = "gone" if self._gone else "loaded" if self.loaded else "starting"
        return f"<Child pid {self.pid or '?'} {state}>"

    def _listen_to_child(self) -> None:
        """Its pid is known: from here on what it says and prints is read."""
        self._is_heard = True
        self.listen(not self._is_paused)
        for fd in self._streams:
            self._loop.on_readable(fd, partial(self._on_stream, fd))

    # ---- what the parent says

    def send(self, task: int, *messages: Message) -> None:
        """Send messages on the task socket, with one write; a memfd stays the caller's."""
        if any(isinstance(one, (Begin, Initialize)) for one in messages):
            self._throttle(True)
        _put(self._to_main, task, messages)

    def reply(self, task: int, wire: Wire) -> None:
        """Hand an answer of the worker to the control thread; a memfd stays the caller's."""
        _put(self._to_control, task, (Reply(wire),))

    @property
    def is_quiet(self) -> bool:
        """All it has said was read, and its socket is open: as far as one can tell, it waits."""
        poll = select.poll()
        poll.register(self._tasks, select.POLLIN)
        return not poll.poll(0)

    def listen(self, on: bool) -> None:
        """Read what the child says, or let it wait: its answers cannot be passed on for now."""
        self._is_paused = not on
        if self._is_heard and not self._closed and not self._gone:
            self._loop.on_readable(self._tasks.fileno(), self._on_tasks if on else None)

    def stop(self, task: int, options: Mapping[str, object]) -> None:
        """Have the user's stop() called. The grace is the caller's; the CPU limit rests meanwhile."""
        self._throttle(False)
        _put(self._to_control, task, (StopTask(_as_json(options)),))

    def exit(self, options: Mapping[str, object]) -> None:
        """Have the child end: the user's stop() if a task runs, exit(), interpreter shutdown."""
        self._throttle(False)
        self.watch(idle=False)  # what it has made since the last task is seen once more
        _put(self._to_control, 0, (EndProcess(_as_json(options)),))
        # EOF on the task socket is what the main thread waits for between tasks.
        self._to_main.end()

    def kill(self, cause: Cause, detail: str = "") -> None:
        """End the whole tree now. on_exit follows, within 100 ms unless the kernel holds a process."""
        if self._gone or self._kill is not None:
            return
        self._kill, self._kill_detail = cause, detail
        self._tell_warden(Kill(cause in STACK_WANTED))
        self._later(WARDEN_DEADLINE_S, self._warden_overdue)

    @property
    def is_being_killed(self) -> bool:
        """Whether kill() was called; what the child says from then on may come of the kill itself."""
        return self._kill is not None

    def watch(self, *, idle: bool) -> None:
        """Say whether a task runs: an idle tree is looked at only where a limit could be broken meanwhile."""
        self._tell_warden(Watch(idle, self.loaded))

    def ask(self, number: int, *, restart: bool) -> None:
        """Have the usage of this moment sent, with this number; `restart`: a new peak begins with it."""
        self._tell_warden(AskUsage(number, restart))

    def end_others(self) -> None:
        """End every process of the tree but the child itself."""
        self._tell_warden(EndOthers())

    def _throttle(self, on: bool) -> None:
        """A grace must not run out because the algorithm is held back while it winds down."""
        if self._limits.cpu_cores is not None and on != self._throttled:
            self._throttled = on
            self._tell_warden(Throttle(on))

    def _tell_warden(self, message: Message, *, fds: Iterable[int] = ()) -> None:
        # The warden reads at once or is gone; then its end is noticed by the lifeline's EOF.
        with contextlib.suppress(OSError):
            self._lifeline.setblocking(True)
            self._lifeline.settimeout(5.0)
            data = encode(0, message)
            # The descriptors travel with the first bytes.
            sent = socket.send_fds(self._lifeline, [data], list(fds)) if fds else 0
            self._lifeline.sendall(data[sent:])
        self._lifeline.setblocking(False)

    # ---- what the child says

    def _on_tasks(self) -> None:
        self._read_tasks()

    def _read_tasks(self) -> bool:
        """Read once from the child; False when there is nothing more for now."""
        if self._tasks.fileno() < 0:
            return False
        try:
            count, ancillary, _, _ = self._tasks.recvmsg_into([_scratch], 64, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return False
        except OSError:
            count, ancillary = 0, []
        fds = fds_of(ancillary)
        if not count and not fds:
            self._channel_closed()
            return False
        try:
            frames = self._reader.feed(_scratch_view[:count], fds)
        except ChannelError as error:
            self._channel_broken(error)
            return False
        for frame in frames:
            try:
                message = decode(frame, FROM_CHILD)
            except ChannelError as error:
                self._channel_broken(error)
                continue  # the next ones are dropped by the listener, which closes what they hold
            if isinstance(message, Loaded):
                self.loaded = True
                self.has_init = "init" in message.methods
                self.watch(idle=True)  # until a task asks for its usage
            self._listener.on_message(self, frame.task, message)
        return True

    def _channel_broken(self, error: ChannelError) -> None:
        self._loop.on_readable(self._tasks.fileno(), None)
        self.kill(Cause.CHANNEL_BROKEN, str(error))

    def _channel_closed(self) -> None:
        self._closed = True
        self._loop.on_readable(self._tasks.fileno(), None)
        if not self._has_ended and not self._gone:
            what = "it closed the socket" + (" in the middle of a frame" if self._reader.partial else "")
            self._later(CHANNEL_GRACE_S, lambda: self.kill(Cause.CHANNEL_BROKEN, what))

    def _on_stream(self, fd: int) -> None:
        for other in self._resting - {fd}:
            self._read_stream(other)  # what was printed there came before
        count = self._read_stream(fd)
        now = time.monotonic()
        quick = 0 < count < SMALL_BYTES and now - self._read_at.get(fd, 0.0) < 2 * REST_S
        self._read_at[fd] = now
        self._quick_reads[fd] = self._quick_reads.get(fd, 0) + 1 if quick else 0
        if self._quick_reads[fd] > QUICK_READS and fd in self._streams and not self._output_held:
            self._resting.add(fd)
            self._loop.on_readable(fd, None)
            self._loop.after(REST_S, partial(self._rested, fd))

    def _rested(self, fd: int) -> None:
        if fd in self._resting:
            self._resting.discard(fd)
            self._loop.on_readable(fd, partial(self._on_stream, fd))

    def _read_stream(self, fd: int) -> int:
        """Read once from a pipe, and return how much; 0 when there is nothing more for now."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        if not data:
            name = self._streams.pop(fd, None)
            if name is not None:
                self._resting.discard(fd)
                self._loop.on_readable(fd, None)
                self._streams_poll.unregister(fd)
                os.close(fd)
            return 0
        self._listener.on_output(self, self._streams[fd], data)
        return len(data)

    def hold_output(self, on: bool) -> None:
        """Let what the child prints wait in its pipes, so that it waits itself once they are full."""
        if not self._gone:
            self._output_held = on
            self._resting.clear()
            for fd in self._streams:
                self._loop.on_readable(fd, None if on else partial(self._on_stream, fd))

    def drain_output(self) -> None:
        """Take what the child has printed up to now (at most 16 MiB of it)."""
        for fd, _ in self._streams_poll.poll(0):
            for _ in range(256):
                if not self._read_stream(fd):
                    break

    # ---- what the warden says

    def _on_news(self) -> None:
        try:
            data = self._lifeline.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.on_readable(self._lifeline.fileno(), None)
            if not self._has_ended:
                self._warden_lost("it ended unexpectedly")
            return
        try:
            messages = [decode(frame, FROM_WARDEN) for frame in self._news.feed(data)]
        except ChannelError as error:
            self._loop.on_readable(self._lifeline.fileno(), None)
            self._problem = self._problem or str(error)
            self._warden_lost(str(error))
            return
        for message in messages:
            if isinstance(message, Spawned):
                self.pid = message.pid
                self._problem = message.problem
                self.protection = message.protection
                self._listen_to_child()
            elif isinstance(message, Sample):
                self._listener.on_sample(self, message)
            elif isinstance(message, Ended):
                self._has_ended = True
                self._drain_tasks()
                self._finish(self._exit_of(message))
                return

    def _exit_of(self, ended: Ended) -> Exit:
        status, account, broken = ended.status, ended.account, ended.broken
        code = os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None
        number = os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None
        cause = Cause.EXITED if number is None else Cause.SIGNALLED
        breach: Breach | None = None
        if self._problem:
            cause = Cause.NOT_STARTED
        elif broken is not None:
            cause = Cause(broken.cause)
            breach = Breach(
                broken.used,
                broken.allowed,
                broken.after_s,
                _processes(broken.top),
                _objects(broken.objects),
                broken.objects_count,
                broken.objects_bytes,
            )
        elif ended.was_killed and self._kill is not None:
            cause = self._kill
        elif code == EXIT_CHANNEL_LOST and self._closed:
            cause, self._kill_detail = Cause.CHANNEL_BROKEN, "it closed the socket"
        elif number == signal.SIGKILL and account is not None and account.group_oom:
            cause = Cause.MEMORY
            breach = Breach(self._limits.memory_bytes or 0, self._limits.memory_bytes or 0)
        elif number == signal.SIGKILL and account is not None and account.machine_oom:
            cause = Cause.HOST_OOM
        others = [one for one in ended.others if one.pid != self.pid]
        exit = Exit(
            cause,
            pid=self.pid,
            code=code,
            signal=number,
            detail=self._problem or self._kill_detail,
            others=_processes(others),
            others_count=ended.others_count - (len(ended.others) - len(others)),
            left=_processes(ended.left),
            peak_bytes=ended.max_rss_bytes,
            limit_bytes=self._limits.memory_bytes if self._limits.enforced else None,
            origins=self._limits.origins,
            breach=breach,
            loaded=self.loaded,
        )
        if account is None:
            return exit
        return replace(
            exit,
            peak_bytes=max(account.peak_bytes, ended.max_rss_bytes - account.files_bytes),
            cpu_s=account.cpu_s,
            removed=_objects(account.removed),
            removed_count=account.removed_count,
            kept=_objects(account.kept),
            kept_count=account.kept_count,
        )

    # ---- the end

    def _finish(self, exit: Exit) -> None:
        """Drain, reap the warden, close, tell."""
        self._drain_tasks()
        self._gone = True
        self.drain_output()
        stack = self._read_stack()
        Child.alive.discard(self)
        # After ENDED the warden only has to end: at most a scheduling delay.
        if not warden_launch.has_ended(self._warden, 0.5):
            self._warden.kill()
        self._warden.wait()
        self._close()
        self._listener.on_exit(self, replace(exit, stack=stack))

    def _drain_tasks(self) -> None:
        while self._is_heard and not self._closed and self._read_tasks():
            pass

    def _read_stack(self) -> str:
        try:
            return user_stack(os.pread(self._fault, _STACK_MAX, 0).decode("utf-8", "replace"))
        except OSError:
            return ""

    def _close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        for fd in list(self._streams):
            self._loop.on_readable(fd, None)
            os.close(fd)
        self._streams.clear()
        self._streams_poll = select.poll()
        self._resting.clear()
        self._to_main.drop()
        self._to_control.drop()
        self._reader.close()
        for one in (self._tasks, self._control, self._lifeline):
            if one.fileno() >= 0:
                self._loop.on_readable(one.fileno(), None)
                self._loop.on_writable(one.fileno(), None)
                one.close()
        os.close(self._fault)

    def _later(self, seconds: float, callback: Callable[[], None]) -> None:
        self._timers.append(self._loop.after(seconds, callback))

    # ---- without a warden

    def _warden_overdue(self) -> None:
        self._warden_lost("it did not answer")

    def _warden_lost(self, why: str) -> None:
        """The warden is gone or does not answer: end the tree from here."""
        if self._gone:
            return
        self._warden.kill()
        self._warden.wait()
        Child.alive.discard(self)
        self._orphans: dict[int, process_tree.Left] = {}
        self._orphans_deadline = time.monotonic() + WARDEN_DEADLINE_S
        self._quiet = 0
        self._end_orphans(why)

    def _end_orphans(self, why: str) -> None:
        """One step: kill and reap whoever is below us and belongs to no living warden."""
        known = (
            frozenset(one._warden.pid for one in Child.alive) | warden_launch.waiting() | _others_children()
        )
        me = os.getpid()
        for pid in process_tree.freeze(me, deadline=time.monotonic() + 0.05, except_for=known):
            self._orphans.setdefault(pid, process_tree.look(pid))
            process_tree.signal_to(pid, signal.SIGKILL)
        for pid in [one for one in process_tree.children(me) if one not in known]:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        left = [pid for pid in process_tree.children(me) if pid not in known]
        # A process being handed from its dead parent to us is for a moment nobody's child.
        self._quiet = 0 if left else self._quiet + 1
        if self._quiet >= 5 or time.monotonic() > self._orphans_deadline:
            others = [Process(*one) for pid, one in self._orphans.items() if pid != self.pid]
            self._finish(
                Exit(
                    Cause.NOT_STARTED if self._problem else self._kill or Cause.GUARD_LOST,
                    pid=self.pid,
                    detail=self._problem or why,
                    others=tuple(others[:20]),
                    others_count=len(others),
                    left=tuple(Process(*process_tree.look(pid)) for pid in left),
                    loaded=self.loaded,
                )
            )
        else:
            self._later(0.002, lambda: self._end_orphans(why))


def _put(sender: _Sender, task: int, messages: Sequence[Message]) -> None:
    wire = getattr(messages[0], "wire", None)
    if isinstance(wire, Blob):
        sender.put(memoryview(header(messages[0].kind, task, wire.size, blob=True)), os.dup(wire.fd))
        return
    sender.put(memoryview(b"".join([encode(task, one) for one in messages])))


def _processes(found: Iterable[ProcessMemory]) -> tuple[Process, ...]:
    return tuple(Process(one.pid, one.name, one.memory_bytes) for one in found)


def _objects(found: Iterable[SharedMemoryUse]) -> tuple[tuple[str, int], ...]:
    return tuple((one.name, one.size_bytes) for one in found)


def _as_json(options: Mapping[str, object]) -> dict[str, Any]:
    """Return a stop's or an exit's options for the child; what JSON lacks as text."""
    try:
        data = json.dumps(dict(options), default=str, skipkeys=True)
    except (ValueError, RecursionError):
        data = ""
    if 0 < len(data) < INLINE_MAX - 64:  # the name of the field comes on top
        found: dict[str, Any] = json.loads(data)
        return found
    known = ("forceStop", "exitCode")
    return {key: options[key] for key in known if isinstance(options.get(key), int)}


#: Pids of processes that the program using us has started for other purposes (boards): not orphans.
other_children: set[int] = set()


def _others_children() -> frozenset[int]:
    return frozenset(other_children)


class _Sender:
    """Writes to one socket as far as the kernel takes it, the rest when it takes more."""

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        self._loop = loop
        self._socket = sock
        self._fd = sock.fileno()
        self._queue: deque[tuple[memoryview, int | None]] = deque()
        self._ending = False
        self._waits = False  #: for the kernel to take more

    def put(self, data: memoryview, fd: int | None = None) -> None:
        """Send these bytes, and this descriptor with their first; it is closed once it is sent."""
        idle = not self._queue
        if idle and fd is None:
            try:
                data = data[self._socket.send(data) :]  # as good as always all of it
            except OSError:
                pass  # the queue meets the same trouble, and deals with it
            if not data:
                return
        self._queue.append((data, fd))
        if idle:
            self._flush()

    def end(self) -> None:
        """Say EOF once everything is written."""
        self._ending = True
        if not self._queue:
            self._flush()

    def _flush(self) -> None:
        while self._queue:
            data, fd = self._queue[0]
            try:
                if fd is None:
                    sent = self._socket.send(data)
                else:
                    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder))]
                    sent = self._socket.sendmsg([data], rights)
                    os.close(fd)
            except BlockingIOError:
                self._waits = True
                self._loop.on_writable(self._fd, self._flush)
                return
            except OSError:
                self.drop()  # the child is going; why, the warden says
                return
            if sent < len(data):
                self._queue[0] = (data[sent:], None)
            else:
                self._queue.popleft()
        if self._waits:
            self._waits = False
            self._loop.on_writable(self._fd, None)
        if self._ending:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    def drop(self) -> None:
        """Forget what was not sent."""
        for _, fd in self._queue:
            if fd is not None:
                os.close(fd)
        self._queue.clear()
        if self._socket.fileno() >= 0:
            self._loop.on_writable(self._fd, None)


def user_stack(text: str) -> str:
    """Return what faulthandler wrote without our own frames, and without threads that stand in our code."""
    kept = []
    for block in text.replace("\0", "").strip().split("\n\n"):
        lines = block.splitlines()
        frames = [line for line in lines if line.startswith("  File ")]
        if not lines or lines[0].startswith("Extension modules"):
            continue
        # The most recent call comes first. A crash in our own code is told all the same.
        crashed_here = "Fatal" in text and lines[0].startswith("Current")
        is_own = bool(frames) and frames[0].startswith(_OWN_FRAMES)
        if is_own and not crashed_here:
            continue
        if not is_own:
            # What stands below our own frame has called us, where we run in a process of the user's.
            own = next((at for at, line in enumerate(lines) if line.startswith(_OWN_FRAMES)), len(lines))
            lines = lines[:own]
        kept.append("\n".join(line for line in lines if not line.startswith(_OWN_FRAMES)))
    return "\n".join(kept)


_OURS = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
_OWN_FRAMES = tuple(f'  File "{os.path.join(_OURS, name)}{os.sep}' for name in ("sandbox", "runner"))
