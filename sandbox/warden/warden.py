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
  warden freezes, kills and reaps until ECHILD (process_tree.py), and sends Ended to the parent. Ended is sent
  after the last process is gone, never before.
* The parent then has the warden start the next child, for which an interpreter and these imports need not
  start again, or ends it. ECHILD proves the same for the next tree: nothing of the last one is left.
"""

from __future__ import annotations

import _socket  # as in child/frame_socket.py
import contextlib
import gc
import math
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from ..linux import kernel, process_tree, procfs, scheduling
from ..shared.channel import ChannelError, FrameReader, fds_of
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
    Sample,
    Spawn,
    Spawned,
    WatchTree,
)
from ..usage.usage import Breach
from .child_start import IGNORED_SIGNALS, start_child
from .child_tree import ChildTree
from .limit_enforcer import LimitEnforcer

#: A report names this many processes, and counts the others.
NAMED = 20
#: A process that SIGKILL does not end in this time is blocked in the kernel (state D), or a busy machine
#: gives it no time to die. It is reported as left, and the parent goes on (orphan_cleanup.py).
KILL_DEADLINE_S = 10.0
#: Interval between samples of usage sent to the parent while a task runs.
SAMPLE_S = 0.25


def main() -> NoReturn:
    """Run as the warden until the tree below is gone; argv: role, lifeline descriptor."""
    kernel.become_subreaper()
    with contextlib.suppress(OSError):
        kernel.hide_from_same_user()
    # The parent says on the lifeline what the warden is to do.
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    given = int(sys.argv[2])
    # A low number: select() takes none above 1023, which a parent of many children gives. dup() also has the
    # tree not inherit it: a copy there would keep the lifeline open after the parent's end.
    lifeline = _socket.socket(fileno=os.dup(given))
    os.close(given)
    gc.freeze()
    gc.enable()
    reader, parent, folders = FrameReader(), os.getppid(), list[str]()
    while (warden := Warden(lifeline, reader, parent, folders)).run():
        warden.close()
    # Skips the interpreter's shutdown, for which the parent would wait. Nothing is buffered.
    os._exit(0)


class Warden:
    """Starts one child, enforces its limits, and ends its tree: from Spawn to Ended."""

    def __init__(
        self,
        lifeline: _socket.socket,
        reader: FrameReader,
        parent: int,
        folders: list[str],
        *,
        clock: Callable[[], float] = time.monotonic,
        select: Callable[..., tuple[list[int], list[int], list[int]]] = select.select,
    ) -> None:
        """Nothing is read yet. `reader`: of the lifeline; it may hold a part of a message. `parent`: its pid.
        `folders`: what is to be removed if it is killed, those of earlier children included.

        Tests pass their own `clock` and `select`, in place of the system's.
        """
        self._lifeline = lifeline
        self._clock = clock
        self._select = select
        self._parent = parent
        self._temporary_folders = folders
        lifeline.setblocking(True)
        self._reader = reader
        self._tree = ChildTree(clock, select)
        self._was_told_to_kill = False
        self._broken: BrokenLimit | None = None
        self._enforcer: LimitEnforcer | None = None
        self._sample_at = 0.0
        self._child_fds: list[int] = []  #: received for the child
        self._account: Account | None = None

    def run(self) -> bool:
        """Serve until no process of the tree is left and the parent has been told so.

        Return whether the parent may want another child.
        """
        fds = [self._tree.wake_fd, self._lifeline.fileno()]
        while True:
            # select, not poll: its timeout is finer than a millisecond.
            shared = self._enforcer.new_file_fds() if self._enforcer is not None and self._tree.child else []
            watched = [*fds, *shared, *self._tree.report_fds]
            ready, _, _ = self._select(watched, [], [], self._timeout_s())
            if fds[1] in ready and not self._receive():
                self._end_tree()
                self._remove_temporary_folders()
                return False
            if fds[0] in ready or any(fd in ready for fd in self._tree.report_fds):
                self._tree.reap()
            must_end = self._was_told_to_kill or self._broken is not None
            if self._tree.child and (must_end or self._tree.status is not None):
                self._send_ended(*self._end_tree())
                return True
            if self._tree.child and self._enforcer is not None:
                if shared and shared[0] in ready:
                    self._enforcer.on_new_files()
                self._check_limits(self._enforcer)
                self._tree.end_doubtful()

    def close(self) -> None:
        """Close what belonged to the child, and leave nothing that the next one would inherit."""
        self._tree.close()
        scheduling.restore_slices()

    def _remove_temporary_folders(self) -> None:
        """Remove the folders that a parent ended by SIGKILL could not remove itself."""
        if self._temporary_folders and self._parent_ends():
            from ..linux.remove_tree import remove_tree  # here: needed only when the parent was killed

            for folder in self._temporary_folders:
                remove_tree(folder)

    def _parent_ends(self) -> bool:
        """Whether the lifeline broke because the parent ended; otherwise it still uses the folders."""
        try:
            return os.getppid() != self._parent or procfs.is_ending(self._parent)
        except OSError:  # no /proc, or it has ended since the first condition was read
            return os.getppid() != self._parent

    def _timeout_s(self) -> float | None:
        if self._enforcer is None or not self._tree.child:
            return None
        at = min(self._enforcer.next_at, self._tree.doubtful_until)
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
            self._send_sample(enforcer.sample())

    def _confirm_breach(self, enforcer: LimitEnforcer, found: Breach) -> None:
        """Freeze the tree and measure again: note the exceeded limit, or continue the tree after an error."""
        enforcer.cpu_limit.stop()
        frozen = process_tree.freeze(os.getpid(), deadline=self._clock() + process_tree.FREEZE_S)
        sure = enforcer.check_frozen_tree()
        if sure is None and found.kind in ("memory", "shared_memory"):
            for pid in frozen:
                process_tree.signal_to(pid, signal.SIGCONT)
            enforcer.cpu_limit.restart()
            return
        sure = sure if sure is not None else found
        self._broken = enforcer.describe_breach(sure)
        if sure.kind in ("memory", "shared_memory"):
            self._tree.write_last_stacks([one.pid for one in self._broken.top[:1]])

    def _receive(self) -> bool:
        """Read the parent's messages and act on each; False when the lifeline is broken."""
        try:
            data, ancillary, _, _ = self._lifeline.recvmsg(65536, 256, _socket.MSG_CMSG_CLOEXEC)
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
        elif enforcer is None:
            return  # all other messages concern the child: the last one, which has ended meanwhile
        elif isinstance(message, Kill):
            self._was_told_to_kill = self._broken is None
            if message.stack and self._tree.child:
                self._tree.write_stacks()
        elif isinstance(message, WatchTree):
            enforcer.idle = message.idle
            if message.loaded:
                enforcer.code_loaded(message.has_stop)
            if message.thread_lost:
                enforcer.thread_lost()
        elif isinstance(message, LimitCpu):
            (enforcer.cpu_limit.resume if message.on else enforcer.cpu_limit.suspend)()
        elif isinstance(message, AskUsage):
            self._send(enforcer.fresh_sample().replace(answers=message.number))
            if message.restart:
                enforcer.restart_peak(message.began_at)
                enforcer.idle = False
        elif isinstance(message, EndOthers):
            self._tree.end_others(message.helpers)

    def _spawn(self, spec: Spawn) -> None:
        """Fork and execute the child; tell the parent its pid, or why it could not be executed."""
        # The descriptors came with the first bytes of this frame, in this order.
        fds: dict[str, int] = dict(zip(spec.fds, self._child_fds, strict=True))
        limits = Limits.from_json(spec.limits)
        # The parent removes those of the last child only after it was told of its end.
        earlier = [one for one in self._temporary_folders if os.path.exists(one)]
        self._temporary_folders[:] = dict.fromkeys([*earlier, *spec.temporary_folders])
        keep: list[int] = [fds[name] for name in spec.keep]
        control = os.fstat(fds["control"]).st_ino if "control" in fds else 0
        shared_memory = None if spec.isolation is None else spec.isolation.shared_memory
        try:
            reports, made_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            enforcer = LimitEnforcer(
                limits,
                folders=spec.folders,
                ours=[os.getppid(), os.getpid()],
                reports=reports,
                shared_memory=shared_memory,
            )
            fds["made"] = made_write
            if keep:  # our own child, which reports what it makes of shared memory; another program cannot
                keep.append(made_write)
            self._tree.stack_fd = os.dup(fds["fault"])
            self._tree.on_reaped = enforcer.reaped
            started = start_child(
                spec,
                fds,
                keep,
                confinement=enforcer.confinement,
                on_fork=lambda pid, root: enforcer.child_started(pid, control, root),
            )
        except OSError as error:
            # RLIMIT_NPROC or RLIMIT_NOFILE is reached, or /proc is missing.
            self._send(Spawned(PROTOCOL_VERSION, 0, str(error), Protection("", "", False)))
            os._exit(1)
        self._enforcer = enforcer
        self._tree.take(started)
        for fd in fds.values():
            os.close(fd)
        protection = enforcer.confinement.describe(started.level, spec.isolation)
        protection = protection.replace(refused=list(started.refused), possible=started.possible)
        self._send(Spawned(PROTOCOL_VERSION, started.pid, started.problem, protection, started.is_refused))

    def _end_tree(self) -> tuple[dict[int, process_tree.Left], list[process_tree.Left]]:
        """End all processes of the tree; return those that were there, and those that could not be ended."""
        hook, until = None, self._clock() + KILL_DEADLINE_S
        killed: dict[int, process_tree.Left] = {}
        if self._enforcer is not None:
            self._enforcer.cpu_limit.stop()
            self._enforcer.check_before_kill()
            hook = self._enforcer.confinement.kill
            if self._enforcer.has_unproven:
                killed = self._tree.wait_for_trackers()
        there, left = process_tree.kill_all(
            reaped=self._tree.reaped, wait=self._tree.wait, deadline_s=until - self._clock(), also=hook
        )
        self._account = self._enforcer.finish() if self._enforcer is not None else None
        return {**there, **killed}, left

    def _send_ended(self, there: dict[int, process_tree.Left], left: list[process_tree.Left]) -> None:
        """Report the end to the parent; `there` and `left` as _end_tree() returned them."""
        others = [
            one
            for one in there.values()
            if one.name not in process_tree.NOT_LEFT and one.pid != self._tree.init_pid
        ]
        largest = sorted(others, key=lambda one: -one.rss_bytes)
        self._send(
            Ended(
                status=self._tree.status,
                was_killed=self._was_told_to_kill,
                broken=self._broken,
                others=[ProcessMemory(*one) for one in largest[:NAMED]],
                others_count=len(others),
                left=[ProcessMemory(*one) for one in left[:NAMED]],
                max_rss_bytes=self._tree.usage.ru_maxrss * 1024 if self._tree.usage is not None else 0,
                account=self._account,
            )
        )

    def _send_sample(self, sample: Sample) -> None:
        """Send usage that nobody waits for, unless hundreds are unread: the parent may be stopped.

        To wait for it here would be to enforce no limit meanwhile.
        """
        # The kernel takes so short a message whole, or not at all.
        with contextlib.suppress(OSError):
            self._lifeline.send(encode(0, sample), _socket.MSG_DONTWAIT)

    def _send(self, message: ProcessMessage) -> None:
        # A parent that has ended receives nothing; the next read finds the lifeline broken.
        with contextlib.suppress(OSError):
            self._lifeline.sendall(encode(0, message))
