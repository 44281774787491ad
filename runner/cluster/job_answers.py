"""Reads what the API says about a job. A field of another type is taken as one that is absent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..protocol.messages import printable

#: Statuses after which nothing happens any more; all but the first mean that there may be no results.
COMPLETED = "completed"
FINAL = (COMPLETED, "failed", "stopped", "crashed", "stalled")
#: How long results and graph may come after the status: the cluster writes them one after the other.
LATE_S = 5.0
#: Characters of a job's id: HKube's have 8 to 36.
_ID_MAX = 100


class JobEnd(NamedTuple):
    """How a job ended."""

    status: str  #: one of FINAL
    took_s: float | None
    error: str | None  #: of the whole job, or the reason of a stop


class JobProgress(NamedTuple):
    """How far a job is."""

    percent: float | None
    details: str  #: in HKube's words: "1 active, 3 succeed"


def job_id_of(answer: Any) -> str | None:
    """Return the id in the field jobId, None if there is none that can be part of a path."""
    found = answer.get("jobId") if isinstance(answer, dict) else None
    if not isinstance(found, str) or not 0 < len(found) <= _ID_MAX:
        return None
    return found if all(one.isalnum() or one in "-_.:" for one in found) else None


def number(value: Any) -> float | None:
    """Return the value as a float if it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def finite(value: Any) -> Any:
    """Return the value with null for what JSON has no number for, as JavaScript sends it."""
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def end_of(status: Mapping[str, Any]) -> JobEnd | None:
    """Return how the job of this status object has ended, None if it has not."""
    word = status.get("status")
    if word not in FINAL:
        return None
    words = status.get("error") or status.get("reason")
    return JobEnd(str(word), number(status.get("grossTimeTook")), None if words is None else str(words))


def end_by_results(results: Any) -> JobEnd | None:
    """Return how the job with these results has ended, None if they do not say it."""
    return (
        end_of({**results, "grossTimeTook": results.get("timeTook")}) if isinstance(results, dict) else None
    )


def progress_of(status: Mapping[str, Any]) -> JobProgress:
    """Return how far the job of this status object is."""
    data = status.get("data")
    told = data if isinstance(data, dict) else {}
    word = str(status.get("status") or "")
    # The details of a job that somebody has paused are those of the time before.
    details = str((told.get("details") if word == "active" else None) or word)
    head, comma, rest = details.partition(", ")
    shown = rest if comma and head.endswith("completed") else details
    return JobProgress(number(told.get("progress")), printable(shown))


def items_of(results: Any) -> list[dict[str, Any]]:
    """Return the result of each task."""
    return _objects(results.get("data") if isinstance(results, dict) else None)


def tasks_of(graph: Any) -> list[dict[str, Any]]:
    """Return what the graph says about each task, with what its node says about the algorithm."""
    found = []
    for node in _objects(graph.get("nodes") if isinstance(graph, dict) else None):
        of_node: dict[str, Any] = {
            key: node[key] for key in ("algorithmName", "algorithmVersion") if key in node
        }
        for one in _objects(node.get("batch")) or [node]:
            found.append({**of_node, **one, "nodeName": node.get("nodeName")})
    return found


def stored_path(item: Mapping[str, Any] | None, task: Mapping[str, Any]) -> str | None:
    """Return where the result is stored, if the API does not show it: it is large, or the job has failed."""
    if item is not None:
        holder = item.get("info")
    else:
        output = task.get("output") if task.get("status") == "succeed" else None
        holder = output.get("storageInfo") if isinstance(output, dict) else None
    path = holder.get("path") if isinstance(holder, dict) else None
    return path if isinstance(path, str) else None


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
