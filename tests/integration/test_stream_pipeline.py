"""A stream pipeline of several algorithms on this machine: `--pipeline FILE`."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

from support.local import ALGORITHMS
from support.programs import Program, run_hkrunner, serving

#: The processes of a pipeline start at once, on machines that have other things to do.
START_S = 40.0


def pipeline(folder: Path, *, first: list[Any], middle: list[Any], last: list[Any], **of_middle: Any) -> Path:
    """Write A >> B >> C, with two replicas of B unless `of_middle` says something else."""
    given = {"A": first, "B": middle, "C": last}
    nodes = [
        {"nodeName": name, "algorithmName": "streams", "stateType": "stateful", "input": input}
        for name, input in given.items()
    ]
    nodes[1].update({"stateType": "stateless", "minStatelessCount": 2, **of_middle})
    file = folder / "flow.json"
    flow = {"name": "three", "kind": "stream", "nodes": nodes, "streaming": {"flows": {"all": "A >> B >> C"}}}
    file.write_text(json.dumps(flow))
    return file


def begin(folder: Path, file: Path, *args: str) -> Any:
    algorithm = f"streams={ALGORITHMS / 'streams.py'}"
    return serving("--pipeline", file.name, "--algorithm", algorithm, *args, cwd=folder)


def nodes_of(program: Program) -> dict[str, dict[str, Any]]:
    """Return the objects of --json of a program that has ended, by the node's name."""
    return {one["nodeName"]: one for one in map(json.loads, program.stdout)}


def test_two_replicas_share_what_a_source_sends_and_the_end_comes_in_order(tmp_path: Path) -> None:
    (tmp_path / "both").mkdir()
    file = pipeline(
        tmp_path,
        first=["counts", 200, 0.001],
        middle=["says_who_it_is", str(tmp_path / "both")],
        last=["collects_until_it_is_stopped"],
    )
    with begin(tmp_path, file, "--json", "--mem", "200Mi") as program:
        assert program.wait(deadline_s=START_S) == 0, program.report()
    nodes = nodes_of(program)
    assert {name: one["status"] for name, one in nodes.items()} == dict.fromkeys("ABC", "succeed")
    got = nodes["C"]["output"]
    assert sorted(message["number"] for message, _ in got) == list(range(200))
    assert {origin for _, origin in got} == {"B"}
    assert len({message["process"] for message, _ in got}) == 2  # both replicas have worked
    assert nodes["A"]["sent"] == {"B": 200}
    assert (nodes["B"]["received"], nodes["B"]["sent"], nodes["B"]["replicas"]) == (200, {"C": 200}, 2)
    assert (nodes["C"]["received"], nodes["C"]["waiting"], nodes["C"]["dropped"]) == (200, 0, 0)
    # Each replica has a task with a record, limits and logs of its own.
    tasks = [task for one in nodes.values() for task in one["tasks"]]
    assert [task["nodeName"] for task in tasks] == ["A", "B", "B", "C"]
    assert {task["memLimitBytes"] for task in tasks} == {200 * 1024 * 1024}
    assert {task["status"] for task in tasks} == {"succeed"}  # a stop is the usual end of a node
    assert {(task["pipelineName"], task["jobId"]) for task in tasks} == {("three", tasks[0]["jobId"])}
    records = {path.parent.name for path in (tmp_path / ".hkrunner" / "tasks").glob("*/task.json")}
    assert records == {task["taskId"] for task in tasks}
    # What the code prints is shown with the name of its node.
    assert "A | sent 100" in program.stderr
    assert any(line.startswith("● A · B x2 · C") for line in program.stderr)
    assert any("B x2: 200 messages handled" in line for line in program.stderr)


def test_a_failed_node_begins_again_if_the_document_says_so_and_ctrl_c_ends_in_order(tmp_path: Path) -> None:
    file = pipeline(
        tmp_path,
        first=["counts", 1_000_000, 0.002],
        middle=["fails_once", str(tmp_path / "failed")],
        last=["collects_until_it_is_stopped"],
        minStatelessCount=1,
        retry={"policy": "OnError", "limit": 2},
    )
    with begin(tmp_path, file, "--json") as program:
        program.wait_for_line("A | sent 100", deadline_s=START_S)
        program.wait_for_line("it begins again, 1 of 2 times (retry: OnError)")
        program.wait_for_line("C | got 100", deadline_s=START_S)
        program.send_signal(signal.SIGINT)
        assert program.wait(deadline_s=START_S) == 130, program.report()
    nodes = nodes_of(program)
    assert {name: one["status"] for name, one in nodes.items()} == dict.fromkeys("ABC", "succeed")
    (line,) = [one for one in program.stderr if "A | ended after" in one]
    sent = int(line.split()[-1])
    # The message that the failed process was handling is lost, and no other one.
    numbers = [message["number"] for message, _ in nodes["C"]["output"]]
    assert numbers == [number for number in range(sent) if number != 10]
    assert [task["status"] for task in nodes["B"]["tasks"]] == ["failed", "succeed"]
    assert any("stopping: first A, then what was sent is handled" in one for one in program.stderr)


def test_a_failed_node_ends_the_pipeline_with_its_reason(tmp_path: Path) -> None:
    file = pipeline(
        tmp_path,
        first=["counts", 1_000_000, 0.002],
        middle=["fails_once", str(tmp_path / "failed")],
        last=["collects_until_it_is_stopped"],
    )
    with begin(tmp_path, file, "--json") as program:
        assert program.wait(deadline_s=START_S) == 1, program.report()
    nodes = nodes_of(program)
    assert {name: one["status"] for name, one in nodes.items()} == {
        "A": "stopped",
        "B": "failed",
        "C": "stopped",
    }
    assert nodes["B"]["error"]["code"] == "ALGORITHM_ERROR"
    assert "ValueError: this one fails" in nodes["B"]["error"]["message"]
    assert "streams.py" in nodes["B"]["error"]["details"]
    assert any("the pipeline ends: all other nodes are stopped" in one for one in program.stderr)


def test_code_that_cannot_be_loaded_is_said_before_anything_begins(tmp_path: Path) -> None:
    pipeline(tmp_path, first=[], middle=[], last=[])
    (tmp_path / "broken.py").write_text("1 / 0\n")
    ended = run_hkrunner("--pipeline", "flow.json", "--algorithm", "streams=broken.py", cwd=tmp_path)
    assert (ended.status, ended.stdout) == (4, "")
    assert re.search(r"^✘ [ABC]: IMPORT_FAILED: ZeroDivisionError", ended.stderr)  # whichever is first
