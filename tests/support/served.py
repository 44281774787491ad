"""Run hkrunner with a scripted worker and a program of tests/algorithms."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from hkrunner.boards.runs.history import list_tasks

from .local import ALGORITHMS
from .programs import Program, serving
from .scripted_client import Client
from .scripted_worker import ScriptedWorker

OBEYS = ALGORITHMS / "obeys.py"


@contextlib.contextmanager
def serving_worker(
    cwd: Path,
    *args: str,
    entry: str | Path | None = OBEYS,
    env: Mapping[str, str | None] | None = None,
    worker: ScriptedWorker | None = None,
) -> Iterator[tuple[Client, Program]]:
    """Run both; yield the worker's first client, which has the worker as attribute, and the program.

    `entry`: None: what the descriptor in `cwd` says.
    """
    with contextlib.ExitStack() as stack:
        if worker is None:
            worker = stack.enter_context(ScriptedWorker())
        code = () if entry is None else ("--entry", str(ALGORITHMS / entry))
        given = (*code, "--url", worker.url, *args)
        program = stack.enter_context(serving(*given, cwd=cwd, env=env))
        yield worker.accept(), program


def has_record(folder: Path, status: str) -> bool:
    """Whether the record of a task on disk has this status."""
    return any(one.status == status for one in list_tasks(folder / ".hkrunner"))


def accept_again(worker: ScriptedWorker) -> Client:
    """Return the client that has reconnected, with the query it had."""
    client = worker.accept()
    assert client.query == {"storage": "v1", "encoding": "json"}
    assert len(set(worker.queries)) == 1
    return client
