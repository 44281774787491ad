"""The process between the parent and the child: starts it, watches it, ends its tree, accounts for it.

Theory of operation
-------------------
Three processes: parent -> warden -> child (which runs the user's code, and may start many more).

* The warden is started by file, in a session of its own, by the parent. It has one thread, no network and
  no user data. It is the subreaper of everything the child starts and has no other children, so that
  "nobody is left" is exact: waitpid() says ECHILD.
* The *lifeline* is a socketpair between parent and warden; the parent holds the only other end. Frames go
  both ways (messages.py). When the parent has ended, for any reason, the read returns EOF, and the warden
  ends the tree and itself. The warden has no PDEATHSIG: it would be killed before it can clean up (measured:
  56 of 56 processes survived). Only the child has it, in case the warden itself is killed; the parent is a
  subreaper too, and then ends the rest.
* The child's own channel and its output pipes lead straight from the parent to the child. The warden
  inherits their ends, passes them on at exec, and closes its copies.
* The end: the child has exited, or Kill came, or the lifeline broke. Then freeze, kill, reap to ECHILD
  (process_tree.py), Ended to the parent, exit. Ended is sent after the last process is gone, never before.
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

#: How many processes a report names; the rest are counted.
NAMED = 20
#: A process that SIGKILL does not end in this time is in the kernel's hands (state D): report it.
KILL_DEADLINE_S = 10.0
#: Usage goes to the parent this often while a task runs.
SAMPLE_S = 0.25
#: faulthandler gets this long to write the stacks of a child that is about to be killed.
STACK_S = 0.25
#: Resource trackers get this long to remove what the processes they served have left. Python starts in 20 ms.
TRACKERS_S = 1.0
#: A process that is ended for its memory gets this long to write its stacks, at the price of what its other
#: threads use meanwhile; it takes 0.2 ms where there is a processor for it.
LAST_STACK_S = 0.03


def main() -> NoReturn:
    """Run as the warden until the tree below is gone; argv: role, lifeline descriptor."""
    kernel.become_subreaper()
    with contextlib.suppress(OSError):
        kernel.hide_from_same_user()
    # The terminal's Ctrl-C and a polite TERM are the parent's business: it asks us in frames.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    lifeline = socket.socket(fileno=int(sys.argv[2]))
    # It came to us by inheritance; a copy of it in the tree would keep our parent alive in our eyes.
    lifeline.set_inheritable(False)
    gc.freeze()
    gc.enable()
    Warden(lifeline).run()
    # Nothing is buffered here; interpreter shutdown would cost milliseconds of everybody's waiting.
    os._exit(0)


class Warden:
    """One child, from Spawn to Ended."""

    def __init__(self, lifeline: socket.socket) -> None:
        self._lifeline = lifeline
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
        self._given: list[int] = []  #: descriptors that are the child's
        self._account: Account | None = None
        self._fault = -1
        # SIGCHLD only has to wake the select; a handler must exist for the wake-up descriptor to be used.
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wake = wake_read
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)

    def run(self) -> None:
        """Serve until the tree is gone and the parent knows."""
        fds = [self._wake, self._lifeline.fileno()]
        while True:
            # select, not poll: its timeout is finer than a millisecond.
            shared = self._enforcer.names_fds() if self._enforcer is not None and self._pid else []
            ready, _, _ = select.select([*fds, *shared], [], [], self._pause_s())
            if fds[1] in ready and not self._receive():
                self._end()
                self._remove_temporary_folders()
                return
            if fds[0] in ready:
                self._drain_wake()
                process_tree.reap(self._reaped)
            if self._pid and (self._status is not None or self._was_told_to_kill or self._broken is not None):
                self._report(*self._end())
                return
            if self._pid and self._enforcer is not None:
                if shared and shared[0] in ready:
                    self._enforcer.names_appeared()
                self._watch(self._enforcer)

    def _remove_temporary_folders(self) -> None:
        """Remove what the parent would have removed at its end, if SIGKILL has ended it."""
        if self._temporary_folders and self._parent_ends():
            import shutil  # imported here: a parent is hardly ever killed

            for folder in self._temporary_folders:
                shutil.rmtree(folder, ignore_errors=True)

    def _parent_ends(self) -> bool:
        """Whether the lifeline broke by the end of the parent; a parent that lives still uses the folders."""
        try:
            return os.getppid() != self._parent or procfs.is_ending(self._parent)
        except OSError:  # no /proc, or gone since the first question
            return os.getppid() != self._parent

    def _pause_s(self) -> float | None:
        if self._enforcer is None or not self._pid:
            return None
        at = self._enforcer.next_at
        if not self._enforcer.idle:
            at = min(at, self._sample_at)
        return max(0.0, at - time.monotonic()) if at < math.inf else None

    def _watch(self, enforcer: LimitEnforcer) -> None:
        """Look if it is time to; begin the kill when a limit does not hold."""
        now = time.monotonic()
        if now >= enforcer.next_at:
            found = enforcer.look(now)
            if found is not None:
                self._breached(enforcer, found)
                return
        if now >= self._sample_at and not enforcer.idle:
            self._sample_at = now + SAMPLE_S
            self._send(enforcer.sample())

    def _breached(self, enforcer: LimitEnforcer, found: Breach) -> None:
        """Freeze everybody, look once more, and decide."""
        enforcer.stop_throttle()
        frozen = process_tree.freeze(os.getpid(), deadline=time.monotonic() + process_tree.FREEZE_S)
        sure = enforcer.confirm()
        if sure is None and found.kind in ("memory", "shared_memory"):
            for pid in frozen:
                process_tree.signal_to(pid, signal.SIGCONT)
            enforcer.restart_throttle()
            return
        sure = sure if sure is not None else found
        self._broken = enforcer.broken(sure)
        if sure.kind in ("memory", "shared_memory"):
            self._end_with_stack([one.pid for one in self._broken.top[:1]])

    def _receive(self) -> bool:
        """Take what the parent says; False when there is no parent any more."""
        try:
            data, ancillary, _, _ = self._lifeline.recvmsg(65536, 256, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return False
        if not data:
            return False
        self._given += fds_of(ancillary)
        try:
            messages = [decode(frame, TO_WARDEN) for frame in self._reader.feed(data)]
        except ChannelError as error:
            # Only a parent of another version says what we do not know.
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
            return  # it concerns a child, and there is none yet
        elif isinstance(message, WatchTree):
            enforcer.idle = message.idle
            if message.loaded:
                enforcer.loaded()
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
        """Kill everybody but the child itself; who is born meanwhile is found by the next sweep."""
        for _ in range(10):
            others = [pid for pid in process_tree.descendants(os.getpid()) if pid != self._pid]
            if not others:
                return
            for pid in others:
                process_tree.signal_to(pid, signal.SIGKILL)
            self._wait(0.002)
            process_tree.reap(self._reaped)

    def _wait_for_trackers(self) -> None:
        """Kill everybody but the resource trackers, which then remove what the others left, and end."""
        below = list(process_tree.descendants(os.getpid()))
        trackers = {pid for pid in below if process_tree.is_resource_tracker(pid)}
        for pid in trackers:
            process_tree.signal_to(pid, signal.SIGCONT)  # it is frozen when a limit was broken
        deadline = time.monotonic() + TRACKERS_S
        while trackers and time.monotonic() < deadline:
            for pid in below:
                if pid not in trackers:
                    process_tree.signal_to(pid, signal.SIGKILL)
            self._wait(0.005)
            process_tree.reap(self._reaped)
            below = list(process_tree.descendants(os.getpid()))
            trackers.intersection_update(below)

    def _ask_for_stack(self) -> None:
        """Have faulthandler write where every thread is; it does so even while C code holds the GIL."""
        # In this order: one that has stopped itself shows where, before it goes on.
        process_tree.signal_to(self._pid, STACK_SIGNAL)
        process_tree.signal_to(self._pid, signal.SIGCONT)
        before = time.monotonic()
        size = same = 0
        while time.monotonic() - before < STACK_S and self._status is None:
            self._wait(0.001)
            process_tree.reap(self._reaped)
            found = os.fstat(self._fault).st_size
            same = same + 1 if found and found == size else 0
            if same == 3:
                return  # it has stopped growing: it is whole
            size = found

    def _end_with_stack(self, largest: list[int]) -> None:
        """End the largest process in such a way that it says where it was; else the child.

        Both are frozen. Only what has the child's handler, by fork, can say anything.
        """
        pid = next((one for one in largest if procfs.catches(one, LAST_STACK_SIGNAL)), self._pid)
        if not procfs.catches(pid, LAST_STACK_SIGNAL):
            return
        process_tree.signal_to(pid, LAST_STACK_SIGNAL)
        process_tree.signal_to(pid, signal.SIGCONT)
        deadline = time.monotonic() + LAST_STACK_S
        while time.monotonic() < deadline and self._status is None and procfs.catches(pid, LAST_STACK_SIGNAL):
            self._wait(0.0005)
            process_tree.reap(self._reaped)

    def _spawn(self, spec: Spawn) -> None:
        """Fork and execute the child; tells the parent its pid, or why it could not be executed."""
        # They came with the first bytes of this frame, in this order.
        fds: dict[str, int] = dict(zip(spec.fds, self._given, strict=True))
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
            self._fault = os.dup(fds["fault"])
            error_read, error_write = os.pipe2(os.O_CLOEXEC)
            pid = os.fork()
        except OSError as error:
            # RLIMIT_NPROC, RLIMIT_NOFILE, no /proc. The end of this process tells the parent the rest.
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
        enforcer.began(pid)
        os.close(error_write)
        for fd in fds.values():
            os.close(fd)
        # EOF: exec has closed the other end, so it worked.
        problem = os.read(error_read, 4096).decode("utf-8", "replace")
        os.close(error_read)
        self._send(Spawned(PROTOCOL_VERSION, pid, problem, enforcer.confinement.describe()))

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake, 4096):
                pass

    def _reaped(self, pid: int, status: int, usage: Any) -> None:
        if self._enforcer is not None:
            self._enforcer.reaped(pid, usage)
        if pid == self._pid:
            self._status = status
            self._usage = usage

    def _wait(self, seconds: float) -> None:
        """Pass time until a child has ended, at most this long."""
        ready, _, _ = select.select([self._wake], [], [], seconds)
        if ready:
            self._drain_wake()

    def _end(self) -> tuple[dict[int, process_tree.Left], list[process_tree.Left], float]:
        """End every process that is left; return who was there, who could not be ended, seconds it took."""
        began = time.monotonic()
        hook = None
        if self._enforcer is not None:
            self._enforcer.stop_throttle()
            self._enforcer.before_the_end()
            hook = self._enforcer.confinement.kill
            if self._enforcer.has_unproven:
                self._wait_for_trackers()
        there, left = process_tree.kill_all(
            reaped=self._reaped, wait=self._wait, deadline_s=KILL_DEADLINE_S, also=hook
        )
        took_s = time.monotonic() - began
        self._account = self._enforcer.ended() if self._enforcer is not None else None
        return there, left, took_s

    def _report(
        self, there: dict[int, process_tree.Left], left: list[process_tree.Left], took_s: float
    ) -> None:
        largest = sorted(there.values(), key=lambda one: -one.rss_bytes)
        self._send(
            Ended(
                status=self._status,
                was_killed=self._was_told_to_kill,
                broken=self._broken,
                others=[ProcessMemory(*one) for one in largest[:NAMED]],
                others_count=len(there),
                left=[ProcessMemory(*one) for one in left[:NAMED]],
                max_rss_bytes=self._usage.ru_maxrss * 1024 if self._usage is not None else 0,
                account=self._account,
            )
        )

    def _send(self, message: ProcessMessage) -> None:
        # A parent that is gone is noticed at the next read; there is nobody left to tell.
        with contextlib.suppress(OSError):
            self._lifeline.sendall(encode(0, message))
