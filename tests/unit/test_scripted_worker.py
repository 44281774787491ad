"""The scripted worker, tested: it dies of what HKube's worker dies of, and of nothing else."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.scripted_client import Client
from support.scripted_worker import ScriptedWorker
from support.waiting import wait_until
from support.worker_wire import MESSAGE_MAX
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect


@contextlib.contextmanager
def talking(
    worker: ScriptedWorker, query: str = "?encoding=json"
) -> Iterator[tuple[ClientConnection, Client]]:
    """A well-behaved client of another library; what it does wrong is the test's."""
    with contextlib.suppress(ConnectionClosed), connect(worker.url + query, max_size=None) as wire:
        yield wire, worker.accept()


def say(wire: ClientConnection, command: str, **more: Any) -> None:
    wire.send(json.dumps({"command": command, **more}))


def begin(wire: ClientConnection, client: Client) -> None:
    """Bring a task to the point where it works."""
    client.initialize([])
    wire.recv()
    say(wire, "initialized")
    client.expect("initialized")
    client.start()
    wire.recv()


def violation(worker: ScriptedWorker) -> str:
    wait_until(lambda: worker.violations, what="a violation")
    return "; ".join(worker.take_violations())


def early(wire: ClientConnection, client: Client) -> None:
    say(wire, "alive")


def second_initialized(wire: ClientConnection, client: Client) -> None:
    begin(wire, client)
    say(wire, "initialized")


def initialized_in_ready(wire: ClientConnection, client: Client) -> None:
    begin(wire, client)
    say(wire, "done", data=1)
    say(wire, "initialized")


def second_answer(wire: ClientConnection, client: Client) -> None:
    begin(wire, client)
    say(wire, "done", data=1)
    say(wire, "errorMessage", error={"message": "late"})


def done_in_init(wire: ClientConnection, client: Client) -> None:
    client.initialize([])
    say(wire, "done", data=1)


def stopped_unasked(wire: ClientConnection, client: Client) -> None:
    begin(wire, client)
    say(wire, "stopped")


def stopped_too_late(wire: ClientConnection, client: Client) -> None:
    begin(wire, client)
    client.stop()
    client.worker.stop_by = 0.0
    say(wire, "stopped")


def stopping_unasked(wire: ClientConnection, client: Client) -> None:
    begin(wire, client)
    say(wire, "stopping")


def alive_in_ready(wire: ClientConnection, client: Client) -> None:
    begin(wire, client)
    say(wire, "done", data=1)
    say(wire, "alive")


def silence_after_alive(wire: ClientConnection, client: Client) -> None:
    begin(wire, client)
    say(wire, "alive")
    client.expect("alive")
    client.worker.alive_by = 0.0
    say(wire, "done", data=1)


def nan(wire: ClientConnection, client: Client) -> None:
    begin(wire, client)
    wire.send('{"command":"done","data":NaN}')


def half_a_message(wire: ClientConnection, client: Client) -> None:
    begin(wire, client)
    wire.send('{"command":"done"')


def null(wire: ClientConnection, client: Client) -> None:
    begin(wire, client)
    wire.send("null")


def error_command(wire: ClientConnection, client: Client) -> None:
    begin(wire, client)
    say(wire, "error")


def misspelt(wire: ClientConnection, client: Client) -> None:
    begin(wire, client)
    say(wire, "progres")


def too_large(wire: ClientConnection, client: Client) -> None:
    begin(wire, client)
    wire.send("x" * (MESSAGE_MAX + 1))


def error_under_data(wire: ClientConnection, client: Client) -> None:
    begin(wire, client)
    say(wire, "errorMessage", data={"message": "wrong place"})


def error_without_text(wire: ClientConnection, client: Client) -> None:
    begin(wire, client)
    say(wire, "errorMessage", error={"message": ""})


def id_as_number(wire: ClientConnection, client: Client) -> None:
    begin(wire, client)
    say(wire, "startAlgorithmExecution", data={"execId": 1, "algorithmName": "a", "input": []})


def no_input(wire: ClientConnection, client: Client) -> None:
    begin(wire, client)
    say(wire, "startAlgorithmExecution", data={"execId": "1", "algorithmName": "a"})


@pytest.mark.parametrize(
    ("mistake", "rule"),
    [
        (early, "before the worker has said anything"),
        (second_initialized, "`initialized` in working"),
        (initialized_in_ready, "`initialized` in ready"),
        (second_answer, "`errorMessage` in ready"),
        (done_in_init, "`done` in init"),
        (stopped_unasked, "`stopped` in working"),
        (stopped_too_late, "too late"),
        (stopping_unasked, "`stopping` in working"),
        (alive_in_ready, "`alive` in ready"),
        (silence_after_alive, "without `alive`"),
        (nan, "Unexpected token NaN"),
        (half_a_message, "no json"),
        (null, "no object"),
        (error_command, "'error' is an event"),
        (misspelt, "nobody knows"),
        (too_large, "Max payload size exceeded"),
        (error_under_data, "unknown error"),
        (error_without_text, "unknown error"),
        (id_as_number, "execId should be string"),
        (no_input, "input should be array"),
    ],
)
def test_a_mistake_ends_the_connection(
    mistake: Callable[[ClientConnection, Client], None], rule: str
) -> None:
    with ScriptedWorker() as worker, talking(worker) as (wire, client):
        with contextlib.suppress(ConnectionClosed):
            mistake(wire, client)
        assert rule in violation(worker)
        client.wait_for_end()


def test_a_second_connection_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScriptedWorker, "overtaken_s", 0.1)
    with ScriptedWorker() as worker, talking(worker):
        with contextlib.suppress(Exception), connect(worker.url):
            pass
        assert "a second socket" in violation(worker)


def test_a_second_connection_is_accepted_after_the_first_is_closed() -> None:
    with ScriptedWorker() as worker:
        for _ in range(3):
            with talking(worker):
                pass


def test_a_client_that_reconnects_too_late_is_refused() -> None:
    with ScriptedWorker(window_s=0.0) as worker:
        with talking(worker) as (_, client):
            client.initialize([])
        with talking(worker):
            assert "the pod was gone" in violation(worker)


def test_everything_that_is_allowed_is_accepted() -> None:
    with ScriptedWorker() as worker, talking(worker) as (wire, client):
        begin(wire, client)
        for command in ("alive", "progress", "started", "startSpan", "finishSpan"):
            say(wire, command, data={})
        client.stop()
        for command in ("stopping", "done", "stopped"):
            say(wire, command)
        begin_again = [client.receive()["command"] for _ in range(7)]
        assert begin_again == ["alive", "progress", "startSpan", "finishSpan", "stopping", "done", "stopped"]
        client.nothing_more()


def test_nothing_is_read_of_a_client_from_the_moment_on_when_reading_was_stopped() -> None:
    with ScriptedWorker() as worker, talking(worker) as (wire, client):
        for _ in range(20):
            begin(wire, client)
            client.stop_reading()
            read = client.received
            say(wire, "done", data=1)
            wait_until(client.unread, what="the answer")
            assert client.received == read
            client.go_on_reading()
            client.expect("done")


def test_a_violation_that_is_not_taken_fails_the_test() -> None:
    with (
        pytest.raises(AssertionError, match="would have died"),
        ScriptedWorker() as worker,
        talking(worker) as (wire, client),
    ):
        early(wire, client)
        client.wait_for_end()


@pytest.mark.parametrize("encoding", ["json", "bson", "msgpack"])
def test_messages_have_the_encoding_of_the_query(encoding: str) -> None:
    from support.worker_wire import decode, encode

    with ScriptedWorker() as worker, talking(worker, f"?encoding={encoding}") as (wire, client):
        client.initialize([1, "a"])
        received = wire.recv()
        data = received.encode() if isinstance(received, str) else received
        assert isinstance(received, str) == (encoding == "json")
        assert decode(encoding, data)["data"]["input"] == [1, "a"]
        answer = encode(encoding, {"command": "initialized"})
        wire.send(answer.decode() if encoding == "json" else answer)
        client.expect("initialized")


def test_bson_on_the_socket_is_wrapped_as_hkube_wraps_it() -> None:
    from support.worker_wire import encode

    wrapped = "290000000364617461001e00000002636f6d6d616e64000c000000696e697469616c697a6564000000"
    assert encode("bson", {"command": "initialized"}).hex() == wrapped
    assert encode("msgpack", {"command": "initialized"}).hex() == "81a7636f6d6d616e64ab696e697469616c697a6564"


def test_the_debug_server_repeats_the_task_and_refuses_a_second_client() -> None:
    with ScriptedWorker(debug=True) as worker:
        with talking(worker) as (wire, client):
            client.initialize([7])
            wire.recv()
            with connect(worker.url + "?encoding=json") as other:
                assert json.loads(other.recv())["command"] == "alreadyConnectedError"
                with pytest.raises(ConnectionClosed) as closed:
                    other.recv()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 4001
        with talking(worker) as (wire, client):
            assert json.loads(wire.recv())["command"] == "initialize"
            assert json.loads(wire.recv())["command"] == "start"
            say(wire, "done", data=7)
            client.expect("done")
