"""Lists, shows, reads, repeats and removes the records of tasks (`hkrunner runs`).

A record is a folder, or a part of a journal (journal.py). Records are read from disk, where this hkrunner or
another may still be writing. A task whose record says "active" though the process that wrote it is gone is
"lost". Sizes are bytes on disk, metrics included.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import StoreError
from .event_files import Point, read_scalars
from .files import ProcessIdentity, integer_in, locked, number_in, read_json, safe_part
from .folders import measure, remove_folders
from .job_record import no_such_task
from .journal_reader import JournalReader, JournalTask, read_journals
from .layout import STREAMS
from .owner_lock import may_live

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
    folder: Path | None  # None: its record is in a journal
    metrics_dir: Path | None
    in_journal: JournalTask | None = None

    @property
    def is_active(self) -> bool:
        """Whether the task still runs."""
        return self.status == ACTIVE


@dataclass(frozen=True)
class TaskDetails:
    """What `runs show` prints: the summary, all of task.json, and the files by name with their sizes.

    input, output: as JSON, of a task that has no files; None where they were not kept. printed: bytes of each
    stream, whether in files or not.
    """

    summary: TaskSummary
    facts: Mapping[str, object]
    files: Mapping[str, int]
    input: bytes | None = None
    output: bytes | None = None
    printed: Mapping[str, int] = field(default_factory=dict)


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
    # First the journals: a task may be on its way from there to a folder.
    in_journals = read_journals(str(root))
    try:
        names = os.listdir(root / "tasks")
    except OSError:
        names = []
    found = [_summary(root, root / "tasks" / name) for name in names]
    summaries = [summary for summary in found if summary is not None]
    moved = {summary.name for summary in summaries}
    summaries += [_journal_summary(root, task) for name, task in in_journals.items() if name not in moved]
    return sorted(
        summaries,
        key=lambda summary: (summary.start_time, len(summary.name), summary.name),
    )


def show_task(root: Path, name: str) -> TaskDetails:
    """Return everything about one task. Raises NotFound, and StoreError for an unreadable record."""
    if (task := _find_in_journals(root, name)) is not None:
        one = _journal_summary(root, task)
        return TaskDetails(
            one,
            {**task.facts, "status": one.status},
            {},
            task.input_json(),
            task.output_json(),
            {stream: task.log_size(stream) for stream in STREAMS},
        )
    folder = task_folder(root, name)
    facts, summary = read_json(str(folder / "task.json")), _summary(root, folder)
    if facts is None or summary is None:
        raise StoreError(f"the record of task {name} cannot be read", hint=f"look into {folder}")
    files = {entry.name: entry.stat().st_size for entry in os.scandir(folder) if entry.is_file()}
    printed = {stream: files.get(f"{stream}.log", 0) for stream in STREAMS}
    return TaskDetails(
        summary, {**facts, "status": summary.status}, dict(sorted(files.items())), printed=printed
    )


def read_metrics(root: Path, name: str) -> list[Curve]:
    """Return the scalar series of a task, by run and tag, its resource usage included. Raises NotFound."""
    task = _find_in_journals(root, name)
    summary = _summary(root, task_folder(root, name)) if task is None else _journal_summary(root, task)
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
    size = number_in(large.get("input")) if isinstance(large, dict) else None
    if size is not None:
        raise StoreError(
            f"task {name} cannot be run again: its input of {size:,.0f} bytes was not recorded",
            hint="hkrunner records larger inputs with --keep-values",
        )
    try:
        data = details.input
        if data is None:
            data = (root / "tasks" / summary.name / "input.json").read_bytes()
        json.loads(data.decode())
    except FileNotFoundError:
        raise StoreError(f"task {name} cannot be run again: its input was not recorded") from None
    except (OSError, ValueError, RecursionError) as error:
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
    with locked(str(root)):
        return _remove_tasks(root, names)


def _remove_tasks(root: Path, names: Iterable[str]) -> Removed:
    summaries, in_journals = [], []
    journals = JournalReader(str(root))
    journals.refresh()
    known = journals.tasks()
    for name in dict.fromkeys(names):
        task = known.get(safe_part(name)) or known.get(name)
        if task is not None:
            in_journals.append(task)
            summary = _journal_summary(root, task)
        else:
            folder = task_folder(root, name)
            summary = _summary(root, folder) or _unreadable(folder)
        if summary.is_active:
            raise StoreError(f"task {name} is still running", hint="stop it first")
        summaries.append(summary)
    for summary in summaries:
        _remove(root, summary)
    try:
        journals.remove(in_journals)
    except OSError as error:
        raise StoreError(f"tasks cannot be removed from the journal: {error}") from error
    return Removed(
        tuple(summary.name for summary in summaries), sum(summary.size_bytes for summary in summaries)
    )


def keep_latest(root: Path, count: int) -> Removed:
    """Remove all records but the latest `count` (`--keep`); those of running tasks are never removed.

    Takes 100 µs a removed task, so it runs at the end of a run or between tasks.
    """
    with locked(str(root)):  # another run that ends just now would remove the same ones
        tasks = list_tasks(root)
        surplus = tasks[: max(0, len(tasks) - max(0, count))]
        return _remove_tasks(root, [summary.name for summary in surplus if not summary.is_active])


def read_facts(root: Path, name: str) -> Mapping[str, object] | None:
    """Return what the record of the task says, as task.json does; None when there is none."""
    facts = read_json(str(root / "tasks" / safe_part(name) / "task.json"))
    if facts is None and (task := _find_in_journals(root, name)) is not None:
        return task.facts
    return facts


def _find_in_journals(root: Path, name: str) -> JournalTask | None:
    """Return the task of this name or id, unless it has a folder."""
    if not os.path.isdir(root / "journal") or os.path.exists(root / "tasks" / safe_part(name) / "task.json"):
        return None
    found = read_journals(str(root))
    return found.get(safe_part(name)) or found.get(name)


def task_folder(root: Path, name: str) -> Path:
    """Return the folder of the task with this id or name. Raises NotFound."""
    folder = root / "tasks" / safe_part(name)
    if not os.path.isdir(folder):  # Path.is_dir() raises errors, as for a name of 300 characters
        # The name may be a folder's, as `runs ls` shows it.
        listed = root / "tasks" / name
        if not name or "/" in name or name in (".", "..") or not os.path.isdir(listed):
            raise no_such_task(root, name)
        return listed
    return folder


def _summary(root: Path, folder: Path) -> TaskSummary | None:
    """Return the task as it is now; None when its record cannot be read."""
    path = str(folder / "task.json")
    facts = read_json(path) or read_json(path)  # again: TaskRecord.finish may be overwriting it
    if facts is None:
        return None
    return _summary_of(root, folder.name, facts, measure(folder)[0], folder)


def _journal_summary(root: Path, task: JournalTask) -> TaskSummary:
    return replace(_summary_of(root, task.name, task.facts, task.size_bytes), in_journal=task)


def _summary_of(
    root: Path, name: str, facts: Mapping[str, object], own_bytes: int, folder: Path | None = None
) -> TaskSummary:
    metrics_dir = metrics_folder(root, facts)
    size, event_files = measure(metrics_dir) if metrics_dir is not None else (0, 0)
    return TaskSummary(
        name=name,
        task=str(facts.get("taskId", name)),
        job=str(facts.get("jobId", "")),
        node=str(facts.get("nodeName", "")),
        pipeline=str(facts.get("pipelineName", "")),
        entry=str(facts.get("entry", "")),
        status=status_of(facts, root),
        reason=_text(facts.get("reason")),
        start_time=integer_in(facts.get("startTime")) or 0,
        end_time=integer_in(facts.get("endTime")),
        duration_ms=number_in(facts.get("durationMs")),
        peak_bytes=integer_in(facts.get("peakMemBytes")),
        size_bytes=size + own_bytes,
        event_files=event_files,
        folder=folder,
        metrics_dir=metrics_dir,
    )


def status_of(facts: Mapping[str, object], root: str | Path) -> str:
    """Return the status of a record: one that says "active" is LOST if its process is gone."""
    status = str(facts.get("status"))
    owner = ProcessIdentity.from_dict(facts.get("owner"))
    return LOST if status == ACTIVE and owner is not None and not may_live(owner, str(root)) else status


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
        size_bytes=measure(folder)[0],
        event_files=0,
        folder=folder,
        metrics_dir=None,
    )


def metrics_folder(root: Path, facts: Mapping[str, object]) -> Path | None:
    """Return the task's run folder; None when the record names none, or one outside runs/."""
    run = facts.get("metricsDir")
    if not isinstance(run, str) or not run.startswith("runs/") or ".." in run.split("/"):
        return None
    return root / run


def _remove(root: Path, summary: TaskSummary) -> None:
    """Remove the task's folders."""
    remove_folders(root, root / "tasks" / summary.name, summary.metrics_dir)


def remove_task(root: Path, name: str) -> None:
    """Remove the task with this folder below tasks/, and its metrics. Raises StoreError."""
    folder = root / "tasks" / name
    facts = read_json(str(folder / "task.json"))
    remove_folders(root, folder, metrics_folder(root, facts) if facts is not None else None)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
