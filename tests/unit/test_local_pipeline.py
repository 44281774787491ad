"""Pipelines of the local worker: inputs, batches and failures, as HKube's own driver has them."""

from __future__ import annotations

from typing import Any

import pytest
from hkrunner.runner.worker_stub.pipeline import MISSING, PipelineError, read
from hkrunner.runner.worker_stub.pipeline_values import Outcome, inputs_of, tolerance_passed

ONE = {"nodeName": "a", "algorithmName": "x"}


def pipeline_of(*inputs: Any, flow: Any = None, **more: Any) -> Any:
    nodes = [{"nodeName": name, "algorithmName": "x"} for name in ("o", "g")]
    nodes.append({"nodeName": "n", "algorithmName": "x", "input": list(inputs), **more})
    return read({"name": "p", "nodes": nodes, "flowInput": flow or {}})


def tasks_of(*inputs: Any, flow: Any = None, o: Outcome | None = None, **more: Any) -> Any:
    pipeline = pipeline_of(*inputs, flow=flow, **more)
    done = {"o": o or Outcome(value={"a": {"b": [10, 20]}, "s": "x"}), "g": Outcome(skipped=True)}
    return inputs_of(pipeline.nodes[-1], pipeline.flow_input, done)


@pytest.mark.parametrize(
    ("inputs", "tasks"),
    [
        (["@o.a.b.1", "@o.s", "@o.nope"], [[20, "x", None]]),
        (["#@o.a.b"], [[10], [20]]),
        (["@o.s", "#@o.a.b"], [["x", 10], ["x", 20]]),
        (["#@o.s"], None),
        (["@g"], [[[]]]),
        (["#@g"], None),
        (["#[1...3]"], [[1], [2], [3]]),
        (["#[1, 2]"], [["1"], ["2"]]),
        (["#[]"], [[""]]),
        (["#[1...3]", "#[4...5]"], [[1, 4], [2, 5], [3, None]]),
        ([{"a": "@flowInput.x", "b": [1, {"c": "@flowInput.y.z"}]}], [[{"a": 1, "b": [1, {"c": 2}]}]]),
        (["@flowInput"], [[{"x": 1, "y": {"z": 2}}]]),
        ([[], {}, None], [[[], {}, None]]),
        ([[], {}, "#[1...1]"], [[None, None, 1]]),
    ],
)
def test_inputs_are_resolved_as_the_driver_does(inputs: Any, tasks: Any) -> None:
    assert tasks_of(*inputs, flow={"x": 1, "y": {"z": 2}}) == tasks


def test_a_cartesian_batch_has_its_first_argument_major() -> None:
    found = tasks_of("#[1...2]", "#[3...4]", batchOperation="cartesian")
    assert found == [[1, 3], [1, 4], [2, 3], [2, 4]]


def test_results_of_a_batch_that_failed_are_holes_or_left_out() -> None:
    batch = Outcome(items=[1, None, MISSING], failed=frozenset({1}))
    assert tasks_of("@o", o=batch) == [[[1, None, None]]]
    assert tasks_of("#@o", o=batch) == [[1], [None]]


def test_a_batch_over_nothing_fails_the_pipeline() -> None:
    with pytest.raises(PipelineError, match="reading 'size'"):
        tasks_of("#@o.missing")


def test_a_batch_is_tolerated_below_its_limit_only() -> None:
    assert tolerance_passed(1, 3, 80, "e") is None
    assert tolerance_passed(2, 3, 60, "odd 3") == (
        "2/3 (67%) failed tasks, batch tolerance is 60%, error: odd 3"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "gateway"}, "'gateway' is not served"),
        ({"algorithmName": None}, "please provide algorithm name"),
        ({"nodeName": "flowInput"}, 'pipeline "p" has invalid reserved name "flowInput"'),
        ({"input": ["$$x"]}, "reserved keyword"),
        ({"input": [["#@o"]]}, "a batch inside another value"),
        ({"input": ["@dataSource.x"]}, "a data source"),
        ({"stateType": "stateful"}, "'stateType' is not served"),
        ({"ttl": "5"}, "data.nodes[0].ttl should be integer"),
        ({"ttl": -1}, "data.nodes[0].ttl should be >= 0"),
    ],
)
def test_a_node_that_cannot_be_run_is_one_sentence(change: Any, said: str) -> None:
    node = {"nodeName": "n", "algorithmName": "x", "input": [], **change}
    with pytest.raises(PipelineError) as caught:
        read({"name": "p", "nodes": [node]})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({}, "data should have required property 'name'"),
        ({"name": "a b"}, "pipeline name must contain only alphanumeric, dash, dot or underscore"),
        ({"name": "p", "nodes": [{}]}, "data.nodes[0] should have required property 'nodeName'"),
        ({"name": "p", "kind": "stream"}, "kind 'stream' is not served"),
        ({"name": "p", "nodes": [{"nodeName": "a", "algorithmName": "x"}] * 2}, 'found duplicate node "a"'),
        ({"name": "p", "nodes": [ONE], "options": {1: 2, "a": 3}}, "the option 1 of a pipeline"),
        ({"name": "p", "nodes": [ONE], "options": {"ttl": "1h"}}, "data.options.ttl should be integer"),
        (
            {"name": "p", "nodes": [ONE], "options": {"ttl": 10**400}},
            "data.options.ttl should be <= 1000000000",
        ),
        ({"name": "p", "nodes": [{**ONE, "input": ["#[1...3000000000]"]}]}, "a batch of 3,000,000,000 tasks"),
        ({"name": "p", "nodes": [{**ONE, "input": [f"#[1...{'9' * 5000}]"]}]}, "with more than 18 digits"),
    ],
)
def test_a_pipeline_that_cannot_be_run_is_one_sentence(raw: Any, said: str) -> None:
    with pytest.raises(PipelineError) as caught:
        read(raw)
    assert said in str(caught.value)
