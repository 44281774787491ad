"""--command: a program that speaks HKube's protocol is the algorithm."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hkrunner.runner.prepare.program import NODE_PRELOAD, NODE_WRAPPER
from support.local import ALGORITHMS, Run, error_of
from support.programs import Program, Result, run_hkrunner, serving
from support.programs import run as run_command
from support.scripted_worker import Client, ScriptedWorker

ANY = shlex.join([sys.executable, str(ALGORITHMS / "any_program.py")])
EXAMPLES = Path(__file__).parents[2] / "examples"


def run_program(
    *inputs: Any, cwd: Path, command: str = ANY, args: tuple[str | Path, ...] = (), deadline_s: float = 40.0
) -> Run:
    """Run the program with each input as a task."""
    lines = "".join(f"{json.dumps(value)}\n" for value in inputs)
    options = ("--command", command, "--tasks", "-", "--json", *args)
    ended = run_hkrunner(*options, cwd=cwd, input=lines, deadline_s=deadline_s)
    assert "hkrunner/runner" not in ended.stderr, ended.stderr  # no traceback of ours
    return Run(ended.status, [json.loads(line) for line in ended.stdout.splitlines()], ended.stderr)


@pytest.mark.parametrize("first", ["echo without a line of an interpreter", "#!/nowhere/sh", "#!/bin/sh\r"])
def test_a_script_that_cannot_be_started_is_told_with_a_remedy(first: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_bytes(first.encode() + b"\n")
    script.chmod(0o755)
    run = run_program(1, cwd=tmp_path, command="./script")
    assert run.status == 4 and len(run.stderr.splitlines()) == 1, run.stderr
    assert "a script begins with the line of an interpreter that is there, such as #!/bin/sh" in run.stderr


def test_a_program_gets_what_python_code_gets(tmp_path: Path) -> None:
    value = {"text": "ünï😀", "numbers": [1, 2.5, None, True]}
    run = run_program(
        ["give", value],
        ["raise", "boom"],
        ["size", "x" * 600_000],
        ["large", 400_000],
        ["metrics", "curve"],
        ["call"],
        ["environment", "WORKER_ALGORITHM_ENCODING", "STORAGE_PROTOCOL", "ALGO_METRICS_DIR"],
        cwd=tmp_path,
    )
    given, failed, size, large, metrics, call, environment = run.tasks
    assert run.status == 1
    assert given["output"] == value
    assert failed["error"] == {"code": "ALGORITHM_ERROR", "message": "boom", "details": "some lines"}
    assert size["output"] == 600_000
    assert large["output"] == "x" * 400_000
    assert call["output"] == "pipeline p Not Found"
    # The records.
    records = tmp_path / ".hkrunner/tasks"
    assert json.loads((records / "t1/input.json").read_text()) == ["give", value]
    assert json.loads((records / "t1/output.json").read_text()) == value
    assert len(json.loads((records / "t3/input.json").read_text())[1]) == 600_000
    assert json.loads((records / "t4/output.json").read_text()) == "x" * 400_000
    assert (records / "t5/stdout.log").read_text() == "printed\n"
    assert (Path(metrics["metricsDir"]) / "curve.txt").read_text() == "curve"
    variables = environment["output"]
    assert (variables["WORKER_ALGORITHM_ENCODING"], variables["STORAGE_PROTOCOL"]) == ("json", "v1")
    assert variables["ALGO_METRICS_DIR"]
    # And all of it once more, from the record.
    again = run_hkrunner("runs", "again", given["taskId"], "--json", cwd=tmp_path)
    assert again.status == 0, again.stderr
    assert json.loads(again.stdout)["output"] == value


def test_whatever_ends_a_program_its_task_has_one_answer_and_the_next_is_served(tmp_path: Path) -> None:
    run = run_program(
        ["exit", 3],
        ["signal", signal.SIGSEGV],
        ["die early", str(tmp_path / "deaths")],
        ["close"],
        ["unmasked"],
        ["too large"],
        ["unasked"],
        ["fail init"],
        ["nan"],
        ["deep", 200_000],
        ["error of size", 2_000_000],
        ["give", "served"],
        cwd=tmp_path,
    )
    *failed, last = run.tasks
    assert last["output"] == "served"
    # It had its task: no other process got it.
    assert (tmp_path / "deaths").read_text() == "died\n"
    told = [f"{task['error']['code']} {task['error']['message']}" for task in failed]
    expected = [
        "EXITED EXITED: the algorithm ended its process with code 3 before answering",
        "KILLED_BY_SIGNAL KILLED_BY_SIGNAL: the algorithm's process was ended by SIGSEGV",
        "EXITED EXITED: the algorithm ended its process with code 7 before answering",
        "CHANNEL_BROKEN CHANNEL_BROKEN: the algorithm broke the runner's channel (it closed the socket)",
        "CHANNEL_BROKEN CHANNEL_BROKEN: the algorithm broke the runner's channel (the program sent a frame",
        "CHANNEL_BROKEN CHANNEL_BROKEN: the algorithm broke the runner's channel (the program announced a"
        " message of 100,000,001 bytes; at most 100,000,000 are taken)",
        "ALGORITHM_ERROR ALGORITHM_ERROR: the program said `stopped`, unasked",
        "ALGORITHM_ERROR no init",
        "RESULT_INVALID RESULT_INVALID: the result is no json: NaN is no JSON",
        "RESULT_INVALID RESULT_INVALID: the result is no json: it is nested too deep",
        "ALGORITHM_ERROR ALGORITHM_ERROR: the error of the program has 2,000,0",
    ]
    assert [one for one, begin in zip(told, expected, strict=True) if not one.startswith(begin)] == []


def test_a_program_that_closes_its_connection_after_its_answer_gets_no_further_task(tmp_path: Path) -> None:
    tasks = (["give and close"], ["give and shut down"], ["give", "served"])
    run = run_program(*tasks, cwd=tmp_path)
    assert [task.get("output", task) for task in run.tasks] == ["closed", "shut down", "served"]


def test_the_limits_hold_for_a_program(tmp_path: Path) -> None:
    run = run_program(
        ["grow"], ["sleep"], ["give", "served"], cwd=tmp_path, args=("--mem", "64Mi", "--timeout", "3")
    )
    grew, slept, last = run.tasks
    assert error_of(grew)[0] == "OUT_OF_MEMORY"
    code, message = error_of(slept)
    assert code == "TASK_TIMEOUT" and "sleeps" in message
    assert last["output"] == "served"


def test_what_a_program_may_not_send_is_held_back_and_said_once(tmp_path: Path) -> None:
    with (
        ScriptedWorker() as worker,
        at_work(worker, tmp_path, f"{ANY} initialized done") as (client, program),
    ):
        program.wait_for_line("spoke too early", stream="stdout")
        # The scripted worker ends at the first message that would end the real one.
        for number in range(2):
            task(client, ["babble", number])
            assert client.expect("done")["data"] == "said enough"
            # hkrunner has read the last message then, which does not say to which task it belongs.
            program.wait_for_line(f"has babbled {number}", stream="stdout")
        task(client, ["give", 1])
        assert client.expect("done")["data"] == 1
    said = [line for line in program.stderr if "held back from the worker" in line]
    for what in (
        "`initialized` while it had no task",
        "`done` while it had no task",
        "`alive` while it had no task",
        "`startSpan` while it had no task",
        "a second `initialized` for one task",
        "`dataSourceRequest` whose `data` is no object",
        "'storing', which is no message for HKube's worker",
        "'error', which is no message for HKube's worker",
        "a message that is no json: it has no command",
        "`progress` that is no json: NaN is no JSON",
        "`progress` without a number",
        "a message that is no json: 'utf-8' codec can't decode",
    ):
        assert len([line for line in said if what in line]) == 1, (what, said)


@contextlib.contextmanager
def at_work(
    worker: ScriptedWorker, cwd: Path, command: str = ANY, *args: str
) -> Iterator[tuple[Client, Program]]:
    """Serve the worker with the program; yield its client, and hkrunner."""
    with serving("--command", command, "--url", worker.url, *args, cwd=cwd) as program:
        yield worker.accept(), program


def task(client: Client, input: Any) -> None:
    """Hand a task out, and have it started."""
    client.initialize(input)
    client.expect("initialized")
    client.start()


def test_a_program_is_stopped_in_time_and_its_calls_are_answered(tmp_path: Path) -> None:
    with ScriptedWorker() as worker, at_work(worker, tmp_path, ANY, "--grace", "2") as (client, program):
        task(client, ["stop"])
        program.wait_for_line("waits", stream="stdout")
        client.stop()
        client.expect("stopped")
        # Whatever it still sends is of no task: another process takes the next one.
        task(client, ["call"])
        assert client.expect("progress")["data"] == {"progress": 50.0, "details": "half"}
        client.expect("startStoredSubPipeline")
        client.send(
            {"command": "subPipelineDone", "data": {"subPipelineId": "1", "response": ["x" * 300_000]}}
        )
        assert client.expect("done")["data"] == ["x" * 300_000]
        # One that does not stop is killed, and another one takes the next task.
        task(client, ["ignore"])
        program.wait_for_line("ignores", stream="stdout")
        client.stop()
        client.expect("stopped")
        task(client, ["environment", "WORKER_SOCKET_PORT"])
        port = int(client.expect("done")["data"]["WORKER_SOCKET_PORT"])
        # Nobody else is let in, and the program not twice.
        assert "403 Forbidden" in answer_to_a_stranger(port)
        task(client, ["second"])
        assert "gets no second one" in client.expect("done")["data"]
        # One that answers with its result has done with the task, and goes on.
        task(client, ["finish"])
        program.wait_for_line("finishes", stream="stdout")
        client.stop()
        client.expect("stopped")
        task(client, ["environment", "WORKER_SOCKET_PORT"])
        assert client.expect("done")["data"]["WORKER_SOCKET_PORT"] == str(port)
        client.send({"command": "exit", "data": {"exitCode": 0}})
        assert program.wait() == 0


def answer_to_a_stranger(port: int) -> str:
    """Return what a process that is not of the program is told."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a2V5\r\n\r\n")
        sock.settimeout(10)
        return sock.makefile("rb").read().decode()


@pytest.mark.parametrize(
    ("command", "args", "status", "sentence"),
    [
        (
            "sh -c 'exit 5'",
            (),
            4,
            "EXITED: the algorithm ended its process with code 5 before it connected to",
        ),
        (
            "sleep 60",
            ("--start-timeout", "0.5"),
            4,
            "the program did not connect to WORKER_SOCKET_URL within 0.5",
        ),
    ],
)
def test_a_program_that_cannot_serve_is_one_sentence(
    tmp_path: Path, command: str, args: tuple[str, ...], status: int, sentence: str
) -> None:
    ended = run_hkrunner("--command", command, "-i", "1", *args, cwd=tmp_path)
    assert (ended.status, ended.stdout) == (status, "")
    assert sentence in ended.stderr


def test_a_program_is_validated_by_its_connection(tmp_path: Path) -> None:
    ended = run_hkrunner("validate", "--command", ANY, cwd=tmp_path)
    assert ended.status == 0 and f"✔ program: {ANY}: connected" in ended.stdout
    dry = run_hkrunner("--command", ANY, "-i", "1", "--dry-run", cwd=tmp_path)
    assert dry.status == 0 and f"command    {ANY}" in dry.stdout + dry.stderr


def needs(tool: str) -> None:
    assert shutil.which(tool) is not None, f"{tool} is not on the PATH: this test runs a program with it"


def test_the_wrapper_for_node_says_when_a_listener_waits_for_too_long(tmp_path: Path) -> None:
    needs("node")
    wrapper = tmp_path / "node_modules" / NODE_WRAPPER
    wrapper.mkdir(parents=True)
    (wrapper / "index.js").write_text(
        """
        const wait = (ms) => new Promise((resolve) => setTimeout(() => resolve(ms), ms));
        module.exports = class {
            async connectToWorker() {
                this._streamingManager = { _onMessage: wait };
                this._sendCommand = (message) => console.log(JSON.stringify(message));
            }
        };
        """
    )
    (tmp_path / "app.mjs").write_text(
        """
        import Runner from '@hkube/nodejs-wrapper';
        const runner = new Runner();
        await runner.connectToWorker();
        console.log(await runner._streamingManager._onMessage(1));
        runner._streamingManager._onMessage(120);
        runner._input = 'of the task';
        runner._streamingManager._onMessage(120);
        await new Promise((resolve) => setTimeout(resolve, 200));
        """
    )
    command: list[str | Path] = ["node", "--require", NODE_PRELOAD, "app.mjs"]
    ended = run_command(command, cwd=tmp_path, env={"HKRUNNER_MESSAGE_MS": "100"})
    assert ended.stdout == '1\n{"command":"messageOverdue"}\n', ended.stderr


def sums(ended: Result) -> list[float]:
    return [float(line) for line in ended.stdout.splitlines()]


def test_the_example_in_java_adds_numbers_as_its_descriptor_says(tmp_path: Path) -> None:
    needs("java")
    shutil.copy(EXAMPLES / "Sum.java", tmp_path)
    (tmp_path / "algorithm.yml").write_text(
        "name: sums\nenv: java\nmem: 256Mi\ncode: {entryPoint: Sum.java}\n"
    )
    ended = run_hkrunner("-i", "[1, 2, 3]", "-i", '["a"]', "-i", "[4.5]", cwd=tmp_path, deadline_s=60)
    assert (ended.status, sums(ended)) == (1, [6, 4.5]), ended.stderr
    assert "task t2 failed: the input must be a list of numbers" in ended.stderr
