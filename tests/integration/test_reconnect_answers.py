"""Answers around a lost connection: none is lost, none goes to another worker."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hkrunner.boards.runs.history import show_task
from hkrunner.runner.link.connection import SETTLE_S, SILENT_S
from hkrunner.runner.link.identity import RESTART_S
from support.scripted_client import Client
from support.served import accept_again, has_record, serving_worker
from support.waiting import wait_until
from support.worker_wire import TASK, encode, frame

Fault = Callable[[Client], None]


@pytest.mark.parametrize("refuses", [False, True], ids=["at once", "after a while"])
def test_a_restarted_worker_gets_no_answer_of_an_earlier_task(tmp_path: Path, refuses: bool) -> None:
    with serving_worker(tmp_path) as (client, program):
        worker = client.worker
        client.initialize(["wait for file", str(tmp_path / "flag")], taskId="old")
        client.expect("initialized")
        client.start()
        program.wait_for_line("start", stream="stdout")
        if refuses:
            worker.go_down()
            worker.begin_life()
            program.wait_for_line("waiting for an HKube worker")
            worker.listen()
        else:
            worker.restart()
        client = accept_again(worker)
        (tmp_path / "flag").touch()
        wait_until(lambda: has_record(tmp_path, "succeed"), what="the end of the task")
        passed(SILENT_S + 0.2)
        client.nothing_more()
        assert client.run(["give", "new"], taskId="new")["data"] == "new"
        client.nothing_more()
        lost = program.wait_for_line("its answer was dropped")
        assert "task old" in lost
        record = show_task(tmp_path / ".hkrunner", "old")
        (problem,) = record.facts["problems"]
        assert problem in lost
        in_folder = tmp_path / ".hkrunner" / "tasks" / "old" / "output.json"  # of a task that has taken long
        assert (record.output or in_folder.read_bytes()) == b'"there"'


@pytest.mark.parametrize("restarts", [False, True], ids=["the same worker", "another worker"])
@pytest.mark.parametrize("fault", [Client.vanish, Client.reset])
def test_a_worker_that_sends_a_message_at_once_gets_its_answer_once(
    tmp_path: Path, fault: Fault, restarts: bool
) -> None:
    with serving_worker(tmp_path) as (client, _):
        worker = client.worker
        assert client.run(["give", 1], taskId="t1")["data"] == 1
        worker.next_task = {**TASK, "taskId": "t2", "input": ["give", 2]}
        if restarts:
            worker.restart()
        else:
            fault(client)
        client = accept_again(worker)
        client.expect("initialized")
        client.start()
        assert client.answer()["data"] == 2
        passed(SETTLE_S + 0.1)
        client.nothing_more()


@pytest.mark.parametrize("read", [1, 100_000, 5_000_000])
def test_an_answer_that_was_cut_is_sent_again_whole_and_once(tmp_path: Path, read: int) -> None:
    with serving_worker(tmp_path) as (client, _):
        client.initialize(["text", 20_000_000])
        client.expect("initialized")
        client.reset_after_bytes = client.received + read
        client.start()
        client = accept_again(client.worker)
        assert len(client.answer()["data"]) == 20_000_000
        client.nothing_more()
        assert client.run(["give", 2])["data"] == 2


def test_an_answer_that_the_worker_never_read_is_sent_again(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, _):
        client.initialize(["wait for file", str(tmp_path / "flag")])
        client.expect("initialized")
        client.stop_reading()
        client.start()
        started = wait_until(client.unread, what="the start")
        (tmp_path / "flag").touch()
        wait_until(lambda: has_record(tmp_path, "succeed"), what="the end of the task")
        wait_until(lambda: client.unread() > started, what="the answer on the wire")
        client.reset()
        client = accept_again(client.worker)
        assert client.answer()["command"] == "done"


def test_nothing_of_an_earlier_task_reaches_a_worker_that_was_away_too_long(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, program):
        worker = client.worker
        client.initialize(["wait for file", str(tmp_path / "flag")], taskId="old")
        client.expect("initialized")
        client.start()
        program.wait_for_line("start", stream="stdout")
        worker.go_down()
        gone_at = time.monotonic()
        (tmp_path / "flag").touch()
        wait_until(lambda: has_record(tmp_path, "succeed"), what="the end of the task")
        # HKube's worker gives the task up after 5 s; for hkrunner it is another one soon.
        wait_until(lambda: time.monotonic() - gone_at > RESTART_S + 0.2, what="the time of a restart")
        worker.begin_life()
        worker.listen()
        client = accept_again(worker)
        passed(SILENT_S + 0.2)
        client.nothing_more()
        assert client.run(["give", "new"], taskId="new")["data"] == "new"
        client.nothing_more()


def test_an_undelivered_answer_is_dropped_when_a_new_task_begins(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, _):
        worker = client.worker
        client.initialize(["text", 20_000_000], taskId="old")
        client.expect("initialized")
        client.stop_reading()
        client.start()
        wait_until(lambda: has_record(tmp_path, "succeed"), what="the end of the task")
        worker.go_down()
        worker.begin_life()
        # The new worker speaks first, and faster than anybody: in one packet with its handshake.
        with socket.create_server(("127.0.0.1", worker.port)) as listener:
            listener.settimeout(30)
            wire, _ = listener.accept()
            with wire:
                data = {**TASK, "taskId": "new", "input": ["give", "new"]}
                first = encode("json", {"command": "initialize", "data": data})
                wire.sendall(_handshake(wire) + frame(1, first))
                assert b"initialized" in _first_message(wire)


def test_an_incomplete_message_of_the_worker_is_dropped_with_its_connection(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, _):
        for size in (10, 400_000):
            data = {**TASK, "taskId": "half", "input": ["give", "x" * size]}
            whole = frame(1, encode("json", {"command": "initialize", "data": data}))
            client.send_bytes(whole[: len(whole) // 2])
            client.reset()
            client = accept_again(client.worker)
            assert client.run(["give", size])["data"] == size
            client.confirm()
            # Half of a message in fragments, with the first one whole.
            client.send_bytes(frame(1, whole[10:200], last=False) + frame(0, whole[200:-20], last=False))
            client.vanish()
            client = accept_again(client.worker)
            assert client.run(["give", size])["data"] == size
            client.confirm()


# ---- helpers


def passed(seconds: float) -> None:
    """Let this time pass, in which something could be sent that must not be."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > end, what="the end of the time")


def _handshake(wire: socket.socket) -> bytes:
    """Read the client's half of the handshake; return the other one."""
    from websockets.utils import accept_key

    request = b""
    while b"\r\n\r\n" not in request:
        request += wire.recv(4096)
    key = next(line for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
    accepted = accept_key(key.split(b":", 1)[1].strip().decode())
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accepted}\r\n\r\n"
    ).encode()


def _first_message(wire: socket.socket) -> bytes:
    """Return the first message of the client, which must be a small one."""
    wire.settimeout(30)
    data = b""
    while len(data) < 2 or len(data) < 6 + (data[1] & 0x7F):
        part = wire.recv(4096)
        assert part, f"the connection has ended: {data[:40]!r}"
        data += part
    length = data[1] & 0x7F
    assert length < 126, f"a large message comes first: {data[:40]!r}"
    key, masked = data[2:6], data[6 : 6 + length]
    return bytes(byte ^ key[i % 4] for i, byte in enumerate(masked))
