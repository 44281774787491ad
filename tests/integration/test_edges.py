"""What no worker and no algorithm should do: it affects its own task at most."""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import Any

import pytest
from support.local import ALGORITHMS
from support.programs import Program, serving
from support.scripted_client import Client
from support.scripted_worker import ScriptedWorker
from support.served import serving_worker
from support.waiting import wait_until
from support.worker_wire import TASK, TEXT, encode, frame

ENCODINGS = ["json", "bson", "msgpack"]


def message_of(client: Client) -> str:
    """Return the text of the task's failure, which must be the next answer."""
    answer = client.answer()
    assert answer["command"] == "errorMessage", answer
    text: str = answer["error"]["message"]
    return text


def peak_bytes(program: Program) -> int:
    """Return the most memory that hkrunner itself has had, the file pages included."""
    status = Path(f"/proc/{program.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def begin(client: Client, *input: Any, **more: Any) -> None:
    client.initialize(list(input), **more)
    client.expect("initialized")
    client.start()


# ---- texts that an encoding cannot carry


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_error_with_a_lone_surrogate_is_reported(tmp_path: Path, encoding: str) -> None:
    with serving_worker(tmp_path, "--encoding", encoding, entry="raises_surrogate.py") as (client, _):
        begin(client, "misbehave")
        text = message_of(client)
        assert text.startswith("ALGORITHM_ERROR: ValueError: bad file name: ")
        assert client.run(["behave"])["data"] == "served"


def test_a_long_error_of_foreign_letters_is_reported_as_an_error(tmp_path: Path) -> None:
    with serving_worker(tmp_path, entry="raises_a_long_foreign_text.py") as (client, _):
        begin(client, "misbehave")
        assert message_of(client).startswith("ALGORITHM_ERROR: ValueError: 漢")
        assert client.run(["behave"])["data"] == "served"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_progress_with_any_details_passes(tmp_path: Path, encoding: str) -> None:
    with serving_worker(tmp_path, "--encoding", encoding, entry="tells_odd_progress.py") as (client, _):
        for details in ("surrogate", "huge int", "null in a key", "large", "deep", "object"):
            begin(client, details)
            told = client.expect("progress")["data"]
            assert told["progress"] == 1, details
            assert client.answer()["data"] == "served", details


# ---- data of the worker's that our own processes cannot pass on


@pytest.mark.parametrize("encoding", ["bson", "msgpack"])
def test_a_stop_with_a_date_in_it_stops(tmp_path: Path, encoding: str) -> None:
    with serving_worker(tmp_path, "--encoding", encoding) as (client, _):
        begin(client, "wait for stop")
        when = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
        client.stop({"command": "stop", "data": {"forceStop": True, "when": when}})
        client.expect("stopped")
        assert client.run(["give", 1])["data"] == 1


def test_a_stop_with_very_long_data_stops(tmp_path: Path) -> None:
    with serving_worker(tmp_path, "--grace", "60") as (client, _):
        begin(client, "wait for stop")
        client.stop({"command": "stop", "data": {"forceStop": True, "why": "é" * 60_000}})
        client.expect("stopped")
        assert client.run(["give", 1])["data"] == 1


def test_a_stop_whose_data_cannot_be_read_stops(tmp_path: Path) -> None:
    with serving_worker(tmp_path, "--grace", "60") as (client, program):
        begin(client, "wait for stop")
        with client.worker.lock:
            client.worker.state, client.worker.stop_by = "stop", time.monotonic() + 10
            deep = b"[" * 100_000 + b"]" * 100_000
            client.send_bytes(frame(TEXT, b'{"command":"stop","data":' + deep + b"}"))
        client.expect("stopped")
        program.wait_for_line("cannot be read")
        assert client.run(["give", 1])["data"] == 1


# ---- answers to calls of the code API


@pytest.mark.parametrize(
    ("encoding", "response"),
    [
        ("json", b"[" * 5000 + b"]" * 5000),
        ("json", b"\xff"),
        ("json", b"1" * 5000),
    ],
    ids=["deep", "no UTF-8", "a number of 5,000 digits"],
)
def test_an_answer_that_cannot_be_read_is_an_error_of_its_call(
    tmp_path: Path, encoding: str, response: bytes
) -> None:
    with serving_worker(tmp_path, "--encoding", encoding, entry="calls_and_is_answered.py") as (client, _):
        begin(client, 1)
        execution = client.expect("startAlgorithmExecution")["data"]["execId"].encode()
        head = b'{"command":"algorithmExecutionDone","data":{"execId":"' + execution + b'","response":'
        client.send_bytes(frame(TEXT, head + response + b"}}"))
        assert "cannot be read" in client.answer()["data"]


def test_a_date_that_only_javascript_has_reaches_the_algorithm(tmp_path: Path) -> None:
    import bson
    from bson.datetime_ms import DatetimeMS

    with serving_worker(tmp_path, "--encoding", "bson") as (client, _):
        client.begin_with(
            bson.encode(
                {
                    "data": {
                        "command": "initialize",
                        "data": {**TASK, "input": ["measure", [DatetimeMS(8640000000000000)]]},
                    }
                }
            )
        )
        client.expect("initialized")
        client.start()
        assert client.answer()["data"] == 1


# ---- the worker says initialize again, or for another task


def test_a_task_without_a_name_is_not_taken_for_the_one_that_runs(tmp_path: Path) -> None:
    with ScriptedWorker(window_s=None) as worker, serving_worker(tmp_path, worker=worker) as (client, _):
        client.send_initialize({"command": "initialize", "data": {"input": ["sleep"]}})
        client.expect("initialized")
        client.start()
        client.send_initialize({"command": "initialize", "data": {"input": ["give", "new"]}})
        client.expect("initialized")
        client.start()
        assert client.answer()["data"] == "new"


def test_a_task_of_another_job_is_another_task_whatever_its_name(tmp_path: Path) -> None:
    with ScriptedWorker(window_s=None) as worker, serving_worker(tmp_path, worker=worker) as (client, _):
        begin(client, "sleep", jobId="first")
        worker.restart()
        client = worker.accept()
        begin(client, "give", "of the second job", jobId="second")
        assert client.answer()["data"] == "of the second job"


def test_a_task_that_is_being_stopped_and_comes_again_is_a_new_task(tmp_path: Path) -> None:
    with (
        ScriptedWorker(window_s=None) as worker,
        serving_worker(tmp_path, "--grace", "3", worker=worker) as (client, program),
    ):
        begin(client, "hold the GIL")
        client.stop()
        program.wait_for_line("stopping")
        client.initialize(["give", "again"])
        client.expect("initialized")
        client.start()
        assert client.answer()["data"] == "again"
        client.nothing_more()


def test_an_initialized_that_was_lost_is_sent_again_to_a_worker_that_waits(tmp_path: Path) -> None:
    with (
        ScriptedWorker(window_s=None) as worker,
        serving_worker(tmp_path, worker=worker) as (client, _),
    ):
        client.send({"command": "cleanup"})  # a first word
        client.ping()
        client.stop_reading()
        client.initialize(["give", 1])
        wait_until(client.unread, what="an initialized that nobody reads")
        client.reset()
        client = worker.accept()
        client.expect("initialized")
        client.start()
        assert client.answer()["data"] == 1


def test_an_initialized_that_waits_is_sent_once_to_a_worker_that_begins_the_task_again(
    tmp_path: Path,
) -> None:
    flag = tmp_path / "flag"
    with (
        ScriptedWorker(window_s=None) as worker,
        serving_worker(tmp_path, worker=worker) as (client, program),
    ):
        task = {"init": "wait for file", "file": str(flag)}
        client.initialize(["give", 1], **task)
        program.wait_for_line("init", stream="stdout")
        worker.go_down()
        flag.touch()
        program.wait_for_line("connection lost")
        # Loaded and initialized without a worker: its messages wait.
        wait_until(lambda: "b6thsibs" in "".join(program.stderr), what="the task")
        worker.begin_life()
        worker.listen()
        client = worker.accept()
        client.initialize(["give", 1], **task)
        client.expect("initialized")
        client.start()
        assert client.answer()["data"] == 1
        client.nothing_more()


def test_a_paused_child_is_read_again_by_the_next_task(tmp_path: Path) -> None:
    with (
        ScriptedWorker(window_s=None) as worker,
        serving_worker(tmp_path, entry="says_much_and_has_init.py", worker=worker) as (client, program),
    ):
        begin(client, 1500)
        client.stop_reading()
        worker.go_down()
        program.wait_for_line("connection lost")
        worker.begin_life()
        worker.listen()
        client = worker.accept()
        client.initialize([0], taskId="next")
        client.expect("initialized")
        client.start()
        assert client.answer()["data"] == "said"


@pytest.mark.parametrize("how", ["stopped", "replaced"])
def test_output_of_a_task_that_never_began_is_not_taken_for_that_of_the_next(
    tmp_path: Path, how: str
) -> None:
    (tmp_path / "alg.py").write_text(
        "import os\n"
        "def init(args):\n    os.write(1, b'of ' + args['input'][0].encode())\n"
        "def start(args):\n    print(' whole')\n"
    )
    with serving_worker(tmp_path, "--redirect-logs", entry=tmp_path / "alg.py") as (client, _):
        client.initialize(["one"], taskId="one")
        client.expect("initialized")
        if how == "stopped":
            client.stop()
            client.expect("stopped")
        begin(client, "two", taskId="two")
        assert client.expect("logData")["data"] == ["of two whole"]
        client.answer()


def test_each_of_many_tasks_has_an_input(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, _):
        for _ in range(2):
            client.send_initialize({"command": "initialize", "data": {"taskId": "x"}})
            client.expect("initialized")
            client.start()
            client.answer()
        client.initialize(["args"])
        client.expect("initialized")
        client.start()
        assert client.answer()["data"]["input"] == ["args"]


# ---- large


def test_a_large_initialize_beside_a_running_task_is_not_decoded_by_hkrunner(tmp_path: Path) -> None:
    large = [{"a": 1, "b": [1, 2]}] * 400_000
    payload = encode("json", {"command": "initialize", "data": {**TASK, "taskId": "next", "input": large}})
    with serving_worker(tmp_path) as (client, program):
        begin(client, "sleep")
        before = peak_bytes(program)
        client.begin_with(payload)
        client.expect("initialized")
        client.start()
        client.answer()
        assert peak_bytes(program) - before < 2 * len(payload) + 40_000_000


# ---- logs


def test_the_last_line_of_a_task_that_died_goes_out_with_that_task(tmp_path: Path) -> None:
    with serving_worker(tmp_path, "--redirect-logs", entry="dies_in_a_line.py") as (client, _):
        begin(client, "misbehave")
        assert client.expect("logData")["data"] == ["a line without an end"]
        assert message_of(client).startswith("EXITED")
        begin(client, "behave")
        assert client.expect("logData")["data"] == ["a whole line"]
        assert client.answer()["data"] == "served"


# ---- what comes from outside, on a terminal


def test_names_with_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, program):
        client.initialize(["give", 1], taskId="\x1b[31mred\n✔ t9 done in 0 ms")
        client.expect("initialized")
        client.start()
        assert client.answer()["data"] == 1
        program.wait_for_line("▶ task \\x1b[31mred\\n✔ t9 done")
        assert not any("\x1b" in line for line in program.stderr)


def test_a_connect_timeout_holds_while_a_server_says_nothing(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        with serving(
            "--entry", ALGORITHMS / "obeys.py", "--url", url, "--connect-timeout", "1", cwd=tmp_path
        ) as program:
            assert program.wait() == 5
        assert any("no answer in time" in line for line in program.stderr)
