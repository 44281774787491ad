"""Nodes of a stream pipeline, each served by a scripted worker."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .hkube_storage import JOB, Storage
from .ports import free_port
from .programs import Program
from .scripted_client import DEADLINE_S, Client
from .scripted_worker import ScriptedWorker
from .served import serving_worker

#: A >> B >> C, with B and C as next nodes of A.
FLOWS = {
    "chain": [{"source": "A", "next": ["B"]}, {"source": "B", "next": ["C"]}],
    "both": [{"source": "A", "next": ["B", "C"]}],
}


class Node:
    """A node: a program that serves its worker."""

    def __init__(self, name: str, port: int, client: Client, program: Program, storage: Storage) -> None:
        self.name = name
        self.port = port
        self.client = client
        self.program = program
        self._storage = storage
        self.statistics: list[dict[str, Any]] = []  #: the items of the last report

    def initialize(
        self,
        *input: Any,
        parents: Sequence[str] = (),
        children: Sequence[str] = (),
        state: str = "stateful",
    ) -> None:
        """Send `initialize`, with the keys that a real worker sends."""
        self.client.initialize(
            list(input),
            kind="stream",
            jobId=JOB,
            taskId=self.name,
            stateType=state,
            nodeName=self.name,
            parents=list(parents),
            childs=list(children),
            parsedFlow=FLOWS,
            defaultFlow="chain",
        )

    def begin(self, *input: Any, **more: Any) -> None:
        """Begin a task; see initialize()."""
        self.initialize(*input, **more)
        self.client.expect("initialized")
        self.client.start()

    def connect_to(self, name: str, port: int, kind: str = "Add") -> None:
        """Send a discovery update of one parent node."""
        address = {"host": "127.0.0.1", "port": str(port)}
        change = {"nodeName": name, "address": address, "type": kind}
        self.client.send({"command": "serviceDiscoveryUpdate", "data": [change]})

    def result(self) -> Any:
        """Return the result of a task that succeeds, as it is in the storage."""
        assert self.answer()["command"] == "storing"
        assert self.answer()["command"] == "done"
        return self._storage.read(self.name)

    def answer(self, *, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
        """Return the next message that is neither statistics nor a sign of life."""
        while True:
            message = self.client.receive(deadline_s=deadline_s)
            if message["command"] == "streamingStatistics":
                self.statistics = message["data"]
            elif message["command"] not in ("stopping", "alive"):
                return message


@contextlib.contextmanager
def node(
    name: str,
    cwd: Path,
    *args: str,
    entry: str | None = "streams.py",
    port: int | None = None,
    **variables: str,
) -> Iterator[Node]:
    """Run a program for one node. `entry`: None: what the descriptor in the folder of that name says."""
    port = free_port() if port is None else port
    folder = cwd / name
    folder.mkdir(exist_ok=True)
    storage = Storage(folder / "storage")
    env = {**storage.variables, "STREAMING_DISCOVERY_PORT": str(port), **variables}
    with (
        ScriptedWorker() as worker,
        serving_worker(folder, *args, worker=worker, entry=entry, env=env) as (client, program),
    ):
        yield Node(name, port, client, program, storage)
