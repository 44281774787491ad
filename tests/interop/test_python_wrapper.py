"""HKube's own wrapper for Python as a client of our local worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import python_wrapper
from support.hkube_storage import Storage
from support.local import ALGORITHMS
from support.local_worker import running_local_worker
from support.programs import HKRUNNER, Program, run_hkrunner, serving
from support.waiting import wait_until

OTHERS = {"adds": "adds.py", "odd": "api_odd.py"}
# The first one installs the wrapper.
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="session")
def wrapper() -> tuple[Path, str]:
    """The interpreter that has the wrapper, and the wrapper's version."""
    python = python_wrapper.find_python()
    assert python is not None, python_wrapper.ABSENT
    return python_wrapper.environment(python)


@pytest.fixture
def wrapped(wrapper: tuple[Path, str], tmp_path: Path) -> Iterator[Any]:
    """Starts the wrapper with an algorithm that does what its input says."""
    started: list[Program] = []

    def start(port: int, encoding: str = "json", **more: str | None) -> Program:
        program = Program(
            [wrapper[0], "-u", python_wrapper.MAIN, ALGORITHMS / "obeys.py"],
            cwd=tmp_path,
            env={**python_wrapper.variables(port, encoding), **more},
        )
        started.append(program)
        return program

    yield start
    for program in started:
        program.kill()


@pytest.mark.parametrize("encoding", ["json", "bson", "msgpack"])
def test_the_wrapper_runs_tasks_of_our_local_worker(wrapped: Any, encoding: str) -> None:
    value = {"text": "ünïcödé", "numbers": [1, 2.5, None, True], "deep": {"er": [[]]}}
    tasks = (["give", value], ["raise", "boom"], ["measure", "x" * 100_000], ["who"])
    with running_local_worker(*tasks) as worker:
        program = wrapped(worker.port, encoding)
        assert worker.program.wait(deadline_s=40) == 0, program.report()
        given, failed, measured, who = worker.answers()
        assert given["data"] == value
        assert failed["command"] == "errorMessage"
        assert failed["error"]["message"] == "boom"
        assert measured["data"] == 100_000
        assert who["data"]["served"] == ["give", "raise", "measure", "who"]
        assert not worker.problems()
        # `exit` ends it; its exit status is 0 whatever the message asks for.
        program.wait(deadline_s=20)


def test_the_wrapper_stops_when_our_local_worker_says_so(wrapped: Any) -> None:
    with running_local_worker(["wait for stop"], ["give", 2]) as worker:
        program = wrapped(worker.port)
        program.wait_for_line("start", stream="stdout", deadline_s=20)
        wait_until(lambda: "start" in program.stdout, deadline_s=20, what="the algorithm's own line")
        worker.tell_to_stop()
        assert worker.program.wait(deadline_s=20) == 0, program.report()
        stopped, given = worker.answers()
        assert stopped["command"] == "stopped"
        assert given["data"] == 2
        assert not worker.problems()


NODES = [{"nodeName": "n", "algorithmName": "adds", "input": ["#@flowInput.pairs", 1]}]
#: Asked for by one algorithm that runs under both, with HKube's names.
CALLS: list[Any] = [
    ["algorithm", "adds", [1, 2]],
    ["by name", "adds", [3, 4], True],
    ["algorithm", "nope", []],
    ["algorithm", "odd", [3]],
    ["stored", "s", {"pairs": [1, 2]}],
    ["stored", "nope"],
    ["raw", NODES, {"pairs": [5]}],
    ["source", "images"],
    ["source", "nothing"],
]


@pytest.mark.parametrize("encoding", ["json", "bson", "msgpack"])
def test_an_algorithm_gets_the_same_from_the_code_api_under_the_wrapper_and_under_hkrunner(
    wrapper: tuple[Path, str], tmp_path: Path, encoding: str
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(b"abc")
    node = {"nodeName": "n", "algorithmName": "adds", "input": ["#@flowInput.pairs", 10]}
    (tmp_path / "s.json").write_text(json.dumps({"name": "s", "nodes": [node]}))
    entry = ALGORITHMS / "calls_as_hkubes_wrapper_has_it.py"
    inputs = [word for task in CALLS for word in ("-i", json.dumps(task))]
    others = [f"--algorithm={name}={ALGORITHMS / file}" for name, file in OTHERS.items()]
    offer = (*inputs, *others, "--pipeline=s=s.json", "--datasource=images=images", "--no-state", "--json")
    with serving("worker", "--port", "0", "--once", *offer, cwd=tmp_path) as program:
        line = program.wait_for_line("local worker on ws://")
        port = int(line.split("ws://")[1].split(":")[1])
        command: list[str | Path] = [wrapper[0], "-u", python_wrapper.MAIN, entry]
        with Program(command, cwd=tmp_path, env=python_wrapper.variables(port, encoding)) as theirs:
            assert program.wait(deadline_s=60) == 0, theirs.report()
            theirs.wait()
    ours = run_hkrunner(
        *("--entry", entry, "--encoding", encoding, "--api-errors", "return", *offer), cwd=tmp_path
    )
    assert ours.status == 0, ours.stderr
    under_both = [
        [json.loads(line)["output"] for line in lines] for lines in (program.stdout, ours.stdout.splitlines())
    ]
    assert under_both[0] == under_both[1]
    assert under_both[0][:2] == [3, 7]


def test_an_algorithm_gets_the_same_with_storage_v3_under_the_wrapper_and_under_hkrunner(
    wrapper: tuple[Path, str], tmp_path: Path
) -> None:
    storage = Storage(tmp_path / "storage")
    calls = [["algorithm", "adds", [1, 2]], ["algorithm", "nope", []], ["raw", NODES, {"pairs": [5]}]]
    value = {"text": "ünïcödé", "deep": [[], {}, None, 2.5], "large": list(range(15_000))}
    inputs = [word for task in [*calls, ["back", value]] for word in ("-i", json.dumps(task))]
    offer = (*inputs, f"--algorithm=adds={ALGORITHMS / 'adds.py'}", "--no-state", "--json")
    entry = ALGORITHMS / "calls_as_hkubes_wrapper_has_it.py"
    v3 = storage.variables
    outputs = []
    for is_theirs in (True, False):
        env = {"BASE_FS_ADAPTER_DIRECTORY": str(storage.folder)}
        with serving("worker", "--port", "0", "--once", *offer, cwd=tmp_path, env=env) as program:
            port = int(program.wait_for_line("local worker on ws://").split("ws://")[1].split(":")[1])
            if is_theirs:
                variables = {**python_wrapper.variables(port, "bson"), **v3}
                command: list[str | Path] = [wrapper[0], "-u", python_wrapper.MAIN, entry]
                client = Program(command, cwd=tmp_path, env=variables)
            else:
                options = ("--entry", entry, "--encoding", "bson", "--api-errors", "return", "--no-state")
                url = f"ws://127.0.0.1:{port}"
                client = Program([HKRUNNER, *options, "--url", url], cwd=tmp_path, env=v3)
            with client:
                assert program.wait(deadline_s=60) == 0, client.report()
                client.wait()
        outputs.append([json.loads(line)["output"] for line in program.stdout])
    assert outputs[0] == outputs[1]
    assert outputs[1][0] == 3
    assert outputs[1][3] == ["back", value]
