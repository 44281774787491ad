"""A warden whose time, process tree and parent are played by the test; no process is started."""

from __future__ import annotations

import contextlib
import heapq
import math
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from hkrunner.sandbox.linux import process_tree, procfs
from hkrunner.sandbox.linux.process_tree import Left
from hkrunner.sandbox.shared.channel import FrameReader
from hkrunner.sandbox.shared.limits import Limits
from hkrunner.sandbox.shared.message_format import PROTOCOL_VERSION, ProcessMessage, decode, encode
from hkrunner.sandbox.shared.messages import (
    FROM_WARDEN,
    Account,
    BrokenLimit,
    Ended,
    ProcessMemory,
    Protection,
    Sample,
    Spawn,
)
from hkrunner.sandbox.usage.usage import Breach
from hkrunner.sandbox.warden import warden
from hkrunner.sandbox.warden.warden import Warden

from .clock import Clock

#: None of this machine's, which has at most 2**22.
CHILD, OTHER, THIRD = 2**23, 2**23 + 1, 2**23 + 2
PARENT = 2**23 + 9
#: Time between two checks of the limits, unless a test wants another.
CHECK_S = 0.1
#: No test needs as many; a warden that waits in vain would go on for ever.
TURNS = 20_000


class _Usage:
    ru_maxrss = 1000


class FakeTree:
    """The processes below the warden; a signal is written down, and SIGKILL ends."""

    def __init__(self, world: SimulatedWarden) -> None:
        self._world = world
        self.names: dict[int, str] = {}
        self.trackers: set[int] = set()
        self.grows_by_s = 0  #: how fast its processes use more memory, in bytes
        self.handlers: set[int] = (
            set()
        )  #: those that have a handler for the signal that asks for a last stack
        self.immortal: set[int] = set()
        self.signals: list[tuple[int, int]] = []
        self._unreaped: list[tuple[int, int]] = []
        self.frozen: set[int] = set()

    def end(self, pid: int, status: int = 0) -> None:
        """Have a process end by itself with this wait status; SIGCHLD wakes the warden."""
        if self.names.pop(pid, None) is not None:
            self._unreaped.append((pid, status))
            self._world.wake()

    def received(self, pid: int) -> list[int]:
        """Return the signals that a process was sent."""
        return [number for other, number in self.signals if other == pid]

    # ---- what stands in for process_tree and procfs

    def descendants(self, root: int, **more: Any) -> Iterator[int]:
        return iter(list(self.names))

    def freeze(self, root: int, **more: Any) -> dict[int, Left]:
        self.frozen |= self.names.keys()
        return {pid: Left(pid, name, 0) for pid, name in self.names.items()}

    def signal_to(self, pid: int, number: int) -> None:
        self.signals.append((pid, number))
        if number == signal.SIGCONT:
            self.frozen.discard(pid)
        if number == signal.SIGKILL and pid not in self.immortal:
            self.end(pid, signal.SIGKILL)

    def reap(self, reaped: Callable[[int, int, object], None]) -> bool:
        ended, self._unreaped = self._unreaped, []
        for pid, status in ended:
            reaped(pid, status, _Usage())
        return not self.names

    def kill_all(
        self, *, reaped: Callable[[int, int, object], None], deadline_s: float, **more: Any
    ) -> tuple[dict[int, Left], list[Left]]:
        self.kill_ends_at = self._world.clock.now + deadline_s
        there = self.freeze(0)
        for pid in there:
            self.signal_to(pid, signal.SIGKILL)
        self.reap(reaped)
        return there, [there[pid] for pid in self.names]

    def helper_of(self, pid: int) -> str:
        return "resource_tracker" if pid in self.trackers else ""

    def stat(self, pid: int) -> SimpleNamespace:
        if pid not in self.names:
            raise ProcessLookupError
        return SimpleNamespace(started=pid)

    def catches(self, pid: int, number: int) -> bool:
        return pid in self.names and pid in self.handlers


class FakeConfinement:
    """Nothing is confined."""

    def describe(self, sandbox: str = "", isolation: object = None) -> Protection:
        return Protection("limits: none", "sampling", False)

    def kill(self) -> None: ...


class FakeCpuLimit:
    """Records what is asked of it among the calls of its enforcer."""

    def __init__(self, enforcer: FakeEnforcer) -> None:
        self._calls = enforcer.calls

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name not in ("stop", "restart", "suspend", "resume"):
            raise AttributeError(name)
        return lambda: self._calls.append(f"cpu {name}")


class FakeEnforcer:
    """Says what the test has it find, and writes down what is asked of it, and when."""

    #: Found by the next check; None: all limits hold.
    found: Breach | None = None
    #: Found by the second look at the frozen tree.
    confirmed: Breach | None = None
    has_unproven = False
    check_every_s = CHECK_S

    def __init__(self, world: SimulatedWarden) -> None:
        self._world = world
        self.idle = False
        self.confinement = FakeConfinement()
        self.next_at = world.clock.now
        self.calls: list[str] = []
        self.cpu_limit = FakeCpuLimit(self)
        self.checks: list[float] = []

    def new_file_fds(self) -> list[int]:
        return []

    def check(self, now: float) -> Breach | None:
        self.checks.append(now)
        self.next_at = now + self.check_every_s
        return self.found

    def check_frozen_tree(self) -> Breach | None:
        self.calls.append("check_frozen_tree")
        assert self._world.tree.frozen >= self._world.tree.names.keys()
        self.found = None
        return self.confirmed

    def describe_breach(self, found: Breach) -> BrokenLimit:
        return BrokenLimit(
            cause=found.kind, used=found.used, allowed=found.allowed, after_s=1.0, objects=[],
            objects_count=0, objects_bytes=0, top=[ProcessMemory(OTHER, "other", 100)],
        )  # fmt: skip

    def sample(self) -> Sample:
        return Sample(1, 2, 0, len(self._world.tree.names), 0.5)

    def fresh_sample(self) -> Sample:
        self.calls.append("fresh_sample")
        return self.sample()

    def restart_peak(self, began_at: float) -> None:
        self.calls.append(f"restart_peak {began_at:g}")

    def reaped(self, pid: int, usage: object) -> None:
        self.calls.append(f"reaped {pid}")

    def finish(self) -> Account:
        self.calls.append("finish")
        return Account(2, 0, 0.5, False, False, [], 0, [], 0)

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name not in (
            "child_started",
            "code_loaded",
            "check_before_kill",
        ):
            raise AttributeError(name)
        return lambda *_: self.calls.append(name)


class SimulatedWarden:
    """One warden with its parent, which is the test; time passes only where the warden waits."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        """Replace what the warden asks of the system; all is real again when the test is over."""
        self.clock = Clock()
        self.tree = FakeTree(self)
        self.enforcer = FakeEnforcer(self)
        self.parent_has_ended = False
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = count()
        self._reader = FrameReader()
        self._told: list[ProcessMessage] = []
        self.parent, lifeline = socket.socketpair()
        self.stacks = os.memfd_create("stacks")
        patch.setattr(warden, "LimitEnforcer", lambda *_, **more: self._take_over(more["reports"]))
        patch.setattr(os, "getppid", lambda: 1 if self.parent_has_ended else PARENT)
        patch.setattr(procfs, "is_ending", lambda pid: self.parent_has_ended)
        patch.setattr(procfs, "catches", self.tree.catches)
        patch.setattr(procfs, "rss", lambda pid: int(self.tree.grows_by_s * self.clock.now))
        patch.setattr(process_tree, "helper_of", self.tree.helper_of)
        patch.setattr(process_tree, "is_helper", lambda pid, told: told is None or pid in told)
        patch.setattr(procfs, "stat", self.tree.stat)
        for name in ("descendants", "freeze", "signal_to", "reap", "kill_all"):
            patch.setattr(process_tree, name, getattr(self.tree, name))
        self._patch = patch
        self._handler = signal.getsignal(signal.SIGCHLD)
        self._folders: list[str] = []
        self._lifeline = lifeline
        self.warden = self._new_warden()
        self._wake_write = signal.set_wakeup_fd(-1)

    def _new_warden(self) -> Warden:
        return Warden(
            self._lifeline, FrameReader(), PARENT, self._folders, clock=self.clock, select=self._pass_time
        )

    def _take_over(self, reports: int) -> FakeEnforcer:
        os.close(reports)
        self.enforcer.next_at = self.clock.now
        return self.enforcer

    # ---- time

    def at(self, after_s: float, action: Callable[[], object]) -> None:
        """Have something happen after this time."""
        heapq.heappush(self._events, (self.clock.now + after_s, next(self._numbers), action))

    def _pass_time(
        self, reads: list[int], writes: list[int], errors: list[int], timeout: float | None
    ) -> tuple[list[int], list[int], list[int]]:
        """As select() does, but time jumps: to the timeout, or to what the test has happen before."""
        assert next(self._numbers) < TURNS, "the warden waits in vain"
        ready = select.select(reads, [], [], 0)[0]
        if ready:
            return ready, [], []
        until = self.clock.now + timeout if timeout is not None else math.inf
        if self._events and self._events[0][0] <= until:
            self.clock.now, _, action = heapq.heappop(self._events)
            action()
            return select.select(reads, [], [], 0)[0], [], []
        assert until < math.inf, "the warden waits, and nothing will ever happen"
        self.clock.now = until
        return [], [], []

    def wake(self) -> None:
        """As a SIGCHLD does."""
        os.write(self._wake_write, b"\0")

    # ---- as the parent

    def spawn(self, *, temporary_folders: list[str] | None = None) -> None:
        """Have the warden start the child, together with two processes below it."""
        ends = [os.pipe() for _ in range(4)]
        names = ["tasks", "control", "stdout", "stderr", "fault"]
        spec = Spawn(
            version=PROTOCOL_VERSION, argv=["python"], cwd="/", env={}, fds=names,
            keep=["tasks", "control", "fault"], limits=Limits().to_json(), folders=[],
            temporary_folders=temporary_folders or [],
        )  # fmt: skip
        socket.send_fds(self.parent, [encode(0, spec)], [*(write for _, write in ends), self.stacks])
        for pair in ends:
            for fd in pair:
                os.close(fd)
        self.tree.names = {CHILD: "child", OTHER: "other", THIRD: "third"}
        self._patch.setattr(os, "fork", lambda: CHILD)

    def say(self, message: ProcessMessage) -> None:
        """Say this to the warden."""
        self.parent.sendall(encode(0, message))

    def hang_up(self) -> None:
        """Break the lifeline."""
        self.parent.shutdown(socket.SHUT_WR)

    def run(self) -> list[ProcessMessage]:
        """Run the warden until its child has ended; return all its messages."""
        self.may_serve_another = self.warden.run()
        self._lifeline.close()
        self.read()
        return self._told

    def begin_next(self) -> bool:
        """Run the warden until its child has ended, and have it wait for the next one, if it does."""
        serves_another = self.warden.run()
        self.warden.close()
        self.warden = self._new_warden()
        return serves_another

    def read(self) -> None:
        """Read what the warden has said up to now."""
        with contextlib.suppress(BlockingIOError):
            while data := self.parent.recv(1 << 20, socket.MSG_DONTWAIT):
                self._told += [decode(frame, FROM_WARDEN) for frame in self._reader.feed(data)]

    def leave_little_room(self) -> None:
        """Have the lifeline take a few messages only until read() is called."""
        self._lifeline.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    def run_to_ended(self) -> Ended:
        """Run the warden to its end; return its last message."""
        ended = self.run()[-1]
        assert isinstance(ended, Ended)
        return ended

    def close(self) -> None:
        """Give back all descriptors, and the handler of SIGCHLD."""
        signal.signal(signal.SIGCHLD, self._handler)
        for sock in (self.parent, self._lifeline):
            sock.close()
        self.warden.close()
        os.close(self.stacks)
