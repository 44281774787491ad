"""Fetches the metrics of tasks from the cluster's storage, where HKube's worker puts them after each task.

<cluster>-hkube-algo-metrics/<pipeline>/<node>/<job>/<task>/<date>/<file>. The folder of the date is left out
unless a task that was repeated has several.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..errors import ClusterError
from .api import ClusterApi
from .job_answers import number
from .job_tasks import ClusterTask
from .refusals import RequestRefused

#: Files that the API lists of one folder.
LISTED_MAX = 100


class StoredFile(NamedTuple):
    """A file in the cluster's storage."""

    path: str
    size: int
    name: tuple[str, ...]  #: its folders and its name, below the folder of the task


def read_file(api: ClusterApi, one: StoredFile) -> bytes:
    """Return the content of the file. Raises ClusterError."""
    try:
        return api.get_bytes(f"storage/stream/{one.path}")
    except RequestRefused as error:
        raise ClusterError(f"the metrics {one.path} cannot be fetched: {error}") from None


def metric_files(api: ClusterApi, task: ClusterTask) -> list[StoredFile]:
    """Return the files of the task's metrics, at most LISTED_MAX; [] if it has none. Raises ClusterError."""
    if task.metrics is None:
        return []
    parts = _parts(task.metrics)
    top = parts[: parts.index(task.task) + 1] if task.task in parts else parts
    try:
        answer = api.get(f"storage/keys/{'/'.join(top)}")
    except RequestRefused as error:
        if error.status == 404:
            return []
        raise ClusterError(f"the metrics of {task.task} cannot be listed: {error}") from None
    keys = answer.get("keys") if isinstance(answer, dict) else None
    found = []
    for key in keys if isinstance(keys, list) else ():
        path = _parts(key.get("path")) if isinstance(key, dict) else ()
        if path[: len(top)] == top and len(path) > len(top) and not {".", ".."} & set(path):
            found.append(StoredFile("/".join(path), int(number(key.get("size")) or 0), path[len(top) :]))
    has_one_date = len({one.name[0] for one in found}) == 1 and all(len(one.name) > 1 for one in found)
    if has_one_date and top != parts:
        return [one._replace(name=one.name[1:]) for one in found]
    return found


def _parts(path: Any) -> tuple[str, ...]:
    """Return the parts of a path; an object storage lists them without the slash that others begin with."""
    return tuple(part for part in path.split("/") if part) if isinstance(path, str) else ()
