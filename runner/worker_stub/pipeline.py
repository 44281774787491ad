"""Sub-pipelines of a local run: the descriptor, read and checked. No I/O; pipeline_run.py runs it.

A subset of HKube's pipelines, each part as in HKube's core/pipeline-driver: nodes of the kind
`algorithm`; `@flowInput…`, `@node…` and their batch forms `#@…` and `#[…]`; indexed and cartesian batches;
batch tolerance; retries; the ttl of pipelines and of nodes. Anything else is refused by name.

A task is retried under the policies OnError and Always. Under OnCrash (the default) and Never it is not:
hkrunner answers a crash with an error and its reason, so HKube never sees a crash.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

BATCH_TOLERANCE = 80
_NAME = re.compile(r"[:\-_.A-Za-z0-9]+")
_RANGE = re.compile(r"(-?\d+)\.\.\.(-?\d+)")
_NOT_SERVED = "is not served by hkrunner's local worker"
#: Keys of a node that are refused.
_NODE_KEYS = {"stateType", "spec", "minStatelessCount", "maxStatelessCount"}
#: Most tasks of one node. They are queued in memory: more would keep the loop busy for seconds.
BATCH_MAX = 100_000
TTL_MAX_S = 10**9
_POLICIES = ("Never", "Always", "OnError", "OnCrash")
_OPTIONS = {"batchTolerance", "progressVerbosityLevel", "concurrentPipelines", "ttl", "activeTtl"}


class PipelineError(Exception):
    """The descriptor cannot be run; the text is the api-server's own where there is one."""


class _Missing:
    """JavaScript's undefined: null in a message, left out of a result."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Any = _Missing()


@dataclass(frozen=True)
class Reference:
    """`@name.path`, or `#@name.path` for a batch."""

    name: str
    path: tuple[str, ...]
    batch: bool

    @property
    def text(self) -> str:
        return ".".join((self.name, *self.path))


@dataclass(frozen=True)
class Retry:
    """When a failed task is retried, at most `limit` times."""

    policy: str = "OnCrash"
    limit: int = 3

    @property
    def times(self) -> int:
        """The number of retries of a task that is answered with an error."""
        return self.limit if self.policy in ("OnError", "Always") else 0


@dataclass(frozen=True)
class Node:
    """One algorithm of a pipeline; `inputs` holds a Reference or a RawBatch in place of its text."""

    name: str
    algorithm: str
    inputs: tuple[Any, ...]
    cartesian: bool
    in_results: bool
    parents: tuple[str, ...]
    retry: Retry | None = None  #: None: the descriptor has none
    ttl_s: float | None = None  #: the longest that start() of one task may run

    @property
    def is_batch(self) -> bool:
        return any(is_batch(one) for one in self.inputs)


@dataclass(frozen=True)
class RawBatch:
    """`#[…]`: a batch whose items are in the descriptor."""

    items: tuple[Any, ...]


@dataclass(frozen=True)
class Pipeline:
    """A checked descriptor."""

    name: str
    nodes: tuple[Node, ...]
    flow_input: dict[str, Any]
    batch_tolerance: float
    ttl_s: float | None = None  #: the longest that the pipeline may run

    @property
    def in_results(self) -> list[Node]:
        """The nodes whose results are the pipeline's: those without children, and those that ask for it."""
        used = {parent for node in self.nodes for parent in node.parents}
        return [node for node in self.nodes if node.in_results or node.name not in used]


def read(raw: Mapping[str, Any]) -> Pipeline:
    """Return the pipeline. Raises PipelineError with the api-server's text, or ours if it is not served."""
    name = raw.get("name")
    if "name" not in raw:
        raise PipelineError("data should have required property 'name'")
    if not isinstance(name, str):
        raise PipelineError("data.name should be string")
    if not _NAME.fullmatch(name):
        raise PipelineError("pipeline name must contain only alphanumeric, dash, dot or underscore")
    if (raw.get("kind") or "batch") != "batch":
        raise PipelineError(f"a pipeline of kind {raw['kind']!r} {_NOT_SERVED}")
    for key in ("webhooks", "triggers", "streaming", "edges"):
        if raw.get(key):
            raise PipelineError(f"{key!r} of a pipeline {_NOT_SERVED}")
    flow_input = raw.get("flowInput") or {}
    if not isinstance(flow_input, dict):
        raise PipelineError("data.flowInput should be object,null")
    nodes = _nodes(raw.get("nodes"), name)
    _check_references(nodes, flow_input)
    _check_cycles(nodes)
    options = raw.get("options") or {}
    return Pipeline(name, nodes, flow_input, _tolerance(options), _ttl_s(options))


def _ttl_s(options: dict[str, Any]) -> float | None:
    """Return the smaller of ttl and activeTtl: there is no queue here, so both count from the same moment."""
    values = [(key, options[key]) for key in ("ttl", "activeTtl") if options.get(key) is not None]
    for key, value in values:
        if not isinstance(value, int) or isinstance(value, bool):
            raise PipelineError(f"data.options.{key} should be integer")
        if not 1 <= value <= TTL_MAX_S:
            bound = ">= 1" if value < 1 else f"<= {TTL_MAX_S}"
            raise PipelineError(f"data.options.{key} should be {bound}")
    return min((float(value) for _, value in values), default=None)


def _tolerance(options: Any) -> float:
    if not isinstance(options, dict):
        raise PipelineError("data.options should be object")
    for key in sorted(options.keys() - _OPTIONS, key=str):
        raise PipelineError(f"the option {key!r} of a pipeline {_NOT_SERVED}")
    value = options.get("batchTolerance", BATCH_TOLERANCE)
    if not isinstance(value, int) or isinstance(value, bool):
        raise PipelineError("data.options.batchTolerance should be integer")
    if not 0 <= value <= 100:
        bound = ">= 0" if value < 0 else "<= 100"
        raise PipelineError(f"data.options.batchTolerance should be {bound}")
    return value


def _nodes(raw_nodes: Any, pipeline: str) -> tuple[Node, ...]:
    if raw_nodes is not None and not isinstance(raw_nodes, list):
        raise PipelineError("data.nodes should be array")
    if not raw_nodes:
        raise PipelineError("pipeline must have at least one node")
    found: dict[str, Node] = {}
    for index, raw in enumerate(raw_nodes):
        node = node_of(raw, index, pipeline)
        if node.name in found:
            raise PipelineError(f'found duplicate node "{node.name}"')
        found[node.name] = node
    return tuple(found.values())


def node_of(raw: Any, index: int, pipeline: str) -> Node:
    """Return one item of `nodes`, checked by itself. Raises PipelineError."""
    place = f"data.nodes[{index}]"
    if not isinstance(raw, dict):
        raise PipelineError(f"{place} should be object")
    if "nodeName" not in raw:
        raise PipelineError(f"{place} should have required property 'nodeName'")
    name = raw["nodeName"]
    if not isinstance(name, str):
        raise PipelineError(f"{place}.nodeName should be string")
    if name in ("flowInput", "dataSource"):
        raise PipelineError(f'pipeline "{pipeline}" has invalid reserved name "{name}"')
    if (raw.get("kind") or "algorithm") != "algorithm":
        raise PipelineError(f'node "{name}": the kind {raw["kind"]!r} {_NOT_SERVED}')
    for key in sorted(_NODE_KEYS & {key for key, value in raw.items() if value}):
        raise PipelineError(f'node "{name}": {key!r} {_NOT_SERVED}')
    algorithm = raw.get("algorithmName")
    if not algorithm:
        raise PipelineError("please provide algorithm name")
    raw_inputs = raw.get("input")
    if raw_inputs is not None and not isinstance(raw_inputs, list):
        raise PipelineError(f"{place}.input should be array")
    operation = raw.get("batchOperation") or "indexed"
    if operation not in ("indexed", "cartesian"):
        raise PipelineError(f"{place}.batchOperation should be equal to one of the allowed values")
    inputs = tuple(_parse(one, name, top=True) for one in raw_inputs or [])
    parents = dict.fromkeys(one.name for one in references(inputs) if not is_flow_input(one.name))
    # The schema says includeInResult, which has no effect: the driver reads this spelling.
    in_results = bool(raw.get("includeInResults"))
    retry = _retry(raw.get("retry"), f"{place}.retry")
    return Node(
        name,
        str(algorithm),
        inputs,
        operation == "cartesian",
        in_results,
        tuple(parents),
        retry,
        _node_ttl_s(raw.get("ttl"), f"{place}.ttl"),
    )


def _node_ttl_s(ttl: Any, place: str) -> float | None:
    if ttl is None:
        return None
    if not isinstance(ttl, int) or isinstance(ttl, bool):
        raise PipelineError(f"{place} should be integer")
    if not 0 <= ttl <= TTL_MAX_S:
        raise PipelineError(f"{place} should be {'>= 0' if ttl < 0 else f'<= {TTL_MAX_S}'}")
    return float(ttl) or None  # HKube: 0 means no ttl


def _retry(raw: Any, place: str) -> Retry | None:
    if raw is None:
        return None
    if not isinstance(raw, dict):
        raise PipelineError(f"{place} should be object")
    policy, limit = raw.get("policy", Retry.policy), raw.get("limit", Retry.limit)
    if policy not in _POLICIES:
        raise PipelineError(f"{place}.policy should be equal to one of the allowed values")
    if not isinstance(limit, int) or isinstance(limit, bool):
        raise PipelineError(f"{place}.limit should be integer")
    if limit < 1:
        raise PipelineError(f"{place}.limit should be >= 1")
    return Retry(policy, limit)


def _parse(value: Any, node: str, *, top: bool) -> Any:
    """Return the value with a Reference or RawBatch in place of each text that is one."""
    if isinstance(value, list):
        return [_parse(one, node, top=False) for one in value]
    if isinstance(value, dict):
        return {key: _parse(one, node, top=False) for key, one in value.items()}
    if not isinstance(value, str):
        return value
    if value.startswith(("*@", "*#@")):
        raise PipelineError(f'node "{node}": {value!r} (wait for any) {_NOT_SERVED}')
    if value.startswith("$$"):
        raise PipelineError(f'node "{node}": {value!r} begins with the reserved keyword $$')
    batch = value.startswith(("#@", "#["))
    if batch and not top:
        raise PipelineError(f'node "{node}": a batch inside another value ({value!r}) {_NOT_SERVED}')
    if value.startswith("#["):
        return RawBatch(tuple(_raw_items(value[1:])))
    if not value.startswith(("@", "#@")):
        return value
    name, *path = value.partition("@")[2].split(".")
    if name.startswith("dataSource"):
        raise PipelineError(f'node "{node}": {value!r} (a data source) {_NOT_SERVED}')
    return Reference(name, tuple(path), batch)


def _raw_items(text: str) -> Iterator[Any]:
    """Yield the items: whole numbers of `[a...b]`, texts of `[a,b]`, as HKube's parser does."""
    bare = re.sub(r"[\s\[\]]", "", text)
    numbers = _RANGE.fullmatch(bare)
    if numbers is not None:
        if max(map(len, numbers.groups())) > 18:
            raise PipelineError(f"{text[:60]}: a batch of numbers with more than 18 digits {_NOT_SERVED}")
        first, last = int(numbers[1]), int(numbers[2])
        check_size(text, last - first + 1)
        yield from range(first, last + 1)
    else:
        yield from bare.split(",")


def references(value: Any) -> Iterator[Reference]:
    """Yield every Reference in the value, however deep."""
    if isinstance(value, Reference):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from references(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from references(one)


def is_batch(one: Any) -> bool:
    return isinstance(one, RawBatch) or (isinstance(one, Reference) and one.batch)


def is_flow_input(name: str) -> bool:
    return name.startswith("flowInput")  # HKube matches the beginning only


def _check_references(nodes: tuple[Node, ...], flow_input: dict[str, Any]) -> None:
    by_name = {node.name: node for node in nodes}
    for node in nodes:
        for one in references(node.inputs):
            if is_flow_input(one.name):
                if at(flow_input, one.path) is MISSING:
                    raise PipelineError(f"unable to find flowInput.{'.'.join(one.path)}")
            elif one.name not in by_name:
                raise PipelineError(f'node "{node.name}" is depend on node "{one.name}" which is not exists')
            elif one.path and by_name[one.name].is_batch:
                raise PipelineError(
                    f'node "{node.name}": a path inside the results of the batch node "{one.name}" '
                    f"(@{one.text}) {_NOT_SERVED}"
                )


def _check_cycles(nodes: tuple[Node, ...]) -> None:
    left = {node.name: set(node.parents) for node in nodes}
    while left:
        free = {name for name, parents in left.items() if not parents & left.keys()}
        if not free:
            raise PipelineError("cyclic nodes are not allowed on batch pipeline")
        for name in free:
            del left[name]


def at(value: Any, path: tuple[str, ...]) -> Any:
    """Return the value at the path, or MISSING; numbers in the path index arrays."""
    for part in path:
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and len(part) <= 9 and int(part) < len(value):
            value = value[int(part)]
        else:
            return MISSING
    return value


def check_size(what: str, count: int) -> None:
    if count > BATCH_MAX:
        raise PipelineError(
            f"{what}: a batch of {count:,} tasks; hkrunner's local worker takes {BATCH_MAX:,}"
        )
