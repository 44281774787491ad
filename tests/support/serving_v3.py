"""Run hkrunner with storage v3, with a scripted worker and a folder as HKube's storage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .hkube_storage import JOB, Storage
from .programs import Program
from .scripted_client import Client
from .scripted_worker import ScriptedWorker
from .served import OBEYS, serving_worker


class Worker:
    """A worker that has hkrunner's algorithm with storage v3."""

    def __init__(self, client: Client, program: Program, storage: Storage) -> None:
        self.client = client
        self.program = program
        self.storage = storage
        self._tasks = 0

    def begin(self, input: Any, links: dict[str, Any] | None = None, **more: Any) -> str:
        """Begin a task with the keys that a real worker sends; return its id."""
        self._tasks += 1
        task = f"task{self._tasks}"
        info = {"savePaths": more.pop("savePaths", ["green"])}
        flat = {str(number): one for number, one in enumerate(input)} if links else {}
        fields = {"jobId": JOB, "taskId": task, "nodeName": "green", "info": info, "flatInput": flat}
        self.client.initialize(input, **{**fields, "storage": links or {}, **more})
        return task

    def run(self, input: Any, links: dict[str, Any] | None = None, **more: Any) -> Any:
        """Run a task that succeeds; return its result, as it is in the storage."""
        task = self.begin(input, links, **more)
        self.client.expect("initialized")
        self.client.start()
        self.storing = self.client.expect("storing")["data"]
        assert self.client.expect("done").get("data") is None
        assert self.storing["storageInfo"]["path"] == f"local-hkube/{JOB}/{task}"
        assert self.storing["storageInfo"]["size"] == self.storage.file(task).stat().st_size - 8
        return self.storage.read(task)

    def finish(self) -> str:
        """Run a task that has begun; return the command of its answer."""
        self.client.expect("initialized")
        self.client.start()
        message = self.client.receive_result()
        if message["command"] == "storing":
            self.storing = message["data"]
            message = self.client.receive_result()
        return f"{message['command']}{message.get('error', '')}"

    def fail(self, input: Any, links: dict[str, Any] | None = None) -> str:
        """Run a task whose input cannot be read; return the error's text."""
        self.begin(input, links)
        return str(self.client.expect("errorMessage")["error"]["message"])


@contextlib.contextmanager
def serving_v3(
    tmp_path: Path, *args: str, entry: Path | None = OBEYS, timeout_s: float = 20, **env: str
) -> Iterator[Worker]:
    storage = Storage(tmp_path / "storage", timeout_s=timeout_s)
    with ScriptedWorker() as worker:
        given = {**storage.variables, **env}
        with serving_worker(tmp_path, *args, entry=entry, worker=worker, env=given) as (client, program):
            assert client.query["storage"] == "v3"
            yield Worker(client, program, storage)
