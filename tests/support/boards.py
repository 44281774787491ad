"""What tests of boards share: runs to show, and visitors."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hkrunner.boards.events import EventWriter
from hkrunner.boards.store import Store, TaskIds, TaskRecord

# A machine with other work takes its time: a board is ready within a second on a quiet one.
BOARD_DEADLINE_S = 60.0


def add_run(
    root: Path,
    task: str,
    *,
    job: str = "job1",
    node: str = "train",
    pipeline: str = "mnist",
    points: int = 20,
) -> TaskRecord:
    """A finished task with a curve loss = 1/step."""
    store = Store(root)
    record = store.open(TaskIds(task, job, node, pipeline), entry="train.py", started_at=1000.0)
    writer = EventWriter(record.metrics_dir)
    for step in range(points):
        writer.add({"loss": 1 / (step + 1)}, step=step, at_s=1000.0 + step)
    writer.close()
    record.finish({"status": "succeed"})
    store.close()
    return record


def get(url: str, *, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
    """Status and body of a page, asked for without any proxy."""
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
    """The names of the runs that a board shows; empty while it does not answer."""
    try:
        status, body = get(f"{url}data/runs")
    except OSError:
        return []
    return sorted(json.loads(body)) if status == 200 else []
