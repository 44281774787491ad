"""The inputs of a sub-pipeline's tasks, from the flow input and the results of its nodes. No I/O.

What is null, undefined or skipped follows HKube's core/pipeline-driver.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .pipeline import (
    MISSING,
    Node,
    PipelineError,
    RawBatch,
    Reference,
    at,
    check_size,
    is_batch,
    is_flow_input,
)


@dataclass
class Outcome:
    """The result of a node: one value, or one item for each task of a batch (None for one that failed)."""

    value: Any = MISSING
    items: list[Any] | None = None  #: the results of a batch node; MISSING stands for undefined
    failed: frozenset[int] = frozenset()
    skipped: bool = False


def inputs_of(node: Node, flow_input: dict[str, Any], done: Mapping[str, Outcome]) -> list[list[Any]] | None:
    """Return the input of each task of the node (one for a plain node), or None when the node is skipped.

    Raises PipelineError where the driver fails the pipeline.
    """
    if not node.is_batch:
        return [[_with_null(_value_of(one, flow_input, done)) for one in node.inputs]]
    columns: list[list[Any]] = []
    repeats: list[bool] = []
    for one in node.inputs:
        if not is_batch(one):
            # In a batch node the driver turns these two literals into null.
            columns.append([None if one in ([], {}) else _with_null(_value_of(one, flow_input, done))])
            repeats.append(True)
            continue
        items = list(one.items) if isinstance(one, RawBatch) else _items(one, flow_input, done)
        if not items:
            return None
        columns.append([_with_null(item) for item in items])
        repeats.append(False)
    if node.cartesian:
        check_size(f'node "{node.name}"', math.prod(map(len, columns)))
        return [list(row) for row in itertools.product(*columns)]
    length = max(len(items) for items, repeat in zip(columns, repeats, strict=True) if not repeat)
    check_size(f'node "{node.name}"', length)
    padded = [
        items * length if repeat else items + [None] * (length - len(items))
        for items, repeat in zip(columns, repeats, strict=True)
    ]
    return [list(row) for row in zip(*padded, strict=True)]


def _items(one: Reference, flow_input: dict[str, Any], done: Mapping[str, Outcome]) -> list[Any]:
    if not is_flow_input(one.name):
        outcome = done[one.name]
        if outcome.skipped:
            return []
        if outcome.items is not None:
            return [item for index, item in enumerate(outcome.items) if index not in outcome.failed]
    value = _value_of(one, flow_input, done)
    if value is MISSING:
        raise PipelineError("Cannot read properties of null (reading 'size')")
    return value if isinstance(value, list) else []


def _value_of(value: Any, flow_input: dict[str, Any], done: Mapping[str, Outcome]) -> Any:
    if isinstance(value, Reference):
        if is_flow_input(value.name):
            return at(flow_input, value.path)
        outcome = done[value.name]
        if outcome.skipped:
            return []
        return outcome.items if outcome.items is not None else at(outcome.value, value.path)
    if isinstance(value, list):
        return [_value_of(one, flow_input, done) for one in value]
    if isinstance(value, dict):
        return {key: _value_of(one, flow_input, done) for key, one in value.items()}
    return value


def _with_null(value: Any) -> Any:
    """Return the value with null in place of undefined, as JSON has it."""
    if value is MISSING:
        return None
    if isinstance(value, list):
        return [_with_null(one) for one in value]
    if isinstance(value, dict):
        return {key: _with_null(one) for key, one in value.items()}
    return value


def tolerance_passed(failed: int, total: int, tolerance: float, error: str) -> str | None:
    """Return the pipeline's error for this many failures in a batch, or None while they are tolerated."""
    percent = math.floor(failed / total * 100 + 0.5)  # as JavaScript rounds
    if percent < tolerance:
        return None
    return f"{failed}/{total} ({percent}%) failed tasks, batch tolerance is {tolerance:g}%, error: {error}"
