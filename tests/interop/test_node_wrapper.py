"""HKube's own wrapper for Node as a client of `hkrunner worker`."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from support import node_wrapper
from support.hkube_storage import header
from support.local import ALGORITHMS
from support.programs import Program, run_hkrunner, serving
from support.serving_v3 import serving_v3

# The first one installs the wrapper.
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="session")
def folder() -> Path:
    return node_wrapper.installed()


def wrapped(folder: Path, program: Program, encoding: str) -> Program:
    line = program.wait_for_line("local worker on ws://")
    port = int(line.split("ws://")[1].split(":")[1])
    # It reads the package.json of its working folder.
    return Program(
        ["node", node_wrapper.PROGRAM], cwd=folder, env=node_wrapper.variables(folder, port, encoding)
    )


@pytest.mark.parametrize("encoding", ["json", "bson", "msgpack"])
def test_the_node_wrapper_runs_tasks_and_calls_the_code_api(
    tmp_path: Path, folder: Path, encoding: str
) -> None:
    value = {"text": "ünïcödé", "numbers": [1, 2.5, None, True], "deep": {"er": [[]]}}
    nodes = [{"nodeName": "n", "algorithmName": "adds", "input": ["#@flowInput.pairs", 1]}]
    tasks: list[Any] = [
        ["give", value],
        ["raise", "boom"],
        # Not startAlgorithm: under storage v1 the wrapper's own encoder for it is missing.
        ["stored", "nope", {}],
        ["raw", nodes, {"pairs": [1, 2]}],
        ["source", "images"],
    ]
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(b"abc")
    args = [word for task in tasks for word in ("-i", json.dumps(task))]
    offer = ("--algorithm", f"adds={ALGORITHMS / 'adds.py'}", "--datasource", "images=images")
    with (
        serving("worker", "--port", "0", "--once", "--json", *args, *offer, cwd=tmp_path) as program,
        wrapped(folder, program, encoding) as node,
    ):
        assert program.wait(deadline_s=40) == 1, node.report()
        node.wait()
        given, failed, nope, raw, source = (json.loads(line) for line in program.stdout)
        assert given["output"] == value
        assert failed["error"]["message"] == "boom"
        assert "pipeline nope Not Found" in nope["error"]["message"]
        assert [one["result"] for one in raw["output"]] == [2, 3]
        assert [(one["name"], one["size"]) for one in source["output"]["files"]] == [("a.png", 3)]


def test_the_node_wrapper_is_stopped(tmp_path: Path, folder: Path) -> None:
    with (
        serving("worker", "--port", "0", "-i", '["wait"]', cwd=tmp_path) as program,
        wrapped(folder, program, "bson") as node,
    ):
        node.wait_for_line("waits", stream="stdout")
        program.send_signal(signal.SIGINT)
        assert program.wait(deadline_s=30) == 130
        node.wait()
        program.wait_for_line("task t1 stopped")


def test_a_node_wrapper_that_crashes_loses_its_task(tmp_path: Path, folder: Path) -> None:
    with (
        serving("worker", "--port", "0", "--once", "-i", '["crash"]', cwd=tmp_path) as program,
        wrapped(folder, program, "json") as node,
    ):
        assert program.wait(deadline_s=30) == 1
        node.wait()
        program.wait_for_line("the client disconnected in the middle of task t1")


def test_hkrunner_runs_the_wrapper_where_the_descriptor_says_nodejs(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "node_modules").symlink_to(folder / "node_modules")
    (tmp_path / "package.json").write_text('{"name": "sums", "version": "1.0.0"}')
    (tmp_path / "algorithm.yml").write_text("name: sums\nenv: nodejs\ncode: {entryPoint: main.js}\n")
    (tmp_path / "main.js").write_text(
        "exports.start = ({ input }, api) => {\n"
        "    if (input[0] === 'ask') return api.startStoredSubpipeline('nope', {});\n"
        "    if (input[0] === 'start') return api.startAlgorithm('adds', [1, 2]);\n"
        "    return input.reduce((a, b) => a + b);\n"
        "};\n"
    )
    tasks = ("-i", "[1, 2, 3]", "-i", '["ask"]', "-i", '["start"]', "-i", "[4]")
    adds = ("--algorithm", f"adds={ALGORITHMS / 'adds.py'}")
    ended = run_hkrunner(*tasks, *adds, "--json", "--encoding", "bson", cwd=tmp_path, deadline_s=60)
    added, asked, started, last = (json.loads(line) for line in ended.stdout.splitlines())
    assert (added["status"], last["status"]) == ("succeed", "succeed"), ended.stderr
    assert asked["error"]["message"] == "pipeline nope Not Found"
    assert started["output"] == 3, started
    assert (tmp_path / ".hkrunner/tasks" / added["taskId"] / "output.json").read_text() == "6"


def test_bytes_remain_bytes_for_the_wrapper_also_if_the_workers_messages_are_json(
    tmp_path: Path, folder: Path
) -> None:
    (tmp_path / "node_modules").symlink_to(folder / "node_modules")
    (tmp_path / "package.json").write_text("{}")
    (tmp_path / "algorithm.yml").write_text("name: joins\nenv: nodejs\n")
    (tmp_path / "index.js").write_text(
        "exports.start = ({ input }) => Buffer.concat([...input, input[0]]);\n"
    )
    with serving_v3(tmp_path, entry=None) as one:
        assert one.client.query["encoding"] == "json"
        links = {
            name * 8: one.storage.write(name, header(raw=True) + b"\xff\0" + name.encode()) for name in "ab"
        }
        assert one.run([f"$${name}" for name in links], links) == b"\xff\0a\xff\0b\xff\0a"
