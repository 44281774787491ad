"""`hkrunner compare`: a job in a cluster beside tasks that ran here."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import BoardFailed, SettingsError
from ..settings.apply_options import ON
from ..settings.cluster_options import LOCAL
from .board import STATE_DIR, show_target
from .click_options import parameter

if TYPE_CHECKING:
    from ..app.compare import ComparedRow, Comparison
    from ..cluster.api import ClusterApi

#: Tasks of the job that the table shows; --json has all of them.
SHOWN_MAX = 20


def _compare(
    job: str, tasks: tuple[str, ...], on: str | None, as_json: bool, board: bool, state_dir: str
) -> None:
    # Imported here to keep --help fast.
    from ...boards.errors import BoardError
    from ...boards.runs.job_record import recorded_job
    from ..app.compare import compare
    from ..cluster.address import cluster_of
    from ..cluster.api import ClusterApi
    from ..console.terminal import plain

    def tell(line: str) -> None:
        click.echo(plain(line, sys.stderr.encoding or "ascii"), err=True)

    root = str(Path(state_dir).absolute())
    record = recorded_job(root, job)
    on = on if record is None else record.cluster
    if on in (None, LOCAL):
        raise SettingsError(
            f"no job {job} is recorded in {state_dir}: name the cluster that has it with --on"
        )
    if record is not None and record.job is None:
        raise SettingsError(f"the id of job {job} is not known yet: hkrunner runs follow {job} finds it")
    api = ClusterApi(cluster_of(str(on), os.environ, os.getcwd()), on_trouble=tell)
    known = (job, None) if record is None or record.job is None else (record.job, record.algorithm)
    try:
        found = compare(api, root, known[0], tasks, algorithm=known[1])
    except BoardError as error:  # a task that is not recorded here
        raise SettingsError(str(error)) from None
    try:
        url = _board(api, root, found, tasks, tell) if board else None
    except BoardError as error:
        raise BoardFailed(str(error)) from None
    if as_json:
        click.echo(json.dumps({**found.facts(), "board": url}))
        return
    for line in table(found.rows):
        click.echo(line)
    for note in found.notes():
        tell(f"● {note}")
    if url is not None:
        click.echo(f"● board  {url}")


def _board(api: ClusterApi, root: str, found: Comparison, tasks: Sequence[str], tell: Any) -> str | None:
    """Fetch the metrics, start a board of all tasks, and return its address; None if none has metrics."""
    from ...boards.targets import pick_of_runs, task_target
    from ..app.compare import METRICS_TASKS_MAX, fetch_metrics

    fetched = fetch_metrics(api, root, found)
    if fetched.left:
        tell(f"● metrics of {METRICS_TASKS_MAX} tasks are fetched; {fetched.left:,} more tasks have some")
    if not fetched.folders:
        tell(f"● no task of job {found.job} has metrics in {found.cluster}")
    local = [task_target(Path(root), one).log_dir for one in tasks]
    if not local and not fetched.folders:
        return None
    return show_target(root, pick_of_runs(Path(root), [*fetched.folders, *local]))


def table(rows: Sequence[ComparedRow]) -> list[str]:
    """Return the lines of the table; of the tasks in the cluster the first SHOWN_MAX."""
    from ..app.compare import HERE

    there = [one for one in rows if one.where != HERE]
    shown = [*there[:SHOWN_MAX], *(one for one in rows if one.where == HERE)]
    cells = [("TASK", "WHERE", "NODE", "DURATION", "PEAK MEMORY", "CPU", "OUTCOME"), *map(_cells, shown)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    right = (3, 5)
    lines = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    if len(there) > SHOWN_MAX:
        more = f"… and {len(there) - SHOWN_MAX:,} more tasks there, which --json has"
        lines.insert(SHOWN_MAX + 1, more)
    return lines


def _cells(one: ComparedRow) -> tuple[str, ...]:
    from ...sandbox.shared.limits import format_bytes

    peak = "?" if one.peak_bytes is None else format_bytes(one.peak_bytes)
    memory = peak if one.limit_bytes is None else f"{peak} of {format_bytes(one.limit_bytes)}"
    return (
        one.task,
        one.where,
        one.node if one.batch_index is None else f"{one.node} {one.batch_index}",
        "…" if one.duration_ms is None else f"{one.duration_ms / 1000:.2f} s",
        memory,
        "?" if one.cpu_s is None else f"{one.cpu_s:.2f} s",
        one.status if one.code is None else f"{one.status} ({one.code})",
    )


command = click.Command(
    "compare",
    callback=_compare,
    help="Show a job in a cluster beside tasks that ran here: duration, memory and limit, CPU, outcome.\n\n"
    "JOB is one of `run --on`, or any job of the cluster that --on names. HKube's API has neither the memory"
    " nor the CPU of a task there; the limit is that of the version that ran.",
    params=[
        click.Argument(["job"], metavar="JOB"),
        click.Argument(["tasks"], nargs=-1, metavar="[TASKS]..."),
        parameter(ON),
        click.Option(
            ["-j", "--json", "as_json"], is_flag=True, help="Print one JSON object, with all tasks."
        ),
        click.Option(
            ["--board"],
            is_flag=True,
            help="Fetch the metrics of the job's first 20 tasks, and show all tasks in one board.",
        ),
        STATE_DIR,
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)
