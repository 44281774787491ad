"""The process between the parent and the child: starts the child, enforces its limits, ends its tree.

Theory of operation
-------------------
Three processes: parent -> warden -> child (which runs the user's code, and may start many more).

* The parent executes the warden by its file name, in a session of its own. The warden has one thread, no
  network and no user data. It is the subreaper of every process that the child starts, and has no other
  children: when waitpid() fails with ECHILD, no process of the tree is left.
* The *lifeline* is a socketpair between parent and warden; the parent holds the only other end. Frames go
  both ways (messages.py). When the parent has ended, for any reason, the read returns EOF, and the warden
  ends the tree and itself. The warden has no PDEATHSIG: it would be killed before it can clean up (measured:
  56 of 56 processes survived). Only the child has PDEATHSIG, in case the warden itself is killed; the parent
  is a subreaper too, and then ends the other processes.
* The child's sockets and output pipes lead straight from the parent to the child. The warden receives the
  child's ends, passes them on at exec, and closes its copies.
* The tree is ended when the child has exited, a limit is exceeded, Kill arrives or the lifeline breaks: the
  warden freezes, kills and reaps until ECHILD (process_tree.py), sends Ended to the parent, and exits. Ended
  is sent after the last process is gone, never before.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from ..linux import kernel, process_tree, procfs
from ..shared.channel import LAST_STACK_SIGNAL, STACK_SIGNAL, ChannelError, FrameReader, fds_of
from ..shared.limits import Limits
from ..shared.message_format import PROTOCOL_VERSION, ProcessMessage, decode, encode
from ..shared.messages import (
    TO_WARDEN,
    Account,
    AskUsage,
    BrokenLimit,
    Ended,
    EndOthers,
    Kill,
    LimitCpu,
    ProcessMemory,
    Protection,
    Spawn,
    Spawned,
    WatchTree,
)
from ..usage.usage import Breach
from .child_start import become_child
from .limit_enforcer import LimitEnforcer

#: A report names this many processes, and counts the others.
NAMED = 20
#: A process that SIGKILL does not end in this time is blocked in the kernel (state D) and reported as left.
KILL_DEADLINE_S = 10.0
#: Interval between samples of usage sent to the parent while a task runs.
SAMPLE_S = 0.25
#: Time for faulthandler to write the stacks of a child that is about to be killed.
STACK_S = 0.25
#: Time for resource trackers to remove what the processes that they served have left; one that has just been
#: started needs 20 ms for Python's own start.
TRACKERS_S = 1.0
#: Time for a process that exceeds the memory limit to write its stacks, in which its other threads may use
#: more memory. Writing takes 0.2 ms once the process gets a processor.
LAST_STACK_S = 0.03


def main() -> NoReturn:
    """Run as the warden until the tree below is gone; argv: role, lifeline descriptor."""
    kernel.become_subreaper()
    with contextlib.suppress(OSError):
        kernel.hide_from_same_user()
    # The parent handles Ctrl-C and SIGTERM, and says on the lifeline what the warden is to do.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    lifeline = socket.socket(fileno=int(sys.argv[2]))
    # A copy of it in the tree would keep the lifeline open after the parent's end.
    lifeline.set_inheritable(False)
    gc.freeze()
    gc.enable()
    Warden(lifeline).run()
    # Nothing is buffered, and the parent would wait some milliseconds for the interpreter's shutdown.
    os._exit(0)


class Warden:
    """Starts one child, enforces its limits, and ends its tree: from Spawn to Ended."""

    def __init__(
        self,
        lifeline: socket.socket,
        *,
        clock: Callable[[], float] = time.monotonic,
        select: Callable[..., tuple[list[int], list[int], list[int]]] = select.select,
    ) -> None:
        """Nothing is read yet. Tests pass their own `clock` and `select`, in place of the system's."""
        self._lifeline = lifeline
        self._clock = clock
        self._select = select
        self._parent = os.getppid()
        self._temporary_folders: list[str] = []
        lifeline.setblocking(True)
        self._reader = FrameReader()
        self._pid = 0
        self._status: int | None = None
        self._usage: Any = None
        self._was_told_to_kill = False
        self._broken: BrokenLimit | None = None
        self._enforcer: LimitEnforcer | None = None
        self._sample_at = 0.0
        self._child_fds: list[int] = []  #: received for the child
        self._account: Account | None = None
        self._stack_fd = -1  #: the file into which the child's faulthandler writes stacks
        # SIGCHLD only has to wake select(). Without a handler nothing would be written to the descriptor.
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wake_fd = wake_read
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)

    def run(self) -> None:
        """Serve until no process of the tree is left and the parent has been told so."""
        fds = [self._wake_fd, self._lifeline.fileno()]
        while True:
            # select, not poll: its timeout is finer than a millisecond.
            shared = self._enforcer.new_file_fds() if self._enforcer is not None and self._pid else []
            ready, _, _ = self._select([*fds, *shared], [], [], self._timeout_s())
            if fds[1] in ready and not self._receive():
                self._end_tree()
                self._remove_temporary_folders()
                return
            if fds[0] in ready:
                self._drain_wake()
                process_tree.reap(self._reaped)
            if self._pid and (self._status is not None or self._was_told_to_kill or self._broken is not None):
                self._send_ended(*self._end_tree())
                return
            if self._pid and self._enforcer is not None:
                if shared and shared[0] in ready:
                    self._enforcer.on_new_files()
                self._check_limits(self._enforcer)

    def _remove_temporary_folders(self) -> None:
        """Remove the folders that a parent ended by SIGKILL could not remove itself."""
        if self._temporary_folders and self._parent_ends():
            import shutil  # here: needed only when the parent was killed

            for folder in self._temporary_folders:
                shutil.rmtree(folder, ignore_errors=True)

    def _parent_ends(self) -> bool:
        """Whether the lifeline broke because the parent ended; otherwise it still uses the folders."""
        try:
            return os.getppid() != self._parent or procfs.is_ending(self._parent)
        except OSError:  # no /proc, or it has ended since the first condition was read
            return os.getppid() != self._parent

    def _timeout_s(self) -> float | None:
        if self._enforcer is None or not self._pid:
            return None
        at = self._enforcer.next_at
        if not self._enforcer.idle:
            at = min(at, self._sample_at)
        return max(0.0, at - self._clock()) if at < math.inf else None

    def _check_limits(self, enforcer: LimitEnforcer) -> None:
        """Check the limits and send a sample, each if it is due."""
        now = self._clock()
        if now >= enforcer.next_at:
            found = enforcer.check(now)
            if found is not None:
                self._confirm_breach(enforcer, found)
                return
        if now >= self._sample_at and not enforcer.idle:
            self._sample_at = now + SAMPLE_S
            self._send(enforcer.sample())

    def _confirm_breach(self, enforcer: LimitEnforcer, found: Breach) -> None:
        """Freeze the tree and measure again: note the exceeded limit, or continue the tree after an error."""
        enforcer.stop_throttle()
        frozen = process_tree.freeze(os.getpid(), deadline=self._clock() + process_tree.FREEZE_S)
        sure = enforcer.check_frozen_tree()
        if sure is None and found.kind in ("memory", "shared_memory"):
            for pid in frozen:
                process_tree.signal_to(pid, signal.SIGCONT)
            enforcer.restart_throttle()
            return
        sure = sure if sure is not None else found
        self._broken = enforcer.describe_breach(sure)
        if sure.kind in ("memory", "shared_memory"):
            self._end_with_stack([one.pid for one in self._broken.top[:1]])

    def _receive(self) -> bool:
        """Read the parent's messages and act on each; False when the lifeline is broken."""
        try:
            data, ancillary, _, _ = self._lifeline.recvmsg(65536, 256, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return False
        if not data:
            return False
        self._child_fds += fds_of(ancillary)
        try:
            messages = [decode(frame, TO_WARDEN) for frame in self._reader.feed(data)]
        except ChannelError as error:
            # Only a parent of another version sends a message that this one cannot read.
            self._send(Spawned(PROTOCOL_VERSION, 0, str(error), Protection("", "", False)))
            return False
        for message in messages:
            self._act_on(message)
        return True

    def _act_on(self, message: ProcessMessage) -> None:
        enforcer = self._enforcer
        if isinstance(message, Spawn):
            self._spawn(message)
        elif isinstance(message, Kill):
            self._was_told_to_kill = self._broken is None
            if message.stack and self._pid:
                self._ask_for_stack()
        elif enforcer is None:
            return  # all other messages concern the child, which has not been started
        elif isinstance(message, WatchTree):
            enforcer.idle = message.idle
            if message.loaded:
                enforcer.code_loaded()
        elif isinstance(message, LimitCpu):
            enforcer.limit_cpu(message.on)
        elif isinstance(message, AskUsage):
            self._send(enforcer.fresh_sample().replace(answers=message.number))
            if message.restart:
                enforcer.restart_peak(message.began_at)
                enforcer.idle = False
        elif isinstance(message, EndOthers):
            self._end_others()

    def _end_others(self) -> None:
        """Kill every process but the child itself; the next sweep finds those forked meanwhile."""
        for _ in range(10):
            others = [pid for pid in process_tree.descendants(os.getpid()) if pid != self._pid]
            if not others:
                return
            for pid in others:
                process_tree.signal_to(pid, signal.SIGKILL)
            self._wait(0.002)
            process_tree.reap(self._reaped)

    def _wait_for_trackers(self) -> None:
        """Kill all processes but the resource trackers, which then remove what those have left, and end."""
        below = list(process_tree.descendants(os.getpid()))
        trackers = {pid for pid in below if process_tree.is_resource_tracker(pid)}
        for pid in trackers:
            process_tree.signal_to(pid, signal.SIGCONT)  # it is frozen if a limit was exceeded
        deadline = self._clock() + TRACKERS_S
        while trackers and self._clock() < deadline:
            for pid in below:
                if pid not in trackers:
                    process_tree.signal_to(pid, signal.SIGKILL)
            self._wait(0.005)
            process_tree.reap(self._reaped)
            below = list(process_tree.descendants(os.getpid()))
            trackers.intersection_update(below)

    def _ask_for_stack(self) -> None:
        """Have faulthandler write the stack of every thread, which works even while C code holds the GIL."""
        # In this order: a process that has stopped itself writes where it did so, before it continues.
        process_tree.signal_to(self._pid, STACK_SIGNAL)
        process_tree.signal_to(self._pid, signal.SIGCONT)
        deadline = self._clock() + STACK_S
        size = same = 0
        while self._clock() < deadline and self._status is None:
            self._wait(0.001)
            process_tree.reap(self._reaped)
            found = os.fstat(self._stack_fd).st_size
            same = same + 1 if found and found == size else 0
            if same == 3:
                return  # the file has stopped growing: the stacks are complete
            size = found

    def _end_with_stack(self, largest: list[int]) -> None:
        """End the largest process with a signal whose handler writes its stacks first; else the child.

        All processes are frozen. Only the child, and a process that it has forked, has that handler.
        """
        pid = next((one for one in largest if procfs.catches(one, LAST_STACK_SIGNAL)), self._pid)
        if not procfs.catches(pid, LAST_STACK_SIGNAL):
            return
        process_tree.signal_to(pid, LAST_STACK_SIGNAL)
        process_tree.signal_to(pid, signal.SIGCONT)
        deadline = self._clock() + LAST_STACK_S
        while self._clock() < deadline and self._status is None and procfs.catches(pid, LAST_STACK_SIGNAL):
            self._wait(0.0005)
            process_tree.reap(self._reaped)

    def _spawn(self, spec: Spawn) -> None:
        """Fork and execute the child; tell the parent its pid, or why it could not be executed."""
        # The descriptors came with the first bytes of this frame, in this order.
        fds: dict[str, int] = dict(zip(spec.fds, self._child_fds, strict=True))
        limits = Limits.from_json(spec.limits)
        self._temporary_folders = spec.temporary_folders
        keep: list[int] = [fds[name] for name in spec.keep]
        me = os.getpid()
        try:
            made_read, made_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            ours = [os.getppid(), me]
            enforcer = LimitEnforcer(limits, folders=spec.folders, ours=ours, made_folders=made_read)
            fds["made"] = made_write
            keep.append(made_write)
            self._stack_fd = os.dup(fds["fault"])
            error_read, error_write = os.pipe2(os.O_CLOEXEC)
            pid = os.fork()
        except OSError as error:
            # RLIMIT_NPROC or RLIMIT_NOFILE is reached, or /proc is missing.
            self._send(Spawned(PROTOCOL_VERSION, 0, str(error), Protection("", "", False)))
            os._exit(1)
        if pid == 0:
            try:
                become_child(spec, fds, keep, warden_pid=me, confinement=enforcer.confinement)
            except BaseException as error:  # noqa: BLE001
                text = f"{type(error).__name__}: {error}"
                os.write(error_write, text.encode("utf-8", "replace")[:4000])
            os._exit(127)
        self._pid = pid
        self._enforcer = enforcer
        enforcer.child_started(pid)
        os.close(error_write)
        for fd in fds.values():
            os.close(fd)
        # Empty at EOF: exec has succeeded, and has closed the other end.
        problem = os.read(error_read, 4096).decode("utf-8", "replace")
        os.close(error_read)
        self._send(Spawned(PROTOCOL_VERSION, pid, problem, enforcer.confinement.describe()))

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_fd, 4096):
                pass

    def _reaped(self, pid: int, status: int, usage: Any) -> None:
        if self._enforcer is not None:
            self._enforcer.reaped(pid, usage)
        if pid == self._pid:
            self._status = status
            self._usage = usage

    def _wait(self, seconds: float) -> None:
        """Wait until a process has ended, for at most this long."""
        ready, _, _ = self._select([self._wake_fd], [], [], seconds)
        if ready:
            self._drain_wake()

    def _end_tree(self) -> tuple[dict[int, process_tree.Left], list[process_tree.Left]]:
        """End all processes of the tree; return those that were there, and those that could not be ended."""
        hook = None
        if self._enforcer is not None:
            self._enforcer.stop_throttle()
            self._enforcer.check_before_kill()
            hook = self._enforcer.confinement.kill
            if self._enforcer.has_unproven:
                self._wait_for_trackers()
        there, left = process_tree.kill_all(
            reaped=self._reaped, wait=self._wait, deadline_s=KILL_DEADLINE_S, also=hook
        )
        self._account = self._enforcer.finish() if self._enforcer is not None else None
        return there, left

    def _send_ended(self, there: dict[int, process_tree.Left], left: list[process_tree.Left]) -> None:
        """Report the end to the parent; `there` and `left` as _end_tree() returned them."""
        # A resource tracker is Python's own and ends by itself: the algorithm has not left it.
        others = [one for one in there.values() if one.name != process_tree.TRACKER]
        largest = sorted(others, key=lambda one: -one.rss_bytes)
        self._send(
            Ended(
                status=self._status,
                was_killed=self._was_told_to_kill,
                broken=self._broken,
                others=[ProcessMemory(*one) for one in largest[:NAMED]],
                others_count=len(others),
                left=[ProcessMemory(*one) for one in left[:NAMED]],
                max_rss_bytes=self._usage.ru_maxrss * 1024 if self._usage is not None else 0,
                account=self._account,
            )
        )

    def _send(self, message: ProcessMessage) -> None:
        # A parent that has ended receives nothing; the next read finds the lifeline broken.
        with contextlib.suppress(OSError):
            self._lifeline.sendall(encode(0, message))
