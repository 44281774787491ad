"""Follows the tasks of all jobs in HKube's etcd: the driver removes them there once their job is over."""

from __future__ import annotations

import base64
import json
import threading
import urllib.request
from collections import defaultdict

#: Where HKube keeps them: followed by the job and the task.
PREFIX = "/jobs/tasks/"


class TaskWatch:
    """What each task was said to be, from now on."""

    def __init__(self, port: int) -> None:
        """`port`: of etcd's HTTP API."""
        begin = PREFIX.encode()
        end = begin[:-1] + bytes((begin[-1] + 1,))
        keys = {"key": base64.b64encode(begin).decode(), "range_end": base64.b64encode(end).decode()}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v3/watch", json.dumps({"create_request": keys}).encode()
        )
        self._answer = urllib.request.urlopen(request, timeout=3600)
        self._lock = threading.Lock()
        #: By job and task: each status in turn.
        self._statuses: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        self._problem: str | None = None
        threading.Thread(target=self._follow, name="tasks in etcd", daemon=True).start()

    def _follow(self) -> None:
        try:
            for line in self._answer:
                for event in json.loads(line).get("result", {}).get("events", ()):
                    if event.get("type", "PUT") == "PUT":
                        self._note(event["kv"])
            self._problem = "etcd has ended the answer"
        except Exception as error:  # noqa: BLE001 - it is told to who asks
            self._problem = repr(error)

    @property
    def problem(self) -> str | None:
        """Why no further status is noted; None while they are."""
        return self._problem

    def _note(self, item: dict[str, str]) -> None:
        job, _, task = base64.b64decode(item["key"]).decode().removeprefix(PREFIX).partition("/")
        status = json.loads(base64.b64decode(item["value"])).get("status")
        with self._lock:
            self._statuses[job][task].append(str(status))

    def statuses(self, job: str) -> dict[str, list[str]]:
        """Return each status that each task of a job has had, in turn."""
        with self._lock:
            return {task: list(found) for task, found in self._statuses[job].items()}
