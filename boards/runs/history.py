"""Lists, shows, reads, repeats and removes the records of tasks (`hkrunner runs`).

The records are read from disk, where this hkrunner or another may still be writing. A task whose record says
"active" though the process that wrote it is gone is "lost". Sizes are bytes on disk, metrics included.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import NotFound, StoreError
from .event_files import Point, read_scalars
from .files import ProcessIdentity, read_json, safe_part
from .layout import STREAMS

ACTIVE = "active"
LOST = "lost"  # its hkrunner was killed before the task ended


@dataclass(frozen=True)
class TaskSummary:
    """One line of `runs ls`. Times in ms since the epoch; None for what the record does not say."""

    name: str
    task: str
    job: str
    node: str
    pipeline: str
    entry: str
    status: str
    reason: str | None
    start_time: int
    end_time: int | None
    duration_ms: float | None
    peak_bytes: int | None
    size_bytes: int
    event_files: int
    folder: Path
    metrics_dir: Path | None

    @property
    def is_active(self) -> bool:
        """Whether the task still runs."""
        return self.status == ACTIVE


@dataclass(frozen=True)
class TaskDetails:
    """What `runs show` prints: the summary, all of task.json, and the files by name with their sizes."""

    summary: TaskSummary
    facts: Mapping[str, object]
    files: Mapping[str, int]


@dataclass(frozen=True)
class LogPart:
    """Output from an offset on; is_final: the task has ended, and this is the end of its output."""

    data: bytes
    next_offset: int
    is_final: bool


@dataclass(frozen=True)
class Curve:
    """One scalar series of a task."""

    run: str
    tag: str
    points: tuple[Point, ...]

    @property
    def last(self) -> Point:
        """The latest point."""
        return self.points[-1]

    @property
    def lowest(self) -> float:
        """The minimum of all points."""
        return min(point.value for point in self.points)

    @property
    def highest(self) -> float:
        """The maximum of all points."""
        return max(point.value for point in self.points)


@dataclass(frozen=True)
class Repeat:
    """What `runs again` runs: the same entry, input and settings as the task had.

    input: the bytes of input.json. settings: the object "settings" of task.json (limits, options); empty when
    it has none.
    """

    entry: str
    input: bytes
    settings: Mapping[str, object]
    job: str
    node: str
    pipeline: str


@dataclass(frozen=True)
class Removed:
    """What a removal did."""

    names: tuple[str, ...]
    freed_bytes: int


def list_tasks(root: Path) -> list[TaskSummary]:
    """Return all recorded tasks in the order of their start, without those whose record cannot be read."""
    try:
        names = os.listdir(root / "tasks")
    except OSError:
        return []
    found = (_summary(root, root / "tasks" / name) for name in names)
    return sorted(
        (summary for summary in found if summary is not None),
        key=lambda summary: (summary.start_time, len(summary.name), summary.name),
    )


def show_task(root: Path, name: str) -> TaskDetails:
    """Return everything about one task. Raises NotFound, and StoreError for an unreadable record."""
    folder = _folder(root, name)
    facts, summary = read_json(str(folder / "task.json")), _summary(root, folder)
    if facts is None or summary is None:
        raise StoreError(f"the record of task {name} cannot be read", hint=f"look into {folder}")
    files = {entry.name: entry.stat().st_size for entry in os.scandir(folder) if entry.is_file()}
    return TaskDetails(summary, {**facts, "status": summary.status}, dict(sorted(files.items())))


def read_log(root: Path, name: str, stream: str, *, offset: int = 0, limit_bytes: int = 1 << 20) -> LogPart:
    """Return the task's output from an offset on; call again with next_offset to follow. Never waits.

    Raises NotFound, and StoreError when the output cannot be read.
    """
    if stream not in STREAMS:
        raise StoreError(f"there is no stream {stream}", hint=f"there are {' and '.join(STREAMS)}")
    folder = _folder(root, name)
    # The state is read first: in the other order the last lines could be missed.
    summary = _summary(root, folder)
    has_ended = summary is None or not summary.is_active
    try:
        with open(folder / f"{stream}.log", "rb") as file:
            file.seek(offset)
            data = file.read(limit_bytes)
    except FileNotFoundError:
        data = b""  # the task has printed nothing
    except OSError as error:
        raise StoreError(f"{stream} of task {name} cannot be read: {error.strerror}") from error
    return LogPart(data, offset + len(data), has_ended and len(data) < limit_bytes)


def read_metrics(root: Path, name: str) -> list[Curve]:
    """Return the scalar series of a task, by run and tag, its resource usage included. Raises NotFound."""
    summary = _summary(root, _folder(root, name))
    if summary is None or summary.metrics_dir is None:
        return []
    return [
        Curve(run, tag, tuple(points))
        for run, series in read_scalars(summary.metrics_dir).items()
        for tag, points in sorted(series.items())
    ]


def repeat_of(root: Path, name: str) -> Repeat:
    """Return what is needed to run the task again. Raises NotFound, and StoreError without its input."""
    details = show_task(root, name)
    summary = details.summary
    large = details.facts.get("notKept")
    if isinstance(large, dict) and "input" in large:
        raise StoreError(
            f"task {name} cannot be run again: its input of {large['input']:,} bytes was not recorded",
            hint="hkrunner records larger inputs with --keep-values",
        )
    try:
        data = (summary.folder / "input.json").read_bytes()
        json.loads(data)
    except (OSError, ValueError) as error:
        raise StoreError(
            f"task {name} cannot be run again: its recorded input cannot be read", hint=f"{error}"
        ) from error
    settings = details.facts.get("settings")
    return Repeat(
        entry=summary.entry,
        input=data,
        settings=settings if isinstance(settings, dict) else {},
        job=summary.job,
        node=summary.node,
        pipeline=summary.pipeline,
    )


def remove_tasks(root: Path, names: Iterable[str]) -> Removed:
    """Remove the tasks and their metrics. Raises NotFound or StoreError before anything is removed."""
    summaries = []
    for name in dict.fromkeys(names):
        folder = _folder(root, name)
        summary = _summary(root, folder) or _unreadable(folder)
        if summary.is_active:
            raise StoreError(f"task {name} is still running", hint="stop it first")
        summaries.append(summary)
    for summary in summaries:
        _remove(root, summary)
    return Removed(
        tuple(summary.name for summary in summaries), sum(summary.size_bytes for summary in summaries)
    )


def keep_latest(root: Path, count: int) -> Removed:
    """Remove all records but the latest `count` (`--keep`); those of running tasks are never removed.

    Takes 100 µs a removed task, so it runs at the end of a run or between tasks.
    """
    tasks = list_tasks(root)
    surplus = tasks[: max(0, len(tasks) - max(0, count))]
    return remove_tasks(root, [summary.name for summary in surplus if not summary.is_active])


def _folder(root: Path, name: str) -> Path:
    folder = root / "tasks" / safe_part(name)
    if not folder.is_dir():
        # The name may be a folder's, as `runs ls` shows it.
        listed = root / "tasks" / name
        if not name or "/" in name or name in (".", "..") or not listed.is_dir():
            raise NotFound(f"there is no task {name} in {root}", hint="hkrunner runs ls shows what there is")
        return listed
    return folder


def _summary(root: Path, folder: Path) -> TaskSummary | None:
    """Return the task as it is now; None when its record cannot be read."""
    path = str(folder / "task.json")
    facts = read_json(path) or read_json(path)  # again: TaskRecord.finish may be overwriting it
    if facts is None:
        return None
    metrics_dir = _metrics_dir(root, facts)
    size, event_files = _measure(metrics_dir) if metrics_dir is not None else (0, 0)
    status = str(facts.get("status"))
    owner = ProcessIdentity.from_dict(facts.get("owner"))
    if status == ACTIVE and owner is not None and not owner.is_alive():
        status = LOST
    return TaskSummary(
        name=folder.name,
        task=str(facts.get("taskId", folder.name)),
        job=str(facts.get("jobId", "")),
        node=str(facts.get("nodeName", "")),
        pipeline=str(facts.get("pipelineName", "")),
        entry=str(facts.get("entry", "")),
        status=status,
        reason=_text(facts.get("reason")),
        start_time=_integer(facts.get("startTime")) or 0,
        end_time=_integer(facts.get("endTime")),
        duration_ms=_number(facts.get("durationMs")),
        peak_bytes=_integer(facts.get("peakMemBytes")),
        size_bytes=size + _measure(folder)[0],
        event_files=event_files,
        folder=folder,
        metrics_dir=metrics_dir,
    )


def _unreadable(folder: Path) -> TaskSummary:
    """Return the summary of a task whose record cannot be read, so that it can be removed."""
    return TaskSummary(
        name=folder.name,
        task=folder.name,
        job="",
        node="",
        pipeline="",
        entry="",
        status=LOST,
        reason=None,
        start_time=0,
        end_time=None,
        duration_ms=None,
        peak_bytes=None,
        size_bytes=_measure(folder)[0],
        event_files=0,
        folder=folder,
        metrics_dir=None,
    )


def _metrics_dir(root: Path, facts: Mapping[str, object]) -> Path | None:
    """Return the task's run folder; None when the record names a folder outside runs/."""
    run = facts.get("metricsDir")
    if not isinstance(run, str) or not run.startswith("runs/") or ".." in run.split("/"):
        return None
    return root / run


def _remove(root: Path, summary: TaskSummary) -> None:
    """Remove the task's folders."""
    _remove_folders(root, summary.folder, summary.metrics_dir)


def remove_task(root: Path, name: str) -> None:
    """Remove the task with this folder below tasks/, and its metrics. Raises StoreError."""
    folder = root / "tasks" / name
    facts = read_json(str(folder / "task.json"))
    _remove_folders(root, folder, _metrics_dir(root, facts) if facts is not None else None)


def _remove_folders(root: Path, folder: Path, metrics_dir: Path | None) -> None:
    """Remove both. Metrics first: a task that is listed without them can be removed again."""
    try:
        if metrics_dir is not None and metrics_dir.is_symlink():
            metrics_dir.unlink()  # to a folder that the user has named, and keeps
            _remove_empty_parents(metrics_dir.parent, root / "runs")
        elif metrics_dir is not None and metrics_dir.exists():
            shutil.rmtree(metrics_dir)
            _remove_empty_parents(metrics_dir.parent, root / "runs")
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise StoreError(f"task {folder.name} cannot be removed completely: {error}") from error


def _remove_empty_parents(folder: Path, top: Path) -> None:
    while folder != top:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def _measure(folder: Path) -> tuple[int, int]:
    """Return the bytes on disk below the folder, and the number of event files; links are not followed."""
    size = event_files = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    below = _measure(Path(entry.path))
                    size, event_files = size + below[0], event_files + below[1]
                else:
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                    event_files += "tfevents" in entry.name
    except OSError:
        pass
    return size, event_files


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _integer(value: object) -> int | None:
    return round(value) if isinstance(value, (int, float)) else None


def _number(value: object) -> float | None:
    return value if isinstance(value, (int, float)) else None
