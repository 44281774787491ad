"""Documents of stream pipelines: what is read, what is refused, and in which words."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import zmq
from hkrunner.runner.app.run_stream import prepared
from hkrunner.runner.app.stand_in_options import read_pipeline
from hkrunner.runner.cli.run import values_of
from hkrunner.runner.errors import EntryNotFound, SettingsError
from hkrunner.runner.local_stream.message_counts import MessageCount, MessageCounts
from hkrunner.runner.local_stream.reserved_port import ReservedPort
from hkrunner.runner.settings.from_options import settings_of
from hkrunner.runner.worker_stub.pipeline import PipelineError
from hkrunner.runner.worker_stub.stream_pipeline import StreamPipeline, read_stream, with_state_types


def document(flow: Any = "A >> B >> C", *, names: str = "ABC", **more: Any) -> dict[str, Any]:
    nodes = [
        {"nodeName": name, "algorithmName": f"alg-{name.lower()}", "stateType": "stateful"} for name in names
    ]
    return {"name": "p", "kind": "stream", "nodes": nodes, "streaming": {"flows": {"f": flow}}, **more}


def with_node(**more: Any) -> dict[str, Any]:
    raw = document()
    raw["nodes"][1].update(more)
    return raw


def read(raw: dict[str, Any], **more_input: Any) -> StreamPipeline:
    return with_state_types(read_stream(raw, more_input), {})


def test_flows_are_read_as_hkubes_server_does() -> None:
    found = read(document("A>>B & C >> D | A >> D", names="DCBA"))
    assert [node.name for node in found.nodes] == ["A", "C", "B", "D"]  # each after those that send to it
    assert found.flows == {
        "f": [
            {"source": "A", "next": ["B", "C", "D"]},
            {"source": "B", "next": ["D"]},
            {"source": "C", "next": ["D"]},
        ]
    }
    first, *_, last = found.nodes
    assert (first.is_source, first.children, last.parents) == (True, ("B", "C", "D"), ("B", "C", "A"))
    assert found.task_fields(last) == {
        "kind": "stream",
        "stateType": "stateful",
        "parents": ["B", "C", "A"],
        "childs": [],
        "parsedFlow": found.flows,
        "defaultFlow": "f",
    }


def test_replicas_state_types_and_inputs_come_from_the_document() -> None:
    raw = document(flowInput={"x": {"y": [0, 1], "n": None}, "z": 2})
    raw["nodes"][0]["input"] = ["@flowInput.x.y.1", "@flowInput.x.n", "@flowInput.z", "text", ["@B"]]
    raw["nodes"][1].update(stateType="stateless", minStatelessCount=3, maxStatelessCount=5)
    del raw["nodes"][2]["stateType"]
    found = with_state_types(read_stream(raw, {"z": 3}), {"alg-c": "stateful"})
    assert [(one.replicas, one.state_type) for one in found.nodes] == [
        (1, "stateful"),
        (3, "stateless"),
        (1, "stateful"),
    ]
    # As in HKube, what refers to another node has no value.
    assert found.input_of(found.nodes[0]) == [1, None, 3, "text", [None]]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({}, "a pipeline has a `name`, a text"),
        ({"name": 7}, "a pipeline has a `name`, a text, not 7"),
        ({"name": "p"}, "'p' is of kind 'batch'; only stream pipelines (kind: stream) run on this machine"),
        ({"name": "p", "kind": "stream"}, "pipeline must have at least one node"),
        ({"name": "p", "kind": "stream", "nodes": ["A"]}, "data.nodes[0] should be object"),
        (document(names="ABCA"), 'found duplicate node "A"'),
        (document(flowInput=[1]), "data.flowInput should be object,null, not [1]"),
        (document(streaming=None), "please specify a stream flow"),
        (document(streaming={"flows": {"f": "A >> B >> C"}, "defaultFlow": []}), "defaultFlow is []"),
        (document(streaming=["A >> B"]), "data.streaming should be object, not ['A >> B']"),
        (document(streaming={"flows": "A >> B"}), "flows should be object (name: A >> B), not 'A >> B'"),
        (
            document(streaming={"flows": {"f": "A >> B", "g": "A >> C"}}),
            "please specify a default stream flow: streaming.defaultFlow, one of f, g",
        ),
        (
            document(streaming={"flows": {"f": "A >> B >> C"}, "defaultFlow": "g"}),
            "streaming.defaultFlow is 'g'; the flows are f",
        ),
        (document(7), "invalid stream flow f: it should be a text such as A >> B, not 7"),
        (document("A"), "stream flow f should have valid flow, example: A >> B, not 'A'"),
        (document("A >> Z"), "invalid node Z in stream flow f (A>>Z); the nodes are A, B, C"),
        (document("A >> "), "stream flow f lacks a node (A>>)"),
        (document("A >> A"), "invalid relation found A >> A in flow f"),
        (document("A >> B | A >> B"), "duplicate relation found A >> B in flow f"),
        (document("A >> B"), 'node "C" is in no flow: add it to one, or remove it'),
        (document("A >> B >> C >> B"), "the flows form a circle, B >> C >> B, which only a cluster runs"),
        (with_node(stateType="some"), "node \"B\": stateType is stateless or stateful, not 'some'"),
        (with_node(minStatelessCount=2), "cant have minStatelessCount or maxStatelessCount: B"),
        (
            with_node(stateType="stateless", minStatelessCount=3, maxStatelessCount=2),
            'node "B": maxStatelessCount must be greater or equal to minStatelessCount: 2 < 3',
        ),
        (
            with_node(stateType="stateless", minStatelessCount="2"),
            "node \"B\": minStatelessCount is a whole number from 0 on, not '2'",
        ),
        (
            with_node(stateType="stateless", minStatelessCount=1000),
            "on this machine at most 100 replicas run",
        ),
        (with_node(kind="gateway"), "node \"B\": the kind 'gateway' is not served"),
        (with_node(algorithmName=None), "please provide algorithm name"),
        (with_node(input=["#@flowInput.x"]), 'node "B": a node of a stream pipeline has no batch input'),
        (with_node(input=["@Z"]), 'node "B" is depend on node "Z" which is not exists'),
        (
            with_node(input=["@flowInput.x"]),
            "unable to find flowInput.x: write it into flowInput, or give --input",
        ),
    ],
)
def test_a_bad_document_is_refused_in_one_sentence(raw: dict[str, Any], text: str) -> None:
    with pytest.raises(PipelineError) as refused:
        read(raw)
    assert text in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("flow.yml", "nodes: &x [*x]", "flow.yml:1: not YAML: nested too deeply, or it contains itself"),
        ("flow.yml", "x: !!int one", "flow.yml:1: not YAML: .one. is no int"),
        ("flow.json", '{"name": "\\ud800"}', "surrogates not allowed"),
        ("flow.json", "[" * 100_000, "nested too deeply"),
        ("flow.yml", "a: " + "[" * 3_000, "nested too deeply"),
    ],
)
def test_a_document_that_no_cluster_could_read_is_refused_in_one_sentence(
    tmp_path: Path, name: str, text: str, sentence: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SettingsError, match=sentence) as refused:
        read_pipeline(name, str(tmp_path), shown="--pipeline")
    assert "\n" not in str(refused.value)


def test_a_value_in_yaml_has_the_type_that_it_has_in_hkube(tmp_path: Path) -> None:
    (tmp_path / "flow.yml").write_text("flowInput: {day: 2026-01-31, at: 12:30, on: yes, code: 010}\n")
    found = read_pipeline("flow.yml", str(tmp_path), shown="--pipeline")
    assert found["flowInput"] == {"day": "2026-01-31", "at": "12:30", "on": "yes", "code": 10}


def test_an_input_that_no_node_reads_is_refused() -> None:
    raw = document(flowInput={"readings": 5, "rate": 1})
    assert read_stream(raw, {"rate": 2}).flow_input == {"readings": 5, "rate": 2}
    with pytest.raises(PipelineError, match=r"no node reads flowInput.reading, did you mean 'readings'\?$"):
        read_stream(raw, {"reading": 5})
    with pytest.raises(PipelineError, match=r"no node reads flowInput.x; there is: rate, readings$"):
        read_stream(raw, {"x": 5})
    raw["nodes"][0]["input"] = ["@flowInput"]
    assert read_stream(raw, {"x": 5}).flow_input["x"] == 5


def test_a_source_without_a_state_type_is_refused_as_a_stateless_one() -> None:
    raw = document()
    del raw["nodes"][0]["stateType"]
    with pytest.raises(PipelineError, match='entry node "A" cannot be stateless on stream pipeline'):
        read(raw)


NODES = [{"nodeName": name, "algorithmName": "heat-map", "stateType": "stateful"} for name in "AB"]
FLOW = {"name": "p", "kind": "stream", "nodes": NODES, "streaming": {"flows": {"f": "A >> B"}}}


def prepare(*args: str) -> tuple[StreamPipeline, dict[str, str]]:
    """Return the pipeline that this command line runs, and the file of each algorithm."""
    settings = settings_of(values_of(args), {})
    assert settings.local_run.stream_pipeline is not None
    with contextlib.ExitStack() as stack:
        found, algorithms = prepared(settings, settings.local_run.stream_pipeline, stack)
    return found, {name: where.shown for name, (_, where) in algorithms.items()}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a pipeline in the folder `lab`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "flow.json").write_text(json.dumps(FLOW))
    return tmp_path


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("lab/heat-map.py", ""),
        ("lab/heat_map.py", ""),
        ("lab/heat_map/main.py", ""),
        ("lab/heat-map.yml", "name: heat-map\ncode: {entryPoint: other.py}\n"),
        ("lab/algorithm.yml", "name: heat-map\ncode: {entryPoint: other.py}\n"),
    ],
)
def test_an_algorithm_is_found_next_to_the_document(folder: Path, file: str, text: str) -> None:
    code = "def start(args, api):\n    pass\n"
    (folder / "lab" / "other.py").write_text(code)
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(text or code)
    _, files = prepare("--pipeline", "lab/flow.json")
    assert files == {"heat-map": "other.py" if text else Path(file).name}


def test_an_algorithm_may_be_named_and_an_input_replaces_fields_of_the_flow_input(folder: Path) -> None:
    (folder / "elsewhere.py").write_text("def start(args, api):\n    pass\n")
    (folder / "lab" / "flow.json").write_text(json.dumps({**FLOW, "flowInput": {"x": 0, "y": 0}}))
    given = ("-i", '{"x": 1, "y": 1}', "-i", '{"y": 2}')
    found, files = prepare("--pipeline", "lab/flow.json", "--algorithm", "heat-map=elsewhere.py", *given)
    assert files == {"heat-map": "elsewhere.py"}
    assert found.flow_input == {"x": 1, "y": 2}


@pytest.mark.parametrize(
    ("args", "kind", "text"),
    [
        (("none.yml",), SettingsError, "--pipeline: cannot read none.yml"),
        (
            ("bad.yml",),
            SettingsError,
            "--pipeline: bad.yml:2: not YAML: mapping values are not allowed here",
        ),
        (
            ("lab/flow.json",),
            EntryNotFound,
            "neither heat-map.py, nor a folder heat-map, nor heat-map.yml in lab",
        ),
        (
            ("lab/flow.json", "-i", "[1]"),
            SettingsError,
            "--input gives the flowInput of --pipeline: an object",
        ),
        (("lab/flow.json", "--entry", "a.py"), SettingsError, "leave --entry out (NAME=FILE is a pipeline"),
        (("lab/flow.json", "--board"), SettingsError, "leave --board out"),
        (("lab/flow.json", "--pipeline", "b.yml"), SettingsError, "runs one stream pipeline, not 2"),
        (
            ("lab/flow.json", "--algorithm", "heat-map=node.yml"),
            EntryNotFound,
            "env is nodejs, and @hkube/nodejs-wrapper is not in the node_modules",
        ),
    ],
)
def test_what_cannot_run_is_said_in_one_sentence(
    folder: Path, args: tuple[str, ...], kind: type[Exception], text: str
) -> None:
    (folder / "node.yml").write_text("name: node\nenv: nodejs\ncode: {entryPoint: app.js}\n")
    (folder / "app.js").write_text("")
    (folder / "bad.yml").write_text("name: a\nnodes: b: c\n")
    with pytest.raises(kind) as refused:
        prepare("--pipeline", *args)
    assert text in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("named", ["lab/heat", "lab/heat/algorithm.yml", "lab/heat/app.js", None])
def test_a_node_may_be_a_program_of_a_descriptor(folder: Path, named: str | None) -> None:
    place = folder / "lab" / ("heat-map" if named is None else "heat")
    place.mkdir()
    (place / "algorithm.yml").write_text("name: heat\nenv: nodejs\ncode: {entryPoint: app.js}\n")
    (place / "app.js").write_text("")
    (place / "package.json").write_text("{}")
    (place / "node_modules/@hkube/nodejs-wrapper").mkdir(parents=True)
    _, files = prepare(
        "--pipeline", "lab/flow.json", *(() if named is None else ("--algorithm", f"heat-map={named}"))
    )
    assert files == {"heat-map": "app.js"}


def test_an_encoding_that_streams_do_not_have_is_refused_before_anything_begins(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISCOVERY_ENCODING", "json")
    with pytest.raises(SettingsError, match="DISCOVERY_ENCODING is 'json'; a stream needs bson or msgpack"):
        prepare("--pipeline", "lab/flow.json")


def test_counts_of_replicas_are_added_and_survive_a_new_socket_process() -> None:
    counts = MessageCounts()

    def report(replica: str, sent: int, responses: int, queued: int = 0) -> None:
        item = {"nodeName": "B", "sent": sent, "responses": responses, "dropped": 1, "queueSize": queued}
        counts.report("A", replica, [item])

    report("A/1", 10, 8, queued=4)
    report("A/2", 5, 5)
    report("A/1", 12, 11, queued=3)
    assert counts.between("A", "B") == MessageCount(sent=17, handled=16, dropped=2, queued=3)
    report("A/1", 11, 11, queued=4)  # a replica was killed, and what it had not begun came back
    assert counts.between("A", "B") == MessageCount(sent=16, handled=16, dropped=2, queued=4)
    report("A/1", 12, 11, queued=3)
    report("A/1", 2, 1)  # another process, which begins at 0
    assert counts.between("A", "B") == MessageCount(sent=19, handled=17, dropped=3, queued=0)
    assert counts.into("B", ["A"]) == counts.out_of("A", ["B"])
    assert counts.between("B", "A") == MessageCount()
    report("A/2", 6, 5, queued=2)  # the last report of a program: the rest is handed out at its end
    counts.ended_in_order("A", "A/2")
    assert counts.between("A", "B") == MessageCount(sent=22, handled=20, dropped=3, queued=0)


def test_zeromq_listens_at_a_reserved_port_which_no_other_program_gets() -> None:
    with contextlib.closing(ReservedPort()) as port, contextlib.closing(ReservedPort()) as other:
        assert port.number != other.number
        for _ in range(2):  # again after the socket process was replaced
            with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
                router.bind(f"tcp://127.0.0.1:{port.number}")
                with context.socket(zmq.DEALER) as dealer:
                    dealer.setsockopt(zmq.LINGER, 0)
                    dealer.connect(f"tcp://127.0.0.1:{port.number}")
                    dealer.send(b"there")
                    assert router.poll(20_000)
                    assert router.recv_multipart()[1] == b"there"
