"""`hkrunner --pipeline FILE --dry-run`: reports how a stream pipeline would run, and starts nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

from ..prepare.dry_run import (
    describe_algorithm,
    describe_surroundings,
    lines_of_rows,
    rows_of_algorithm,
    rows_of_surroundings,
    without_records,
)
from ..settings.settings import Settings
from .run_stream import prepared


def describe_stream(settings: Settings, file: str) -> dict[str, Any]:
    """Return what the run of this file would do. Raises the HkrunnerError that the run would raise."""
    with contextlib.ExitStack() as stack:
        pipeline, algorithms = prepared(without_records(settings), file, stack, runs=False)
        return {
            "pipeline": pipeline.name,
            **describe_surroundings(settings),
            "defaultFlow": pipeline.default_flow,
            "nodes": [
                {
                    "nodeName": one.name,
                    "algorithmName": one.node.algorithm,
                    "stateType": one.state_type,
                    "replicas": one.replicas,
                    "parents": list(one.parents),
                    "childs": list(one.children),
                    "input": pipeline.input_of(one),
                }
                for one in pipeline.nodes
            ],
            "algorithms": {
                name: describe_algorithm(own._replace(records=settings.records), where, os.environ)
                for name, (own, where) in algorithms.items()
            },
        }


def lines_of_stream(run: Mapping[str, Any]) -> list[str]:
    """Return what describe_stream() has returned as lines of text."""
    shown = [f"would run the stream pipeline {run['pipeline']}, and end when its sources have ended"]
    rows = [("node", _node(one)) for one in run["nodes"]]
    shown += lines_of_rows([*rows, *rows_of_surroundings(run)])
    for name, one in run["algorithms"].items():
        shown += [f"each replica of {name}:", *lines_of_rows(rows_of_algorithm(one))]
        shown += [f"◌ {name}: {note}" for note in one["notes"]]
    return shown


def _node(one: Mapping[str, Any]) -> str:
    count = one["replicas"]
    kind = f"{one['stateType']}{f', {count} replicas' if count > 1 else ''}"
    others = ", ".join(one["childs"])
    algorithm = "" if one["algorithmName"] == one["nodeName"] else f" ({one['algorithmName']})"
    return f"{one['nodeName']}{algorithm}: {kind}{f', sends to {others}' if others else ''}"
