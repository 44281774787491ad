"""The connection breaks: in every state, in every way, and nothing is lost or mixed up."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.programs import Program, serving
from support.scripted_client import Client
from support.scripted_worker import ScriptedWorker
from support.served import OBEYS, accept_again, has_record, serving_worker
from support.waiting import wait_until

#: Back so soon, says the issue.
BACK_S = 0.1


def close_1000(client: Client) -> None:
    client.close(1000)


def close_1001(client: Client) -> None:
    client.close(1001, "going away")


def close_1009(client: Client) -> None:
    client.close(1009)


def close_1013(client: Client) -> None:
    client.close(1013, "try again later")


FAULTS: list[Callable[[Client], None]] = [
    *(close_1000, close_1001, close_1009, close_1013, Client.vanish, Client.reset)
]


# ---- every fault in every state, one after the other in one process


def test_hkrunner_reconnects_between_tasks(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, _):
        for number, fault in enumerate(FAULTS):
            assert client.run(["give", number])["data"] == number
            client.confirm()
            fault(client)
            client = accept_again(client.worker)
            client.nothing_more()
        assert client.run(["give", "last"])["data"] == "last"


def test_hkrunner_reconnects_before_the_first_task(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, _):
        for fault in FAULTS:
            fault(client)
            client = accept_again(client.worker)
            client.nothing_more()
        assert client.run(["give", 2])["data"] == 2


def test_a_task_continues_after_a_lost_connection_during_init(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, program):
        for number, fault in enumerate(FAULTS):
            flag = tmp_path / f"flag{number}"
            client.initialize(["give", number], init="wait for file", file=str(flag))
            wait_until(lambda count=number: program.stdout.count("init wait for file") > count, what="init()")
            fault(client)
            client = accept_again(client.worker)
            flag.touch()
            if 0 < number < len(FAULTS) - 1:
                client.confirm()  # one that says nothing gets what waits for it a second later
            client.expect("initialized")
            client.start()
            assert client.answer()["data"] == number
            client.nothing_more()


def test_a_task_continues_after_a_lost_connection_before_its_start(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, _):
        for number, fault in enumerate(FAULTS):
            client.initialize(["give", number])
            client.expect("initialized")
            fault(client)
            client = accept_again(client.worker)
            client.start()
            assert client.answer()["data"] == number
            client.nothing_more()


def test_the_answer_of_a_running_task_comes_on_the_next_socket(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, program):
        for number, fault in enumerate(FAULTS):
            flag = tmp_path / f"flag{number}"
            client.initialize(["wait for file", str(flag)])
            client.expect("initialized")
            client.start()
            wait_until(lambda count=number: program.stdout.count("start") > count, what="the task is at work")
            fault(client)
            client = accept_again(client.worker)
            flag.touch()
            assert client.answer()["data"] == "there"
            client.nothing_more()
        # The production worker exits all the same, and says so.
        client.exit()
        assert program.wait() == 0


def test_stopped_comes_on_the_next_socket(tmp_path: Path) -> None:
    with serving_worker(tmp_path, "--grace", "0.5") as (client, program):
        for number, fault in enumerate((close_1000, Client.vanish, Client.reset)):
            client.initialize(["sleep"])
            client.expect("initialized")
            client.start()
            wait_until(lambda count=number: program.stdout.count("start") > count, what="the task is at work")
            client.stop()
            wait_until(lambda count=number: _stops(program) > count, what="stop() is called")
            fault(client)
            client = accept_again(client.worker)
            client.expect("stopped")
            client.nothing_more()


# ---- how soon, how often


def test_hkrunner_reconnects_within_100_ms(tmp_path: Path) -> None:
    times = []
    with serving_worker(tmp_path) as (client, _):
        for _ in range(10):
            gone_at = time.monotonic()
            client.vanish()
            client = accept_again(client.worker)
            times.append(client.connected_at - gone_at)
            client.run(["give", 1])
            client.confirm()
    # Some of the tries have to do it: the machine may be busy with something else in the others.
    assert sorted(times)[2] <= BACK_S, times


def test_a_worker_that_starts_late_is_found_soon(tmp_path: Path) -> None:
    with (
        ScriptedWorker(listens=False) as worker,
        serving("--entry", OBEYS, "--url", worker.url, cwd=tmp_path) as program,
    ):
        program.wait_for_line("waiting for an HKube worker")
        worker.listen()
        client = worker.accept(deadline_s=10)
        assert client.run(["give", 1])["data"] == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\0\xff\0\xff\r\n\r\n",
        b"",
    ],
    ids=["503", "404", "200", "another protocol", "noise", "nothing"],
)
def test_a_server_that_answers_wrongly_is_retried_until_the_worker_is_there(
    tmp_path: Path, answer: bytes
) -> None:
    with (
        ScriptedWorker(listens=False) as worker,
        socket.create_server(("127.0.0.1", worker.port)) as listener,
        serving("--entry", OBEYS, "--url", worker.url, cwd=tmp_path) as program,
    ):
        listener.settimeout(30)
        for _ in range(3):
            wire, _ = listener.accept()
            with wire:
                wire.recv(4096)
                wire.sendall(answer)
        listener.close()
        worker.listen()
        client = worker.accept()
        assert client.run(["give", 1])["data"] == 1
        said = "\n".join(program.stderr)
        assert said.count("waiting for an HKube worker") <= 1
        assert "Traceback" not in said


def test_a_worker_that_closes_each_connection_is_retried_with_a_pause(tmp_path: Path) -> None:
    with ScriptedWorker() as worker, serving("--entry", OBEYS, "--url", worker.url, cwd=tmp_path) as program:
        count, end = 0, time.monotonic() + 2
        while time.monotonic() < end:
            worker.accept().close(1001)
            count += 1
        # 10 soon, then at most some a second.
        assert count <= 25
        assert len(program.stderr) <= 30


# ---- another client is there; the debug server


def test_a_worker_that_serves_another_client_is_retried_slowly(tmp_path: Path) -> None:
    with ScriptedWorker() as worker, serving("--entry", OBEYS, "--url", worker.url, cwd=tmp_path) as program:
        refused_at = 0.0
        for _ in range(2):
            client = worker.accept()
            assert client.connected_at - refused_at >= 0.7
            client.send({"command": "alreadyConnectedError", "data": {"hostname": "pc1"}})
            refused_at = time.monotonic()
            client.close(4001)
        program.wait_for_line("4001")


def test_the_debug_server_sends_the_task_again_and_it_is_not_run_twice(tmp_path: Path) -> None:
    with (
        ScriptedWorker(debug=True, window_s=None) as worker,
        serving_worker(tmp_path, worker=worker) as (client, program),
    ):
        client.initialize(["wait for file", str(tmp_path / "flag")])
        client.expect("initialized")
        client.start(worker.task)
        program.wait_for_line("start", stream="stdout")
        client.vanish()
        client = accept_again(worker)
        client.nothing_more()  # both have been read: a task that has ended by then would be run again
        (tmp_path / "flag").touch()
        assert client.answer()["data"] == "there"
        client.nothing_more()
        assert program.stdout.count("start") == 1


def test_the_debug_server_sends_a_task_again_that_was_only_initialized(tmp_path: Path) -> None:
    with (
        ScriptedWorker(debug=True, window_s=None) as worker,
        serving_worker(tmp_path, worker=worker) as (client, program),
    ):
        client.initialize(["give", 7])
        client.expect("initialized")
        client.vanish()
        client = accept_again(worker)
        message = client.receive()
        if message["command"] == "initialized":
            message = client.receive()
        assert message == {"command": "done", "data": 7}
        client.nothing_more()
        program.wait_for_line("start", stream="stdout")
        assert program.stdout.count("start") == 1


# ---- a worker that falls silent, restarts, again and again


def test_a_silent_worker_gets_no_second_socket(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, _):
        client.initialize(["text", 20_000_000])
        client.expect("initialized")
        client.stop_reading()
        client.start()
        wait_until(lambda: has_record(tmp_path, "succeed"), what="the end of the task")
        assert len(client.worker.clients) == 1
        client.go_on_reading()
        assert len(client.answer()["data"]) == 20_000_000


def test_a_worker_that_is_started_again_between_tasks_is_served_at_once(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, _):
        for number in range(5):
            assert client.run(["give", number])["data"] == number
            client.worker.restart()
            client = accept_again(client.worker)
            client.nothing_more()


def test_a_hundred_lost_connections_leave_nothing_behind(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, program):

        def open_files() -> int:
            return len(list(Path(f"/proc/{program.pid}/fd").iterdir()))

        def drop(client: Client) -> Client:
            client.vanish()
            client = accept_again(client.worker)
            assert client.run(["give", 1])["data"] == 1
            client.confirm()
            return client

        for _ in range(5):
            client = drop(client)
        before = open_files()
        for _ in range(95):
            client = drop(client)
        wait_until(lambda: open_files() <= before + 1, what="no more files than before")
        wait_until(lambda: _threads(program) == 1, what="the end of the thread that has connected")


def _stops(program: Program) -> int:
    return sum(line.startswith("stop {") for line in program.stdout)


def _threads(program: Program) -> int:
    return len(list(Path(f"/proc/{program.pid}/task").iterdir()))
