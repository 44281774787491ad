"""HKube's wrapper for Node as nodes of a stream pipeline on this machine, beside nodes in Python."""

from __future__ import annotations

import json
import signal
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from support import node_wrapper
from support.programs import Program, serving
from support.streams import node

# The first one installs the wrapper.
pytestmark = pytest.mark.timeout(400)

SOURCE = """
exports.start = async ({ input }, api) => {
    for (let number = 0; number < input[0]; number++) {
        api.sendMessage({ number, raw: 'x'.repeat(input[1]) });
        if (number % 20 === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    }
    return 'returned';
};
"""
#: Stateless: called for each message.
MIDDLE = """
exports.start = async ({ streamInput }, api) => ({ ...streamInput.message, by: process.pid });
"""
LAST = """
const got = [];
const by = new Set();
let said = false;
let release;
exports.start = async (args, api) => {
    const stopped = new Promise((resolve) => { release = resolve; });
    api.registerInputListener(({ payload }) => {
        got.push([payload.number, payload.by]);
        by.add(payload.by);
        if (!said && got.length >= 50 && by.size === 2) {
            said = true;
            console.log('got 50 of both');
        }
    });
    api.startMessageListening();
    await stopped;
    return got;
};
exports.stop = async () => release();
"""
PYTHON_SOURCE = """
def start(args, api):
    number = 0
    while number < args["input"][0] and not api.stopping:
        api.sendMessage({"number": number})
        number += 1
        if number % 5 == 0:
            api.wait_for_stop(0.002)
"""
PYTHON_MIDDLE = """
import os

def start(args, api):
    return {**args["streamInput"]["message"], "by": os.getpid()}
"""


@pytest.fixture(scope="session")
def modules() -> Path:
    return node_wrapper.installed() / "node_modules"


def run(folder: Path, modules: Path, input: list[int], **code: str) -> AbstractContextManager[Program]:
    """Run A >> B >> C with two replicas of B. `code`: of each node."""
    (folder / "node_modules").symlink_to(modules)
    for letter, text in code.items():
        name = f"node-{letter.lower()}"
        if "def start" in text:
            (folder / f"{name}.py").write_text(text)
            continue
        write(folder / name, text)
    nodes: list[dict[str, Any]] = [
        {"nodeName": name, "algorithmName": f"node-{name.lower()}", "stateType": "stateful", "input": input}
        for name in "ABC"
    ]
    nodes[1].update(stateType="stateless", minStatelessCount=2)
    flow = {"name": "js", "kind": "stream", "nodes": nodes, "streaming": {"flows": {"all": "A >> B >> C"}}}
    (folder / "flow.json").write_text(json.dumps(flow))
    return serving("--pipeline", "flow.json", "--json", cwd=folder)


def write(folder: Path, code: str) -> None:
    """Make a folder with this code for the wrapper."""
    folder.mkdir()
    (folder / "package.json").write_text("{}")
    (folder / "algorithm.yml").write_text(
        f"name: node-{folder.name[-1].lower()}\nenv: nodejs\ncode: {{entryPoint: index.js}}\n"
    )
    (folder / "index.js").write_text(code)


def nodes_of(program: Program, status: int) -> dict[str, dict[str, Any]]:
    """Return the object of each node of a pipeline that ends with this status."""
    assert program.wait(deadline_s=90) == status, program.report()
    return {one["nodeName"]: one for one in map(json.loads, program.stdout)}


def test_nodes_of_the_wrapper_lose_nothing_when_the_source_returns(tmp_path: Path, modules: Path) -> None:
    with run(tmp_path, modules, [300, 10_000], A=SOURCE, B=PYTHON_MIDDLE, C=LAST) as program:
        nodes = nodes_of(program, 0)
    assert {name: one["status"] for name, one in nodes.items()} == dict.fromkeys("ABC", "succeed")
    assert nodes["A"]["output"] == "returned"
    assert sorted(number for number, _ in nodes["C"]["output"]) == list(range(300))
    assert (nodes["A"]["sent"], nodes["B"]["received"], nodes["A"]["dropped"]) == ({"B": 300}, 300, 0)
    assert {task["status"] for one in nodes.values() for task in one["tasks"]} == {"succeed"}


def test_a_node_of_the_wrapper_hands_out_what_it_has_when_ctrl_c_stops_the_source(
    tmp_path: Path, modules: Path
) -> None:
    with run(tmp_path, modules, [1_000_000], A=PYTHON_SOURCE, B=MIDDLE, C=LAST) as program:
        program.wait_for_line("C | got 50 of both", deadline_s=60)
        program.send_signal(signal.SIGINT)
        nodes = nodes_of(program, 130)
    numbers = [number for number, _ in nodes["C"]["output"]]
    assert sorted(numbers) == list(range(len(numbers)))
    assert nodes["A"]["sent"] == {"B": len(numbers)}
    assert len({process for _, process in nodes["C"]["output"]}) == 2


def test_a_node_of_the_wrapper_reports_its_statistics_also_in_msgpack(tmp_path: Path, modules: Path) -> None:
    # The wrapper's own report holds a function, which it cannot encode in msgpack: the task failed.
    (tmp_path / "node_modules").symlink_to(modules)
    write(tmp_path / "A", SOURCE)
    with node("A", tmp_path, entry=None, STREAMING_STATISTICS_INTERVAL="100") as first:
        first.begin(3, 10, children=["B"])
        (told,) = first.client.expect("streamingStatistics")["data"]
        assert (told["nodeName"], told["sent"], told["queueSize"]) == ("B", 0, 3)


def test_a_message_that_a_program_with_the_wrapper_awaits_has_a_time_limit(
    tmp_path: Path, modules: Path
) -> None:
    (tmp_path / "node_modules").symlink_to(modules)
    (tmp_path / "B").mkdir()
    (tmp_path / "B" / "package.json").write_text("{}")
    (tmp_path / "B" / "app.js").write_text(
        """
        const wrapper = require('@hkube/nodejs-wrapper');
        wrapper.run({ start: (args) => args.streamInput ? new Promise(() => {}) : args });
        """
    )
    command = ("--command", "node app.js", "--timeout", "1")
    with (
        node("A", tmp_path) as first,
        node("B", tmp_path, *command, entry=None, DISCOVERY_ENCODING="msgpack") as second,
    ):
        second.begin(parents=["A"], state="stateless")
        second.connect_to("A", first.port)
        first.begin("counts", 1, children=["B"])
        told = second.client.expect("errorMessage")["error"]["message"]
        assert told.startswith("TASK_TIMEOUT: ") and "1 s for one message of the stream" in told
        first.result()
