"""A process tree below the test, watched as the warden watches a tree."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from hkrunner.sandbox.usage.usage import Sampler

ALGORITHMS = Path(__file__).resolve().parent.parent / "algorithms"


class Tree:
    """Programs that this process starts and reaps, and reports to the sampler.

    Leaving the context kills and reaps whatever is left.
    """

    def __init__(self, sampler: Sampler | None = None) -> None:
        self.sampler = sampler
        self.ended: dict[int, int] = {}
        self._started: set[int] = set()

    def __enter__(self) -> Tree:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid in [*self._started, *(self.sampler.pids() if self.sampler is not None else ())]:
            if pid not in self.ended:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for pid in self._started - self.ended.keys():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # with what it has just forked, which nobody has seen yet
        deadline = time.monotonic() + 10
        while self._started - self.ended.keys() and time.monotonic() < deadline:
            self.reap()
            time.sleep(0.001)

    def start(
        self, *argv: str, code: str | None = None, before_exec: Callable[[], object] | None = None
    ) -> int:
        """Start a program of tests/algorithms, or a piece of code; return its pid."""
        words = ["-c", code, *argv] if code is not None else [str(ALGORITHMS / argv[0]), *argv[1:]]
        # Until exec the child is a copy of a test process of hundreds of megabytes: do not measure that.
        executed, closed_by_exec = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                if before_exec is not None:
                    before_exec()
                os.execv(sys.executable, [sys.executable, "-I", *words])
            finally:
                os._exit(126)
        os.close(closed_by_exec)
        os.read(executed, 1)
        os.close(executed)
        self._started.add(pid)
        return pid

    def reap(self) -> None:
        """Reap those that have ended, without waiting."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.ended[pid] = status
            if self.sampler is not None:
                self.sampler.reaped(pid, usage)

    def watch(self, until: Callable[[], object], *, deadline_s: float = 15.0, what: str) -> None:
        """Measure when the sampler is due, until the condition holds; AssertionError at the deadline."""
        assert self.sampler is not None
        deadline = time.monotonic() + deadline_s
        while True:
            now = time.monotonic()
            next_at = self.sampler.look(now)
            self.reap()
            if until():
                return
            assert now < deadline, f"after {deadline_s} s still waiting for {what}: {self.sampler.usage}"
            time.sleep(max(0.0, min(next_at - time.monotonic(), 0.1)))
