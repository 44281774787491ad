"""Run hkrunner's local worker in a separate process, for clients other than hkrunner."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .programs import Program
from .waiting import wait_until

SCRIPT = Path(__file__).with_name("run_local_worker.py")


class LocalWorker:
    """The worker's output, parsed."""

    def __init__(self, program: Program) -> None:
        self.program = program
        wait_until(lambda: program.stdout or program.status is not None, what="the local worker's port")
        assert program.stdout, program.report()
        self.port = int(program.stdout[0])

    def answers(self) -> list[dict[str, Any]]:
        """Return the answers of the client so far."""
        return [fact["message"] for fact in self._facts() if "message" in fact]

    def problems(self) -> list[str]:
        """Return the messages about mistakes of the client."""
        return [fact["problem"] for fact in self._facts() if "problem" in fact]

    def tell_to_stop(self) -> None:
        """Stop the task that the client is working on."""
        self.program.send_signal(signal.SIGUSR1)

    def _facts(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in list(self.program.stdout)[1:]]


@contextlib.contextmanager
def running_local_worker(*inputs: Any) -> Iterator[LocalWorker]:
    """Run the worker with these inputs; it ends by itself when all of them are answered."""
    with Program([sys.executable, SCRIPT, *map(json.dumps, inputs)]) as program:
        yield LocalWorker(program)
