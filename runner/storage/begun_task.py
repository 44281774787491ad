"""The task that the storage process works for, as its `initialize` names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

_NAMES = ("taskId", "jobId", "nodeName", "algorithmName", "pipelineName")


class BegunTask(NamedTuple):
    """Its names, and the parts of its result that other nodes ask for."""

    names: Mapping[str, str]
    save_paths: list[str]
    is_resumed: bool = False  #: whether an earlier process has fetched its input, and seen some of its calls

    @property
    def job_id(self) -> str:
        """The id of its job."""
        return self.names.get("jobId", "")

    @property
    def task_id(self) -> str:
        """Its own id."""
        return self.names.get("taskId", "")

    @property
    def node(self) -> str:
        """The name of its node."""
        return self.names.get("nodeName", "")


def begun_task(data: Mapping[str, Any]) -> BegunTask:
    """Return the task of an `initialize` with these data."""
    info = data.get("info")
    paths = info.get("savePaths") if isinstance(info, dict) else None
    names = {name: str(data[name])[:1000] for name in _NAMES if data.get(name) is not None}
    return BegunTask(names, [path for path in paths or () if isinstance(path, str)])
