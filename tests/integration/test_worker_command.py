"""`hkrunner worker`: inputs out, results back, for any client; and the command line that finds it."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket
from support.local import ALGORITHMS
from support.programs import Program, run_hkrunner, serving


@contextlib.contextmanager
def worker(tmp_path: Path, *args: str, input: str | None = None) -> Iterator[tuple[Program, int]]:
    with serving("worker", "--port", "0", *args, cwd=tmp_path, input=input) as program:
        line = program.wait_for_line("local worker on ws://")
        yield program, int(line.split("ws://")[1].split(":")[1])


class Client:
    """A client of a few lines."""

    def __init__(self, port: int) -> None:
        self.wire = websocket.create_connection(f"ws://127.0.0.1:{port}", timeout=20)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.wire.close()

    def say(self, command: str, **more: Any) -> None:
        self.wire.send(json.dumps({"command": command, **more}))

    def hear(self, command: str) -> Any:
        message = json.loads(self.wire.recv())
        assert message["command"] == command, message
        return message.get("data")

    def begin(self) -> Any:
        """Take a task; return its input."""
        data = self.hear("initialize")
        self.say("initialized")
        self.hear("start")
        return data["input"]


def test_inputs_go_out_and_results_come_back_on_stdout_alone(tmp_path: Path) -> None:
    with worker(tmp_path, "-i", "[1]", "-i", "2") as (program, port), Client(port) as client:
        for expected in ([1], [2]):
            assert client.begin() == expected
            client.say("logData", data=["a line"])
            client.say("done", data={"seen": expected})
        client.hear("exit")
        client.wire.close()
        assert program.wait() == 0
        assert [json.loads(line) for line in program.stdout] == [{"seen": [1]}, {"seen": [2]}]
        assert program.stderr.count("a line") == 2
    assert json.loads((tmp_path / ".hkrunner/tasks/t2/output.json").read_text()) == {"seen": [2]}


def test_lines_of_stdin_are_inputs_and_an_invalid_one_is_reported(tmp_path: Path) -> None:
    lines = "[1]\n\nnope\n[2]"
    with worker(tmp_path, "--tasks", "-", "--json", input=lines) as (program, port), Client(port) as client:
        for expected in ([1], [2]):
            assert client.begin() == expected
            client.say("done", data=expected)
        client.hear("exit")
        client.wire.close()
        assert program.wait() == 2
        assert [json.loads(line)["output"] for line in program.stdout] == [[1], [2]]
        program.wait_for_line("line 3 of stdin (--tasks) is not JSON")


def test_a_client_that_fails_a_task_makes_the_status_1(tmp_path: Path) -> None:
    with worker(tmp_path, "-i", "1", "--json") as (program, port), Client(port) as client:
        client.begin()
        client.say("errorMessage", error={"code": "Failed", "message": "no data"})
        client.hear("exit")
        client.wire.close()
        assert program.wait() == 1
        task = json.loads(program.stdout[0])
        assert (task["reason"], task["error"]["message"]) == ("AlgorithmError", "no data")


def test_any_client_may_start_other_algorithms(tmp_path: Path) -> None:
    (tmp_path / "adds.py").write_text(
        "import os, time\n"
        "def start(args):\n"
        "    while not os.path.exists('go'):\n"
        "        time.sleep(0.005)\n"
        "    return sum(args['input'])\n"
    )
    adds = f"adds={tmp_path / 'adds.py'}"
    with worker(tmp_path, "-i", "[4, 5]", "--algorithm", adds) as (program, port), Client(port) as client:
        given = client.begin()
        data = {"execId": "1", "algorithmName": "adds", "input": given, "includeResult": True}
        client.say("startAlgorithmExecution", data={**data, "execId": 1})
        assert client.hear("algorithmExecutionError") == {
            "execId": 1,
            "error": "data.execId should be string",
        }
        client.say("startAlgorithmExecution", data=data)
        client.say("startAlgorithmExecution", data=data)
        assert client.hear("algorithmExecutionError")["error"] == "execution 1 already running"
        (tmp_path / "go").touch()
        assert client.hear("algorithmExecutionDone") == {"execId": "1", "response": 9}
        client.say("done", data=None)
        client.hear("exit")
        client.wire.close()
        assert program.wait() == 0


def test_without_inputs_it_says_how_to_give_some_and_ends_in_order(tmp_path: Path) -> None:
    with worker(tmp_path) as (program, port), Client(port) as client:
        program.wait_for_line("--tasks -")
        program.wait_for_line("a wrapper connected")
        program.send_signal(signal.SIGINT)
        client.hear("exit")
        client.wire.close()
        assert program.wait() == 130


def test_a_signal_stops_the_task_then_tells_the_client_to_exit(tmp_path: Path) -> None:
    with worker(tmp_path, "-i", "1") as (program, port), Client(port) as client:
        client.begin()
        client.say("progress", data={"progress": 1})
        program.wait_for_line("1 %")
        program.send_signal(signal.SIGTERM)
        client.hear("stop")
        client.say("stopped")
        client.hear("exit")
        client.wire.close()
        assert program.wait() == 143
        program.wait_for_line("task t1 stopped")


def test_once_ends_with_its_client_and_counts_the_task_it_lost(tmp_path: Path) -> None:
    with worker(tmp_path, "--once", "-i", "1", "-i", "2") as (program, port):
        with Client(port) as client:
            client.begin()
        assert program.wait() == 1
        program.wait_for_line("the algorithm killed due to an unknown reason")
        program.wait_for_line("before 1 more inputs were sent")


def test_a_port_in_use_is_reported_in_one_sentence(tmp_path: Path) -> None:
    with worker(tmp_path) as (_, port):
        ended = run_hkrunner("worker", "--port", str(port), cwd=tmp_path)
    assert ended.status == 2
    assert "choose another with --port" in ended.stderr


@pytest.mark.parametrize(
    "args",
    [
        ("adds.py", "-i", "[1,2]"),
        ("run", "adds.py", "-i", "[1,2]"),
        ("-e", "adds.py", "-i", "[1,2]"),
        ("adds", "-i", "[1,2]"),
    ],
)
def test_run_is_the_command_where_none_is_named(args: tuple[str, ...]) -> None:
    ended = run_hkrunner(*args, "--no-state", cwd=ALGORITHMS)
    assert (ended.status, ended.stdout) == (0, "3\n"), ended.stderr


@pytest.mark.parametrize("tasks", ["empty.jsonl", "-"])
def test_a_worker_whose_file_has_no_inputs_ends(tasks: str, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    ended = run_hkrunner("worker", "--port", "0", "--tasks", tasks, "--no-state", cwd=tmp_path, input="")
    assert (ended.status, ended.stdout) == (0, ""), ended.stderr


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("worker --host= --port 0", "--host wants ADDRESS, not ''"),
        (
            "worker --host 192.0.2.1 --port 0",
            "cannot listen on 192.0.2.1 port 0: Cannot assign requested address; choose another with --host",
        ),
        ("runs ls --state-dir=", "--state-dir wants DIR, not ''"),
        ("why --path= adds.py", "hkrunner why wants --path PATH or --net HOST:PORT, before the entry"),
    ],
)
def test_an_empty_or_a_foreign_place_is_refused_in_one_sentence(
    command: str, sentence: str, tmp_path: Path
) -> None:
    ended = run_hkrunner(*command.split(), cwd=tmp_path)
    assert (ended.status, ended.stderr) == (2, f"hkrunner: {sentence}\n")


def test_a_mistyped_command_is_reported_with_a_suggestion(tmp_path: Path) -> None:
    ended = run_hkrunner("worke", cwd=tmp_path)
    assert ended.status == 2
    assert "Did you mean 'worker'?" in ended.stderr


def test_help_shows_the_options_of_run_and_the_commands(tmp_path: Path) -> None:
    told = run_hkrunner("--help", cwd=tmp_path).stdout
    assert "--input" in told
    assert "Commands:" in told
    assert "--port" in run_hkrunner("worker", "--help", cwd=tmp_path).stdout
