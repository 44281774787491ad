"""What tasks were given and what came of them: the columns by which `runs ls` lists, sorts and filters.

A task that has ended changes no more, so its values are kept in one file of the state folder: reading them
again from a thousand records and their event files would take seconds. The file is only a cache. It is
written by the command that lists tasks, replaced as a whole, and may be removed at any time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ..errors import BoardError
from .curve_names import common_names
from .event_files import read_last_scalars
from .files import read_json, replace_file
from .history import TaskSummary, show_task
from .layout import RESOURCES
from .run_names import NamedTask, RunNames, marked
from .task_values import (
    Scalar,
    input_in_journal,
    numbers,
    read_input,
    read_result,
    result_in_journal,
    shown,
)

CACHE = "values.json"
_SETTLED_MS = 60_000  # a board or a program may add files to a task's folder for this long after its end
_VERSION = 3
_MAX_LAST_VALUES = 72  # characters of the last values in a line


@dataclass(frozen=True)
class TaskValues:
    """The scalars of a task's input and output by their place, and the last value of each of its metrics."""

    inputs: Mapping[str, Scalar]
    output: Mapping[str, Scalar]
    metrics: Mapping[str, Scalar]


@dataclass(frozen=True)
class ComparedTask:
    """A recorded task with its values."""

    summary: TaskSummary
    values: TaskValues
    run: str  # its name on a board of all the compared tasks

    @cached_property
    def by_key(self) -> Mapping[str, Scalar]:
        """Every value under each name that `--sort` and `--where` know it by.

        Of two values with the same name the plain name is the record's, the metric's, the output's or the
        input's, in this order; a prefix names each of them: input.loss, output.loss, metrics.loss.
        """
        values = self.values
        kinds = (("input", values.inputs), ("output", values.output), ("metrics", values.metrics))
        found: dict[str, Scalar] = {}
        for _, kind in kinds:
            found.update(kind)
        for prefix, kind in kinds:
            found.update({f"{prefix}.{key}": value for key, value in kind.items()})
        found.update(_recorded(self.summary))
        return found


def compare_tasks(
    root: Path, summaries: Iterable[TaskSummary], *, writes_cache: bool = True
) -> list[ComparedTask]:
    """Return the tasks with their values, in the same order. Never raises for a record that is removed.

    writes_cache: not for some of the recorded tasks, since the cache would lose the others.
    """
    summaries = list(summaries)
    cached = _read_cache(root)
    now_ms = time.time() * 1000
    found: dict[str, TaskValues] = {}
    settled: dict[str, object] = {}
    has_new = False
    for one in summaries:
        entry = cached.get(one.name)
        values = _values_in(entry, one)
        if values is None:
            values, entry = _read_values(root, one), None
        found[one.name] = values
        if one.end_time is not None and now_ms - one.end_time > _SETTLED_MS:
            has_new = has_new or entry is None
            settled[one.name] = entry or [one.start_time, one.end_time, *vars(values).values()]
    if has_new and writes_cache:
        _write_cache(root, settled)
    names = RunNames()
    found = _with_common_names(summaries, found)
    named = [NamedTask(one.name, one.node, found[one.name].inputs) for one in summaries]
    names.learn(named)
    return [
        ComparedTask(one, found[one.name], marked(names.name(task), one.status))
        for one, task in zip(summaries, named, strict=True)
    ]


def _with_common_names(
    summaries: Iterable[TaskSummary], values: Mapping[str, TaskValues]
) -> dict[str, TaskValues]:
    """Return the values with names of metrics that tasks of the same node share."""
    by_node: dict[tuple[str, str], list[str]] = {}
    for one in summaries:
        by_node.setdefault((one.pipeline, one.node), []).append(one.name)
    found = {}
    for tasks in by_node.values():
        names = common_names([values[task].metrics for task in tasks])
        for task, new in zip(tasks, names, strict=True):
            metrics = {new[name]: value for name, value in values[task].metrics.items()}
            found[task] = replace(values[task], metrics=metrics)
    return found


def _recorded(summary: TaskSummary) -> dict[str, Scalar]:
    """Return what the record itself says, without what it lacks. Sizes in bytes, times in seconds."""
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(summary.start_time / 1000))
    duration_s = None if summary.duration_ms is None else summary.duration_ms / 1000
    values = {
        "name": summary.name,
        "status": summary.status,
        "reason": summary.reason,
        "node": summary.node,
        "pipeline": summary.pipeline,
        "job": summary.job,
        "entry": summary.entry,
        "started": started,
        "duration": duration_s,
        "peak": summary.peak_bytes,
        "size": summary.size_bytes,
    }
    return {key: value for key, value in values.items() if value is not None}


def _read_values(root: Path, summary: TaskSummary) -> TaskValues:
    """Return the values as the record has them now; empty what it lacks, or no longer has."""
    if summary.in_journal is not None:
        task = summary.in_journal
        return TaskValues(input_in_journal(task) or {}, result_in_journal(task), {})
    try:
        facts = show_task(root, summary.name).facts
    except (BoardError, OSError):  # removed meanwhile
        return TaskValues({}, {}, {})
    folder = str(summary.folder)
    metrics = read_last_scalars(summary.metrics_dir, left_out=(RESOURCES,)) if summary.metrics_dir else {}
    return TaskValues(read_input(folder, facts) or {}, read_result(folder), metrics)


# --- the cache


def _values_in(entry: object, summary: TaskSummary) -> TaskValues | None:
    """Return the values of a cache entry; None if it is another task's: a name may be used again."""
    if not isinstance(entry, list) or entry[:2] != [summary.start_time, summary.end_time]:
        return None
    kinds = [kind for kind in entry[2:] if isinstance(kind, dict)]
    return TaskValues(*kinds) if len(kinds) == 3 else None


def _read_cache(root: Path) -> Mapping[str, object]:
    cache = read_json(str(root / CACHE)) or {}
    tasks = cache.get("tasks")
    return tasks if cache.get("version") == _VERSION and isinstance(tasks, dict) else {}


def _write_cache(root: Path, tasks: Mapping[str, object]) -> None:
    data = json.dumps({"version": _VERSION, "tasks": tasks}, separators=(",", ":")).encode()
    try:
        replace_file(str(root / CACHE), data)
    except OSError:  # read-only, or a full disk: it is made the next time
        pass


def last_values(tasks: list[ComparedTask]) -> list[str]:
    """Return a text for each task: the last values of its metrics; without metrics the numbers of its output.

    Tasks of one node show the same ones, as many as fit, below each other.
    """
    by_node: dict[tuple[str, str], list[dict[str, str]]] = {}
    rows = []
    for one in tasks:
        values = one.values.metrics or numbers(one.values.output)
        row = {key: f"{shown(key, limit=24)}={shown(value)}" for key, value in values.items()}
        rows.append(row)
        by_node.setdefault((one.summary.pipeline, one.summary.node), []).append(row)
    widths = {node: _widths(of_node) for node, of_node in by_node.items()}
    return [
        " ".join(
            f"{row.get(key, ''):<{width}}"
            for key, width in widths[one.summary.pipeline, one.summary.node].items()
        ).rstrip()
        for one, row in zip(tasks, rows, strict=True)
    ]


def _widths(rows: list[dict[str, str]]) -> dict[str, int]:
    """Return the keys that fit, in the order in which the rows have them, with the width of the widest."""
    widths: dict[str, int] = {}
    for row in rows:
        for key, text in row.items():
            widths[key] = max(widths.get(key, 0), len(text))
    fitting: dict[str, int] = {}
    for key, width in widths.items():
        if sum(fitting.values()) + len(fitting) + width <= _MAX_LAST_VALUES:
            fitting[key] = width
    return fitting
