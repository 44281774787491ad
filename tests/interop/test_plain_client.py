"""A client as HKube's documentation shows it: ws://localhost:PORT, no query, JSON, a switch over commands."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
import websocket
from support.local_worker import running_local_worker
from support.waiting import wait_until


@contextlib.contextmanager
def connected(port: int) -> Iterator[websocket.WebSocket]:
    wire = websocket.create_connection(f"ws://localhost:{port}", timeout=20)
    try:
        yield wire
    finally:
        wire.close()


def receive(wire: websocket.WebSocket) -> Any:
    return json.loads(wire.recv())


def send(wire: websocket.WebSocket, command: str, **more: Any) -> None:
    wire.send(json.dumps({"command": command, **more}))


def test_a_plain_client_runs_tasks_and_is_told_to_exit() -> None:
    with running_local_worker([1, 2], ["a", {"b": None}]) as worker, connected(worker.port) as wire:
        for expected in ([1, 2], ["a", {"b": None}]):
            message = receive(wire)
            assert message["command"] == "initialize"
            assert message["data"]["input"] == expected
            assert {"jobId", "taskId", "nodeName", "pipelineName", "algorithmName", "info"} <= set(
                message["data"]
            )
            send(wire, "initialized")
            assert receive(wire)["command"] == "start"
            send(wire, "started")
            send(wire, "progress", data={"progress": 50})
            send(wire, "done", data={"seen": expected})
        assert receive(wire) == {"command": "exit", "data": {"exitCode": 0}}
        assert worker.program.wait() == 0
        assert [answer["data"]["seen"] for answer in worker.answers()] == [[1, 2], ["a", {"b": None}]]
        assert not worker.problems()


def test_a_plain_client_may_fail_a_task() -> None:
    with running_local_worker([1]) as worker, connected(worker.port) as wire:
        assert receive(wire)["command"] == "initialize"
        send(wire, "errorMessage", error={"code": "Failed", "message": "no data", "details": "trace"})
        assert receive(wire)["command"] == "exit"
        assert worker.program.wait() == 0
        assert worker.answers()[0]["error"]["message"] == "no data"


def test_a_plain_client_is_stopped() -> None:
    with running_local_worker([1], [2]) as worker, connected(worker.port) as wire:
        assert receive(wire)["command"] == "initialize"
        send(wire, "initialized")
        assert receive(wire)["command"] == "start"
        worker.tell_to_stop()
        assert receive(wire) == {"command": "stop", "data": {"forceStop": True}}
        send(wire, "done", data="too late")
        send(wire, "stopped")
        assert receive(wire)["command"] == "initialize"
        send(wire, "initialized")
        assert receive(wire)["command"] == "start"
        send(wire, "done", data=2)
        assert receive(wire)["command"] == "exit"
        assert worker.program.wait() == 0
        assert [answer["command"] for answer in worker.answers()] == ["stopped", "done"]


def test_a_client_that_comes_back_gets_its_task_again() -> None:
    with running_local_worker(["again"]) as worker:
        for _ in range(2):
            with connected(worker.port) as wire:
                assert receive(wire)["data"]["input"] == ["again"]
        with connected(worker.port) as wire:
            assert receive(wire)["data"]["input"] == ["again"]
            send(wire, "initialized")
            assert receive(wire)["command"] == "start"
            send(wire, "done", data=1)
            assert receive(wire)["command"] == "exit"
        assert worker.program.wait() == 0


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ('{"command":"done","data":NaN}', "not json"),
        ("{", "not json"),
        ("null", "without a command"),
        ('{"command":"initialized"}', "without an initialize"),
    ],
)
def test_what_would_crash_hkubes_worker_is_reported(mistake: str, said: str) -> None:
    with running_local_worker([1]) as worker, connected(worker.port) as wire:
        receive(wire)
        send(wire, "initialized")
        assert receive(wire)["command"] == "start"
        wire.send(mistake)
        wait_until(worker.problems, what="a word about the mistake")
        assert said in worker.problems()[0]
        send(wire, "done", data=1)
        assert receive(wire)["command"] == "exit"
        assert worker.program.wait() == 0


def test_a_second_client_is_refused_while_the_first_is_served() -> None:
    with running_local_worker([1]) as worker, connected(worker.port) as wire:
        receive(wire)
        with pytest.raises((websocket.WebSocketException, OSError)):
            websocket.create_connection(f"ws://127.0.0.1:{worker.port}", timeout=5)
        wait_until(worker.problems, what="a word about the second client")
        send(wire, "initialized")
        assert receive(wire)["command"] == "start"
        send(wire, "done", data=1)
        assert receive(wire)["command"] == "exit"
        assert worker.program.wait() == 0


def test_a_client_that_asks_for_an_unsupported_encoding_is_refused_with_a_reason() -> None:
    with running_local_worker([1]) as worker:
        with pytest.raises(websocket.WebSocketBadStatusException, match="400"):
            websocket.create_connection(f"ws://127.0.0.1:{worker.port}?encoding=protoc", timeout=5)
        wait_until(worker.problems, what="a word about the encoding")
        assert "protoc" in worker.problems()[0]
        worker.program.kill()
