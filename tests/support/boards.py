"""Helpers for tests of boards: recorded runs, board managers, browsers."""

from __future__ import annotations

import contextlib
import http.client
import json
import shlex
import socket
import sys
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hkrunner.boards.board_record import Board, BoardRecords, BoardStatus
from hkrunner.boards.manager import BoardManager
from hkrunner.boards.runs.event_files import EventWriter
from hkrunner.boards.runs.files import ProcessIdentity
from hkrunner.boards.runs.store import Store
from hkrunner.boards.runs.task_ids import TaskIds
from hkrunner.boards.runs.task_record import TaskRecord

from .waiting import wait_until

# Long, for a busy machine; on an idle one a board is ready within a second.
BOARD_DEADLINE_S = 60.0


def open_task(store: Store, task: str = "t1", *, job: str = "job") -> TaskRecord:
    """Return the record of a task that has just begun."""
    return store.open(TaskIds(task, job, "node", "pipeline"), entry="a.py", started_at=1000.0)


def add_run(
    root: Path,
    task: str,
    *,
    job: str = "job1",
    node: str = "train",
    pipeline: str = "mnist",
    points: int = 20,
) -> TaskRecord:
    """Write a finished task with a curve loss = 1/step."""
    store = Store(root)
    record = store.open(TaskIds(task, job, node, pipeline), entry="train.py", started_at=1000.0)
    writer = EventWriter(record.metrics_dir)
    for step in range(points):
        writer.add({"loss": 1 / (step + 1)}, step=step, at_s=1000.0 + step)
    writer.close()
    record.finish({"status": "succeed"})
    store.close()
    return record


@contextlib.contextmanager
def boards_of(root: Path) -> Iterator[BoardManager]:
    """Manage the boards of a state folder; on exit none of them runs."""
    manager = BoardManager(root)
    try:
        yield manager
    finally:
        list(manager.stop_each())
        wait_until(lambda: holds_none(manager), deadline_s=BOARD_DEADLINE_S, what="the end of its boards")


@contextlib.contextmanager
def boards_of_another_host(root: Path, *ids: str) -> Iterator[None]:
    """Boards in the list that this host cannot stop; on exit they are no longer listed."""
    records = BoardRecords(root)
    records.make_folder()
    process = ProcessIdentity(1, "then", "elsewhere")
    boards = [
        Board(id, f"reference-{id}", "all", str(root), BoardStatus.RUNNING, number, process=process)
        for number, id in enumerate(ids)
    ]
    for board in boards:
        records.save(board)
    try:
        yield
    finally:
        for board in boards:
            records.forget(board)


def holds_none(manager: BoardManager) -> bool:
    """Whether every board that the manager has started was reaped."""
    manager.poll()
    return not manager.fds()


def python_with(folder: Path, script: Path, *, first: str = "pass") -> Path:
    """Write an interpreter that runs the statement first and finds the folder's modules before all others.

    PYTHONPATH does not do that for a board. What the process starts with sys.executable does the same.
    """
    first = f"import runpy, sys; sys.path.insert(0, {str(folder)!r}); {first}; del sys.argv[0]"
    first += f"; sys.executable = {str(script)!r}"
    run = "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = shlex.join([sys.executable, "-E", "-c", f"{first}; {run}"])
    script.write_text(f'#!/bin/sh\n[ "$1" = -E ] && shift\nexec {command} "$@"\n')
    script.chmod(0o755)
    return script


def recording_browser(folder: Path) -> dict[str, str]:
    """Return variables by which a script is the browser; it writes each address to folder/visited."""
    script = folder / "browser"
    script.write_text(f'#!/bin/sh\necho "$1" >> {shlex.quote(str(folder / "visited"))}\n')
    script.chmod(0o755)
    return {"BROWSER": f"{script} %s"}


def visited(folder: Path) -> list[str]:
    """Return the addresses that the recording browser was asked to open."""
    try:
        return (folder / "visited").read_text().splitlines()
    except FileNotFoundError:
        return []


def no_browser(folder: Path) -> dict[str, str | None]:
    """Return variables of a system without a browser."""
    (folder / "empty").mkdir()
    return {"PATH": str(folder / "empty"), "BROWSER": None, "DISPLAY": None, "WAYLAND_DISPLAY": None}


@contextlib.contextmanager
def taken_port() -> Iterator[int]:
    """Listen on a port of 127.0.0.1, so that it is taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def get(url: str, *, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
    """Return status and body of a page, without any proxy."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers=dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def get_json(url: str) -> Any:
    status, body = get(url)
    assert status == 200, f"{status} {url}: {body[:200]!r}"
    return json.loads(body)


def runs_of(url: str) -> list[str]:
    """Return the names of the runs that a board shows; none while it does not answer."""
    try:
        status, body = get(f"{url}data/runs")
    except OSError:
        return []
    return sorted(json.loads(body)) if status == 200 else []
