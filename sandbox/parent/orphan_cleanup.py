"""Without its warden a child's tree has become ours (the parent is a subreaper): end it, in small steps."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from weakref import WeakSet

from ..linux import process_tree
from ..linux.process_tree import Left
from .loop_protocol import LoopProtocol

#: A process that SIGKILL does not end in this time is blocked in the kernel.
DEADLINE_S = 12.0
#: One step takes at most this long, and the next one comes after STEP_S.
FREEZE_S = 0.05
STEP_S = 0.002
#: A process that is passed from its dead parent to this one has no parent for a moment: this many steps in a
#: row must find no process.
QUIET_STEPS = 5

#: Processes that this one has started for other purposes.
_no_orphans: WeakSet[subprocess.Popen[bytes]] = WeakSet()
#: Processes of others that have become children of this one and live: a browser, a daemon of `kubectl exec`.
_adopted: set[int] = set()
#: When those of them that have ended were found first.
_ended_at: dict[int, float] = {}
#: A child that has ended is left for so long to a library of this process that may have started it.
REAP_S = 1.0
#: Those of OrphanCleanup that are not done.
_at_work: set[OrphanCleanup] = set()


def spare(process: subprocess.Popen[bytes]) -> None:
    """Never take this process for an orphan of a lost warden: it serves another purpose."""
    _no_orphans.add(process)


def spared() -> frozenset[int]:
    """Return the pids of the processes that are spared and were not reaped yet."""
    return frozenset({*(one.pid for one in _no_orphans if one.returncode is None), *_adopted})


def leave(process: subprocess.Popen[bytes]) -> None:
    """Let this process run on for as long as it likes, and reap it as one of another program."""
    _adopted.add(process.pid)


def adopt(wardens: frozenset[int]) -> bool:
    """Reap the processes of others that have ended as children of this one, and spare those that live.

    This process is a subreaper, and process 1 of a container, which nobody else reaps for. Returns whether to
    call again after REAP_S, for one that has only just ended.
    """
    now = time.monotonic()
    strangers = (set(process_tree.children(os.getpid())) - wardens - spared()) | _adopted
    ended = {pid for pid in strangers if _has_ended(pid)}
    for pid in _ended_at.keys() - ended:
        del _ended_at[pid]
    for pid in ended:
        if now - _ended_at.setdefault(pid, now) >= REAP_S:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            del _ended_at[pid]
            _adopted.discard(pid)
    # What the tree of a living warden leaves behind becomes the warden's child, not ours.
    if not _at_work and not any(_has_ended(one) for one in wardens):
        _adopted.update(strangers - ended)
    return bool(_ended_at)


def _has_ended(pid: int) -> bool:
    """Whether a child of ours has ended; it is left to be reaped."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


class OrphanCleanup:
    """Kills and reaps the processes below this one that belong to no living warden."""

    def __init__(
        self,
        loop: LoopProtocol,
        *,
        spared: Callable[[], frozenset[int]],
        on_done: Callable[[list[Left], list[Left]], None],
    ) -> None:
        """`spared`: pids of our children that are no orphans. `on_done`: gets who was ended, and who is left
        after the deadline."""
        self._loop = loop
        self._spared = spared
        self._on_done = on_done
        self._found: dict[int, Left] = {}
        self._deadline = time.monotonic() + DEADLINE_S
        self._quiet_steps = 0
        _at_work.add(self)

    def step(self) -> None:
        """Do one step; the next ones follow from the loop, until on_done was called."""
        spared, me = self._spared(), os.getpid()
        frozen = process_tree.freeze(me, deadline=time.monotonic() + FREEZE_S, except_for=spared)
        for pid in frozen:
            self._found.setdefault(pid, process_tree.look(pid))
            process_tree.signal_to(pid, signal.SIGKILL)
        for pid in [one for one in process_tree.children(me) if one not in spared]:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        left = [pid for pid in process_tree.children(me) if pid not in spared]
        self._quiet_steps = 0 if left else self._quiet_steps + 1
        if self._quiet_steps >= QUIET_STEPS or time.monotonic() > self._deadline:
            _at_work.discard(self)
            self._on_done(list(self._found.values()), [process_tree.look(pid) for pid in left])
        else:
            self._loop.after(STEP_S, self.step)
