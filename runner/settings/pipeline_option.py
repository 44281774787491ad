"""--pipeline: NAME=FILE is a pipeline that tasks may start, FILE alone is the stream pipeline to run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import SettingsError
from .options import BY_NAME
from .parsing import parse_named_paths

#: Options that concern the run of one algorithm.
_OF_ONE_ALGORITHM = (
    *("entry", "command", "path", "file", "tasks", "watch", "in_process", "pdb", "parallel", "unordered"),
    *("board", "open", "api_port"),
)


def stored_pipelines(values: Mapping[str, Any]) -> dict[str, str]:
    """Return name -> file of the pipelines that tasks may start. Raises SettingsError."""
    named = [one for one in values.get("pipeline") or () if "=" in one]
    return parse_named_paths({"pipeline": named}, BY_NAME["pipeline"])


def stream_pipeline(values: Mapping[str, Any]) -> str | None:
    """Return the file of the stream pipeline to run, None if another kind of run is asked for."""
    return next((one for one in values.get("pipeline") or () if "=" not in one), None)


def check_stream_options(values: Mapping[str, Any]) -> None:
    """Raise SettingsError for options that do not go with the run of a stream pipeline."""
    files = [one for one in values.get("pipeline") or () if "=" not in one]
    if not files:
        return
    if len(files) > 1:
        raise SettingsError(f"--pipeline runs one stream pipeline, not {len(files)}: {', '.join(files)}")
    for name in _OF_ONE_ALGORITHM:
        if values.get(name) not in (None, False, ()):
            flag = BY_NAME[name].flag.partition("/")[0]
            raise SettingsError(
                f"--pipeline {files[0]} runs the algorithms of its nodes: leave {flag} out"
                " (NAME=FILE is a pipeline that tasks may start)"
            )
