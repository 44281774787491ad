"""A stream pipeline, read from its document and checked. No I/O; local_stream runs it.

The rules and most texts are those of HKube's api-server (core/api-server lib/service/pipeline-creator). It
takes more than a run on this machine does: nodes that are no algorithms, and flows that form a circle, whose
nodes would have no order in which to end.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, NamedTuple

from .pipeline import MISSING, Node, PipelineError, at, is_batch, is_flow_input, node_of, references
from .pipeline_values import Outcome, inputs_of

STATELESS, STATEFUL = "stateless", "stateful"
#: Most replicas of a node on this machine: each is three processes.
REPLICAS_MAX = 100
_COUNTS = ("minStatelessCount", "maxStatelessCount")
#: Keys of a node that only a stream pipeline has.
_STREAM_KEYS = ("stateType", *_COUNTS)


class Relation(NamedTuple):
    """Messages go from one node to another."""

    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.source} >> {self.target}"


@dataclass(frozen=True)
class StreamNode:
    """One node of a stream pipeline."""

    node: Node
    state_type: str | None  #: None: the document leaves it to the algorithm
    replicas: int
    parents: tuple[str, ...]
    children: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its name."""
        return self.node.name

    @property
    def is_source(self) -> bool:
        """Whether no node sends messages to it."""
        return not self.parents


@dataclass(frozen=True)
class StreamPipeline:
    """A checked document. `nodes` are in an order in which each comes after those that send to it."""

    name: str
    nodes: tuple[StreamNode, ...]
    flows: Mapping[str, list[dict[str, Any]]]  #: as HKube sends them: a source and its next nodes each
    default_flow: str
    flow_input: dict[str, Any]

    @property
    def algorithms(self) -> list[str]:
        """The names of its algorithms, each once."""
        return list(dict.fromkeys(one.node.algorithm for one in self.nodes))

    def input_of(self, node: StreamNode) -> list[Any]:
        """Return the input of a node's task. As in HKube, what refers to a node has no value: null."""
        done = {one.name: Outcome() for one in self.nodes}
        (found,) = inputs_of(node.node, self.flow_input, done) or [[]]
        return found

    def task_fields(self, node: StreamNode) -> dict[str, Any]:
        """Return what `initialize` has in a stream pipeline only."""
        return {
            "kind": "stream",
            "stateType": node.state_type,
            "parents": list(node.parents),
            "childs": list(node.children),
            "parsedFlow": dict(self.flows),
            "defaultFlow": self.default_flow,
        }


def read_stream(raw: Mapping[str, Any], more_input: Mapping[str, Any]) -> StreamPipeline:
    """Return the pipeline; its nodes may still lack a stateType: see with_state_types().

    `more_input`: fields that replace those of the document's flowInput. Raises PipelineError.
    """
    name = raw.get("name")
    if not isinstance(name, str) or not name:
        raise PipelineError("a pipeline has a `name`, a text" + _found(raw, "name"))
    kind = raw.get("kind") or "batch"
    if kind != "stream":
        raise PipelineError(
            f"the pipeline {name!r} is of kind {kind!r}; only stream pipelines (kind: stream) run on this"
            " machine"
        )
    raw_nodes = raw.get("nodes")
    if not isinstance(raw_nodes, list) or not raw_nodes:
        raise PipelineError("pipeline must have at least one node" + _found(raw, "nodes"))
    nodes: dict[str, Node] = {}
    for index, one in enumerate(raw_nodes):
        node = node_of(_without_stream_keys(one), index, name)
        if node.name in nodes:
            raise PipelineError(f'found duplicate node "{node.name}"')
        nodes[node.name] = node
    given = raw.get("flowInput") or {}
    if not isinstance(given, dict):
        raise PipelineError("data.flowInput should be object,null" + _found(raw, "flowInput"))
    _check_inputs(nodes, {**given, **more_input})
    _check_that_all_is_read(nodes, more_input, given)
    flows, default_flow = _flows(raw.get("streaming"), nodes)
    relations = list(dict.fromkeys(one for relations in flows.values() for one in relations))
    found = [_stream_node(*each, relations) for each in zip(nodes.values(), raw_nodes, strict=True)]
    for one in found:
        if not one.parents and not one.children:
            raise PipelineError(f'node "{one.name}" is in no flow: add it to one, or remove it')
    parsed = {flow: _as_hkube_sends_it(relations) for flow, relations in flows.items()}
    return StreamPipeline(name, _in_order(found), parsed, default_flow, {**given, **more_input})


def with_state_types(pipeline: StreamPipeline, of_algorithms: Mapping[str, str | None]) -> StreamPipeline:
    """Return the pipeline with the stateType of each node: its own, its algorithm's, else stateless.

    `of_algorithms`: those of algorithm.yml, by the algorithm's name. Raises PipelineError.
    """
    nodes = tuple(
        replace(node, state_type=node.state_type or of_algorithms.get(node.node.algorithm) or STATELESS)
        for node in pipeline.nodes
    )
    for node in nodes:
        if node.is_source and node.state_type == STATELESS:
            raise PipelineError(
                f'entry node "{node.name}" cannot be stateless on stream pipeline: nothing calls it; give it'
                " stateType: stateful"
            )
    return replace(pipeline, nodes=nodes)


def _without_stream_keys(raw: Any) -> Any:
    return (
        {key: value for key, value in raw.items() if key not in _STREAM_KEYS}
        if isinstance(raw, dict)
        else raw
    )


def _found(raw: Mapping[str, Any], key: str) -> str:
    return f", not {raw[key]!r:.80}" if raw.get(key) is not None else ""


def _check_inputs(nodes: Mapping[str, Node], flow_input: dict[str, Any]) -> None:
    for node in nodes.values():
        if any(is_batch(one) for one in node.inputs):
            raise PipelineError(f'node "{node.name}": a node of a stream pipeline has no batch input')
        for one in references(node.inputs):
            if not is_flow_input(one.name) and one.name not in nodes:
                raise PipelineError(f'node "{node.name}" is depend on node "{one.name}" which is not exists')
            if is_flow_input(one.name) and at(flow_input, one.path) is MISSING:
                raise PipelineError(
                    f'node "{node.name}": unable to find flowInput.{".".join(one.path)}: write it into'
                    f" flowInput, or give --input '{{\"{one.path[0]}\": …}}'"
                )


def _check_that_all_is_read(
    nodes: Mapping[str, Node], more_input: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
    """Raise PipelineError for a field of --input that neither the document nor a node knows."""
    read = [one.path for node in nodes.values() for one in references(node.inputs) if is_flow_input(one.name)]
    known = {str(path[0]) if path else "" for path in read} | set(given)
    for key in more_input:
        if key not in known and "" not in known:
            close = get_close_matches(key, known, 1)
            hint = f", did you mean {close[0]!r}?" if close else f"; there is: {', '.join(sorted(known))}"
            raise PipelineError(f"--input: no node reads flowInput.{key}{hint if known else ''}")


# ---- flows


def _flows(streaming: Any, nodes: Mapping[str, Node]) -> tuple[dict[str, list[Relation]], str]:
    """Return the relations of each flow, and the name of the default one."""
    if streaming is not None and not isinstance(streaming, dict):
        raise PipelineError(f"data.streaming should be object, not {streaming!r:.80}")
    flows = (streaming or {}).get("flows")
    if flows is not None and not isinstance(flows, dict):
        raise PipelineError(f"data.streaming.flows should be object (name: A >> B), not {flows!r:.80}")
    if not flows:
        raise PipelineError("please specify a stream flow: streaming: {flows: {name: A >> B}}")
    default = (streaming or {}).get("defaultFlow")
    if default is None and len(flows) > 1:
        raise PipelineError(
            "please specify a default stream flow: streaming.defaultFlow, one of"
            f" {', '.join(map(str, flows))}"
        )
    default = next(iter(flows)) if default is None else default
    if default not in list(flows):  # a list or an object cannot be looked for among keys
        raise PipelineError(
            f"streaming.defaultFlow is {default!r}; the flows are {', '.join(map(str, flows))}"
        )
    return {str(name): list(_relations(str(name), flow, nodes)) for name, flow in flows.items()}, str(default)


def _relations(flow: str, text: Any, nodes: Mapping[str, Node]) -> Iterator[Relation]:
    """Yield the relations of `A >> B & C >> D | A >> D`, as HKube reads it."""
    if not isinstance(text, str) or not text.strip():
        raise PipelineError(
            f"invalid stream flow {flow}: it should be a text such as A >> B, not {text!r:.80}"
        )
    seen: set[Relation] = set()
    for expression in re.sub(r"\s", "", text).split("|"):
        groups = [group.split("&") for group in expression.split(">>")]
        if len(groups) == 1:
            raise PipelineError(
                f"stream flow {flow} should have valid flow, example: A >> B, not {expression!r}"
            )
        for name in (name for group in groups for name in group):
            if name not in nodes:
                what = (
                    f"invalid node {name} in stream flow {flow}"
                    if name
                    else f"stream flow {flow} lacks a node"
                )
                raise PipelineError(f"{what} ({expression}); the nodes are {', '.join(nodes)}")
        for sources, targets in itertools.pairwise(groups):
            for relation in (Relation(source, target) for source in sources for target in targets):
                if relation.source == relation.target:
                    raise PipelineError(f"invalid relation found {relation} in flow {flow}")
                if relation in seen:
                    raise PipelineError(f"duplicate relation found {relation} in flow {flow}")
                seen.add(relation)
                yield relation


def _as_hkube_sends_it(relations: list[Relation]) -> list[dict[str, Any]]:
    found: dict[str, list[str]] = {}
    for source, target in relations:
        found.setdefault(source, []).append(target)
    return [{"source": source, "next": targets} for source, targets in found.items()]


# ---- nodes


def _stream_node(node: Node, raw: Mapping[str, Any], relations: list[Relation]) -> StreamNode:
    state_type = raw.get("stateType")
    if state_type not in (None, STATELESS, STATEFUL):
        raise PipelineError(f'node "{node.name}": stateType is stateless or stateful, not {state_type!r:.80}')
    least, most = (_count(raw.get(key), node.name, key) for key in _COUNTS)
    if (least or most) and state_type != STATELESS:
        raise PipelineError(
            "Nodes which are not stateType=stateless cant have minStatelessCount or maxStatelessCount:"
            f" {node.name}"
        )
    if most is not None and (least or 0) > most:
        raise PipelineError(
            f'node "{node.name}": maxStatelessCount must be greater or equal to minStatelessCount:'
            f" {most} < {least}"
        )
    parents = tuple(one.source for one in relations if one.target == node.name)
    children = tuple(one.target for one in relations if one.source == node.name)
    return StreamNode(node, state_type, least or 1, parents, children)


def _count(value: Any, node: str, key: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise PipelineError(f'node "{node}": {key} is a whole number from 0 on, not {value!r:.80}')
    if key == _COUNTS[0] and value > REPLICAS_MAX:
        raise PipelineError(
            f'node "{node}": {key} is {value}; on this machine at most {REPLICAS_MAX} replicas run'
        )
    return value


def _in_order(nodes: list[StreamNode]) -> tuple[StreamNode, ...]:
    """Return the nodes, each after those that send to it."""
    found: dict[str, StreamNode] = {}
    while len(found) < len(nodes):
        ready = [one for one in nodes if one.name not in found and all(name in found for name in one.parents)]
        if not ready:
            circle = _circle({one.name: one for one in nodes if one.name not in found})
            raise PipelineError(
                f"the flows form a circle, {' >> '.join(circle)}, which only a cluster runs: on this machine"
                " a node ends after those that send to it"
            )
        found.update((one.name, one) for one in ready)
    return tuple(found.values())


def _circle(left: Mapping[str, StreamNode]) -> list[str]:
    """Return a circle among nodes of which each is after another one of them; its ends are the same."""
    path = [next(iter(left))]
    while path[-1] not in path[:-1]:
        path.append(next(name for name in left[path[-1]].parents if name in left))
    return path[path.index(path[-1]) :][::-1]
