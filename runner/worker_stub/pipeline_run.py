"""One sub-pipeline that runs: hands its nodes' tasks out as their inputs are there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from .pipeline import MISSING, Node, Outcome, Pipeline, PipelineError, Retry, inputs_of, tolerance_passed


class Execution(Protocol):
    """A task of another algorithm that was handed out."""

    def stop(self) -> None:
        """Nobody waits for it any more: have it stopped."""


class Launch(Protocol):
    """Hands out one task: `on_end` gets (True, its result) or (False, its error's text)."""

    def __call__(
        self,
        algorithm: str,
        input: list[Any],
        *,
        node: str,
        batch_index: int | None,
        retry: Retry | None,
        on_end: Callable[[bool, Any], None],
    ) -> Execution: ...


@dataclass
class _Work:
    """A node whose tasks are out."""

    node: Node
    total: int
    results: dict[int, Any] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)


class Flow:
    """Runs one pipeline; `on_end` is called once, with (True, results) or (False, error)."""

    def __init__(self, pipeline: Pipeline, launch: Launch, on_end: Callable[[bool, Any], None]) -> None:
        self._pipeline = pipeline
        self._launch = launch
        self._on_end = on_end
        self._done: dict[str, Outcome] = {}
        self._works: dict[str, _Work] = {}
        self._running: dict[tuple[str, int], Execution] = {}
        self._over = False

    def begin(self) -> None:
        """Hand the first tasks out."""
        self._go_on()

    def stop(self) -> None:
        """Stop what runs; nobody is told."""
        self._over = True
        running, self._running = self._running, {}
        for one in running.values():
            one.stop()

    def _go_on(self) -> None:
        """Begin every node whose parents are done, until nothing changes."""
        ready = True
        while ready and not self._over:
            ready = False
            for node in self._pipeline.nodes:
                free = node.name not in self._done and node.name not in self._works
                if free and all(parent in self._done for parent in node.parents):
                    ready = True
                    self._begin_node(node)
                    if self._over:
                        return
        if not self._over and len(self._done) == len(self._pipeline.nodes):
            self._end(True, self._results())

    def _begin_node(self, node: Node) -> None:
        try:
            inputs = inputs_of(node, self._pipeline.flow_input, self._done)
        except PipelineError as error:
            self._end(False, str(error))
            return
        if inputs is None:
            self._done[node.name] = Outcome(skipped=True)
            return
        self._works[node.name] = _Work(node, len(inputs))
        for index, one in enumerate(inputs):
            self._running[node.name, index] = self._launch(
                node.algorithm,
                one,
                node=node.name,
                batch_index=index + 1 if node.is_batch else None,
                retry=node.retry,
                on_end=lambda good, value, index=index: self._ended(node, index, good, value),  # type: ignore[misc]
            )

    def _ended(self, node: Node, index: int, good: bool, value: Any) -> None:
        self._running.pop((node.name, index), None)
        if self._over:
            return
        work = self._works[node.name]
        if good:
            work.results[index] = value
        elif not node.is_batch:
            self._end(False, value)
            return
        else:
            work.errors[index] = value
            tolerance = self._pipeline.batch_tolerance
            passed = tolerance_passed(len(work.errors), work.total, tolerance, value)
            if passed is not None:
                self._end(False, passed)
                return
        if len(work.results) + len(work.errors) == work.total:
            self._done[node.name] = _outcome(work)
            self._go_on()

    def _end(self, good: bool, value: Any) -> None:
        self.stop()
        self._on_end(good, value)

    def _results(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for node in self._pipeline.in_results:
            work = self._works.get(node.name)
            if work is None:
                found.append({"nodeName": node.name, "batchIndex": -1, "algorithmName": node.algorithm})
                continue
            for index in range(work.total):
                item: dict[str, Any] = {"nodeName": node.name}
                if node.is_batch:
                    item["batchIndex"] = index + 1
                item["algorithmName"] = node.algorithm
                if index in work.errors:
                    item["error"] = work.errors[index]
                elif work.results[index] is not MISSING:
                    item["result"] = work.results[index]
                found.append(item)
        return found


def _outcome(work: _Work) -> Outcome:
    if not work.node.is_batch:
        return Outcome(value=work.results[0])
    items = [work.results.get(index) for index in range(work.total)]
    return Outcome(items=items, failed=frozenset(work.errors))
