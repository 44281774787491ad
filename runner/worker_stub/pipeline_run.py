"""A running sub-pipeline: starts the tasks of each node once the nodes it depends on are done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from ...sandbox.codec import codec
from .catalog import Execution
from .pipeline import MISSING, Node, Pipeline, PipelineError
from .pipeline_values import Outcome, inputs_of, tolerance_passed


class StartTask(Protocol):
    """Starts one task of a node; `input`: as JSON. on_end gets (True, its result) or (False, an error)."""

    def __call__(
        self, node: Node, input: bytes, *, batch_index: int | None, on_end: Callable[[bool, Any], None]
    ) -> Execution: ...


@dataclass
class _StartedNode:
    """A node whose tasks were started."""

    node: Node
    total: int
    results: dict[int, Any] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)


class PipelineRun:
    """One run of a pipeline; on_end is called once, with (True, results) or (False, error)."""

    def __init__(self, pipeline: Pipeline, start: StartTask, on_end: Callable[[bool, Any], None]) -> None:
        self._pipeline = pipeline
        self._start = start
        self._on_end = on_end
        self._done: dict[str, Outcome] = {}
        self._started: dict[str, _StartedNode] = {}
        self._running: dict[tuple[str, int], Execution] = {}
        self._over = False

    def begin(self) -> None:
        """Start the nodes that depend on no other."""
        self._start_ready_nodes()

    def stop(self) -> None:
        """Stop all its tasks; on_end is not called."""
        self._over = True
        running, self._running = self._running, {}
        for one in running.values():
            one.stop()

    def _start_ready_nodes(self) -> None:
        """Start every node whose parents are done; a skipped one may make others ready."""
        ready = True
        while ready and not self._over:
            ready = False
            for node in self._pipeline.nodes:
                free = node.name not in self._done and node.name not in self._started
                if free and all(parent in self._done for parent in node.parents):
                    ready = True
                    self._start_node(node)
                    if self._over:
                        return
        if not self._over and len(self._done) == len(self._pipeline.nodes):
            self._end(True, self._results())

    def _start_node(self, node: Node) -> None:
        try:
            values = inputs_of(node, self._pipeline.flow_input, self._done)
            # The result of a node may hold what JSON has no form for.
            inputs = None if values is None else [codec.as_json(one, "input") for one in values]
        except (PipelineError, codec.ResultInvalid) as error:
            self._end(False, str(error))
            return
        if inputs is None:
            self._done[node.name] = Outcome(skipped=True)
            return
        self._started[node.name] = _StartedNode(node, len(inputs))
        for index, one in enumerate(inputs):
            self._running[node.name, index] = self._start(
                node,
                one,
                batch_index=index + 1 if node.is_batch else None,
                on_end=lambda good, value, index=index: self._ended(node, index, good, value),  # type: ignore[misc]
            )

    def _ended(self, node: Node, index: int, good: bool, value: Any) -> None:
        self._running.pop((node.name, index), None)
        if self._over:
            return
        started = self._started[node.name]
        if good:
            started.results[index] = value
        elif not node.is_batch:
            self._end(False, value)
            return
        else:
            started.errors[index] = value
            tolerance = self._pipeline.batch_tolerance
            passed = tolerance_passed(len(started.errors), started.total, tolerance, value)
            if passed is not None:
                self._end(False, passed)
                return
        if len(started.results) + len(started.errors) == started.total:
            self._done[node.name] = _outcome(started)
            self._start_ready_nodes()

    def _end(self, good: bool, value: Any) -> None:
        self.stop()
        self._on_end(good, value)

    def _results(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for node in self._pipeline.in_results:
            started = self._started.get(node.name)
            if started is None:
                found.append({"nodeName": node.name, "batchIndex": -1, "algorithmName": node.algorithm})
                continue
            for index in range(started.total):
                item: dict[str, Any] = {"nodeName": node.name}
                if node.is_batch:
                    item["batchIndex"] = index + 1
                item["algorithmName"] = node.algorithm
                if index in started.errors:
                    item["error"] = started.errors[index]
                elif started.results[index] is not MISSING:
                    item["result"] = started.results[index]
                found.append(item)
        return found


def _outcome(started: _StartedNode) -> Outcome:
    if not started.node.is_batch:
        return Outcome(value=started.results[0])
    items = [started.results.get(index) for index in range(started.total)]
    return Outcome(items=items, failed=frozenset(started.errors))
