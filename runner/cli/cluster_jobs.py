"""Jobs in clusters, as `hkrunner runs` lists, shows and follows them."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .board import STATE_DIR

if TYPE_CHECKING:
    from ...boards.runs.job_record import JobRecord


def job_line(job: JobRecord) -> str:
    """Return the line of `runs ls` about a job."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.submitted / 1000))
    took = f"{job.took_s:8.2f} s" if job.took_s is not None else "       … s"
    tasks = "1 task" if job.tasks == 1 else f"{job.tasks:,} tasks"
    what = f"job on {job.cluster}: {tasks} of {job.algorithm}"
    return f"{job.job or job.name:<12} {when}  {took}  {job.status:<9}  {what}"


def show_job(job: JobRecord, *, as_json: bool) -> None:
    """Print what is known here about a job."""
    if as_json:
        click.echo(json.dumps(job.facts()))
        return
    click.echo(job_line(job))
    click.echo(f"  pipeline {job.name}; hkrunner runs follow {job.job or job.name} prints the results")
    if job.error is not None:
        click.echo(f"  {job.error}")


def _follow(
    state_dir: str, job: str, as_json: bool, output_file: str | None, board: bool, open_it: bool
) -> None:
    from ...boards.runs.job_record import known_job
    from ..app.cluster_run import follow_job
    from ..settings.from_options import settings_of
    from ..settings.options import OPTIONS

    record = known_job(str(Path(state_dir).absolute()), job)
    values = {option.name: option.default for option in OPTIONS}
    # A run with an input is a local one: its results go to stdout, and nothing else does.
    values |= {"state_dir": state_dir, "json": as_json, "input": ("null",), "output_file": output_file}
    values |= {"board": board, "open": open_it}
    sys.exit(follow_job(settings_of(values, {}, finds_descriptor=False), record))


FOLLOW = click.Command(
    "follow",
    callback=_follow,
    help="Wait for a job in a cluster (run --on), and print its results. Ctrl-C leaves it running.",
    params=[
        click.Argument(["job"], metavar="JOB"),
        click.Option(["-j", "--json", "as_json"], is_flag=True, help="Print one JSON object per task."),
        click.Option(["-o", "--output-file"], metavar="FILE", help="Write the results to FILE, atomically."),
        click.Option(["--board"], is_flag=True, help="Have the cluster show the job in a board of its own."),
        click.Option(["--open", "open_it"], is_flag=True, help="Open the board in the browser."),
        STATE_DIR,
    ],
)
