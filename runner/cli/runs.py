"""`hkrunner runs`: the records of tasks that have run."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import SettingsError
from .board import STATE_DIR, ErrorReportingGroup
from .cluster_jobs import FOLLOW, job_line, show_job

if TYPE_CHECKING:
    from ...boards.runs.compared_tasks import ComparedTask
    from ...boards.runs.history import TaskSummary
    from ...boards.runs.task_values import Scalar

#: An input or result up to this size is shown beside the name of its file.
SHOWN_BYTES = 1000


def _root(state_dir: str) -> Path:
    return Path(state_dir).absolute()


def _ls(state_dir: str, as_json: bool, sort: str | None, where: str | None) -> None:
    from ...boards.runs.compared_tasks import compare_tasks
    from ...boards.runs.history import list_tasks
    from ...boards.runs.job_record import recorded_jobs

    root = _root(state_dir)
    recorded = list_tasks(root)
    tasks = _chosen(compare_tasks(root, recorded), sort=sort, where=where)
    jobs = recorded_jobs(str(root)) if sort is None and where is None else []
    if as_json:
        for one in tasks:
            _print_json(_compared_facts(one))
        for job in jobs:
            _print_json(job.facts())
        return
    if not recorded and not jobs:
        click.echo(f"no tasks are recorded in {state_dir}", err=True)
    elif recorded and not tasks:
        click.echo(f"none of {len(recorded)} tasks matches", err=True)
    for line in _lines(tasks):
        click.echo(line)
    for job in jobs:
        click.echo(job_line(job))


def _chosen(tasks: list[ComparedTask], *, sort: str | None, where: str | None) -> list[ComparedTask]:
    """Return the tasks that --where and --sort ask for, in that order. Raises SettingsError."""
    from ...boards.runs.task_filter import Condition, FilterError, check_keys

    try:
        if where is not None:
            condition = Condition.parse(where)
            check_keys(condition.keys, [one.by_key for one in tasks])
            chosen = [one for one in tasks if condition.holds(one.by_key)]
        else:
            chosen = tasks
        if sort is None:
            return chosen
        key = sort.removeprefix("-")
        check_keys([key], [one.by_key for one in tasks])
    except FilterError as error:
        raise SettingsError(str(error)) from None
    return _sorted(chosen, key, is_reversed=sort.startswith("-"))


def _sorted(tasks: list[ComparedTask], key: str, *, is_reversed: bool) -> list[ComparedTask]:
    """Return the tasks by this value: numbers before text, and last those without the value or with NaN."""
    numbers, texts, others = [], [], []
    for one in tasks:
        value = one.by_key.get(key)
        if isinstance(value, str):
            texts.append((value, one))
        elif value is None or value != value:
            others.append(one)
        else:
            numbers.append((value, one))
    parts = [
        [one for _, one in sorted(part, key=lambda pair: pair[0], reverse=is_reversed)]
        for part in (numbers, texts)
    ]
    return [*parts[0], *parts[1], *others]


def _lines(tasks: list[ComparedTask]) -> list[str]:
    from ...boards.runs.compared_tasks import last_values

    metrics = last_values(tasks)
    name_width = max([12, *(len(one.run) for one in tasks)])
    metrics_width = max([0, *map(len, metrics)])
    return [
        _line(one.summary, f"{one.run:<{name_width}}", f"{shown:<{metrics_width}}  " if metrics_width else "")
        for one, shown in zip(tasks, metrics, strict=True)
    ]


def _line(one: TaskSummary, name: str = "", metrics: str = "") -> str:
    from ...boards.runs.task_values import printable
    from ...sandbox.shared.limits import format_bytes

    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.start_time / 1000))
    took = f"{one.duration_ms / 1000:8.2f} s" if one.duration_ms is not None else "       … s"
    peak = format_bytes(one.peak_bytes) if one.peak_bytes else "-"
    status = printable(one.status if one.reason is None else f"{one.status} ({one.reason})")
    place = printable(f"{one.pipeline}/{one.node}")
    files = "event file" if one.event_files == 1 else "event files"
    events = f"  {one.event_files} {files}" if one.event_files else ""
    return (
        f"{name or one.name:<12} {when}  {took}  {peak:>9}  {status:<23} {metrics}{place}"
        f"  {format_bytes(one.size_bytes)}{events}"
    )


def _facts(one: TaskSummary) -> dict[str, Any]:
    return {
        "name": one.name,
        "taskId": one.task,
        "jobId": one.job,
        "nodeName": one.node,
        "pipelineName": one.pipeline,
        "entry": one.entry,
        "status": one.status,
        "reason": one.reason,
        "startTime": one.start_time,
        "endTime": one.end_time,
        "durationMs": one.duration_ms,
        "peakMemBytes": one.peak_bytes,
        "sizeBytes": one.size_bytes,
        "eventFiles": one.event_files,
        "folder": str(one.folder) if one.folder else None,
        "metricsDir": str(one.metrics_dir) if one.metrics_dir else None,
    }


def _compared_facts(one: ComparedTask) -> dict[str, Any]:
    values = one.values
    return {
        **_facts(one.summary),
        "run": one.run,
        "input": _finite(values.inputs),
        "output": _finite(values.output),
        "metrics": _finite(values.metrics),
    }


def _finite(values: Mapping[str, Scalar]) -> dict[str, Scalar | None]:
    """Return the values with null for what JSON has no number for: NaN and the infinities."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }


def _print_json(value: object) -> None:
    click.echo(json.dumps(value))


def _show(state_dir: str, task: str, as_json: bool) -> None:
    from ...boards.runs.history import show_task
    from ...boards.runs.job_record import recorded_job
    from ...boards.runs.task_values import json_value, printable

    job = recorded_job(str(_root(state_dir)), task)
    if job is not None:
        show_job(job, as_json=as_json)
        return
    details = show_task(_root(state_dir), task)
    if as_json:
        found = {"input": json_value(details.input), "output": json_value(details.output)}
        kept = {name: value[0] for name, value in found.items() if value is not None}
        _print_json({**details.facts, **kept, "files": dict(details.files)})
        return
    click.echo(_line(details.summary))
    error = details.facts.get("error")
    if isinstance(error, dict):
        click.echo(str(error.get("message")))
    if details.summary.folder is not None:
        for name, size in details.files.items():
            click.echo(f"  {details.summary.folder / name}  {_bytes(size)}")
    else:
        for stream, size in details.printed.items():
            if size:
                click.echo(f"  {stream}: {_bytes(size)}, see `hkrunner runs logs {details.summary.name}`")
    for name, recorded in (("input", details.input), ("output", details.output)):
        data = recorded if details.summary.folder is None else _small(details.summary.folder / f"{name}.json")
        if data is not None:
            click.echo(f"  {name}: {printable(data.decode('utf-8', 'replace'))}")


def _bytes(size: int) -> str:
    return "1 byte" if size == 1 else f"{size:,} bytes"


def _small(file: Path) -> bytes | None:
    """Return the content of a file that is short enough to be shown, without the end of its line."""
    try:
        return file.read_bytes().rstrip() if file.stat().st_size <= SHOWN_BYTES else None
    except OSError:
        return None


def _logs(state_dir: str, task: str, stderr: bool, stdout: bool, follow: bool) -> None:
    from ...boards.runs.task_output import TaskOutput

    output = TaskOutput(_root(state_dir), task)
    streams = [name for name, asked in (("stdout", stdout), ("stderr", stderr)) if asked] or [
        "stdout",
        "stderr",
    ]
    offsets = dict.fromkeys(streams, 0)
    open_streams = list(streams)
    while open_streams:
        quiet = True
        for stream in list(open_streams):
            part = output.read(stream, offset=offsets[stream])
            offsets[stream] = part.next_offset
            target = sys.stdout if stream == "stdout" else sys.stderr
            if part.data:
                quiet = False
                target.buffer.write(part.data)
                target.buffer.flush()
            if part.is_final or (not follow and not part.data):
                open_streams.remove(stream)
        if open_streams and quiet:
            # A file has no event for its growth that every file system supports: poll, as tail -f does.
            time.sleep(0.2)


def _metrics(state_dir: str, task: str, as_json: bool) -> None:
    from ...boards.runs.history import read_metrics
    from ...boards.runs.task_values import printable

    curves = read_metrics(_root(state_dir), task)
    if not curves and not as_json:
        click.echo(f"task {task} has no metrics: it wrote no event files to ALGO_METRICS_DIR", err=True)
    for one in curves:
        if as_json:
            points = [[point.step, point.value] for point in one.points]
            _print_json({"run": one.run, "tag": one.tag, "points": points})
        else:
            count = "1 point" if len(one.points) == 1 else f"{len(one.points)} points"
            # The runs "." (the task's own folder) and "resources" need no name: their tags are distinct.
            name = one.tag if one.run in (".", "resources") else f"{one.run}/{one.tag}"
            click.echo(
                f"{printable(name)}: last {one.last.value:g} at step {one.last.step}, "
                f"lowest {one.lowest:g}, highest {one.highest:g}, {count}"
            )


def settings_of_task(state_dir: str, task: str) -> tuple[dict[str, Any], str]:
    """Return the option values that a task ran with, and its input as JSON. Raises SettingsError."""
    from ...boards.errors import BoardError
    from ...boards.runs.history import repeat_of

    try:
        one = repeat_of(_root(state_dir), task)
    except BoardError as error:
        raise SettingsError(str(error)) from None
    settings = dict(one.settings)
    if not (settings.get("entry") or settings.get("command")):
        raise SettingsError(f"task {task} cannot be run again: its settings were not recorded")
    files = settings.get("env_file")
    if isinstance(files, list):
        passed = [one for one in files if one.startswith(("/dev/fd/", "/proc/"))]
        settings["env_file"] = [one for one in files if one not in passed]
        if passed:
            # hkrunner.run(env=…) passes its variables so: they may be secrets, and are not recorded.
            click.echo(
                f"hkrunner: task {task} had variables that were not recorded: set them with --env", err=True
            )
    return settings, one.input.decode()


def _again(state_dir: str, task: str, arguments: tuple[str, ...]) -> None:
    from .main import main_with

    main_with(["run", "--again", task, "--state-dir", state_dir, *arguments])


def _rm(state_dir: str, tasks: tuple[str, ...], keep: int | None) -> None:
    from ...boards.runs.history import keep_latest, remove_tasks
    from ...boards.runs.job_record import recorded_job
    from ...sandbox.shared.limits import format_bytes

    if not tasks and keep is None:
        raise SettingsError(
            "no tasks given: name some (hkrunner runs ls), or use --keep N to keep the latest"
        )
    root = _root(state_dir)
    jobs = {name: job for name in tasks if (job := recorded_job(str(root), name)) is not None}
    names = [name for name in tasks if name not in jobs]
    removed = [remove_tasks(root, names)] if names else []
    if keep is not None:
        removed.append(keep_latest(root, keep))
    for job in jobs.values():
        job.remove(str(root))
        click.echo(f"the record of job {job.job or job.name} removed; what is in the cluster stays", err=True)
    if not removed:
        return
    count = sum(len(one.names) for one in removed)
    freed = format_bytes(sum(one.freed_bytes for one in removed))
    click.echo(f"{count} {'task' if count == 1 else 'tasks'} removed, {freed} freed", err=True)


_TASK = click.Argument(["task"], metavar="TASK")
_JSON = click.Option(["-j", "--json", "as_json"], is_flag=True, help="Print JSON.")

command = ErrorReportingGroup(
    "runs",
    reported_as=SettingsError,
    help="List, show, repeat and remove recorded tasks.",
    commands=[
        click.Command(
            "ls",
            callback=_ls,
            help="List recorded tasks, the latest last, and then jobs in clusters.\n\n"
            "KEY is an input, a number of the output, a metric, or "
            "one of name, status, reason, node, job, pipeline, started, duration, peak and size.",
            params=[
                click.Option(
                    ["--where"],
                    metavar="CONDITION",
                    help="List only tasks that match, for example: 'loss < 0.3 and status = succeed'.",
                ),
                click.Option(
                    ["--sort"], metavar="KEY", help="Sort by this value; -KEY lists the highest first."
                ),
                _JSON,
                STATE_DIR,
            ],
        ),
        click.Command(
            "show",
            callback=_show,
            help="Show everything about one task or job.",
            params=[_TASK, _JSON, STATE_DIR],
        ),
        FOLLOW,
        click.Command(
            "logs",
            callback=_logs,
            help="Print the output of a task.",
            params=[
                _TASK,
                click.Option(["--stdout"], is_flag=True, help="Print only stdout."),
                click.Option(["--stderr"], is_flag=True, help="Print only stderr."),
                click.Option(["-f", "--follow"], is_flag=True, help="Print new output until the task ends."),
                STATE_DIR,
            ],
        ),
        click.Command(
            "metrics",
            callback=_metrics,
            help="Print the scalars of a task, its resource usage included.",
            params=[_TASK, _JSON, STATE_DIR],
        ),
        click.Command(
            "again",
            callback=_again,
            help="Run a task again with the same code, input and limits. Options of `run` may follow.",
            params=[_TASK, click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED), STATE_DIR],
            context_settings={"ignore_unknown_options": True},
        ),
        click.Command(
            "rm",
            callback=_rm,
            help="Remove tasks and their metrics, and the records of jobs.",
            params=[
                click.Argument(["tasks"], nargs=-1, metavar="[TASKS]..."),
                click.Option(
                    ["--keep"], type=click.IntRange(0), metavar="N", help="Remove all but the latest N tasks."
                ),
                STATE_DIR,
            ],
        ),
    ],
)
