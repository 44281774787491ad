"""`hkrunner report`: a page about recorded tasks."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from ..errors import HkrunnerError, SettingsError
from .board import STATE_DIR


def _report(tasks: tuple[str, ...], all_tasks: bool, output: str, state_dir: str) -> None:
    from ...boards.errors import BoardError
    from ...boards.runs.files import write_all
    from ...boards.runs.history import list_tasks
    from ..app.report import report_page
    from ..console.output_file import OutputFile

    root = Path(state_dir).absolute()
    try:
        names = [one.name for one in list_tasks(root)] if all_tasks else list(dict.fromkeys(tasks))
        if not names:
            told = f"no tasks are recorded in {state_dir}" if all_tasks else "no tasks given"
            raise SettingsError(f"{told}: name some (hkrunner runs ls), or use --all")
        page = report_page(root, names).encode()
    except BoardError as error:
        raise SettingsError(str(error)) from None
    if output == "-":
        sys.stdout.buffer.write(page)
        return
    file = OutputFile(output, os.getcwd(), "--output")
    try:
        write_all(file.fd, page)
        file.commit()
    except OSError as error:
        file.discard()
        raise HkrunnerError(f"{output} cannot be written: {error.strerror}") from None
    count = "1 task" if len(names) == 1 else f"{len(names)} tasks"
    click.echo(f"{output}: {count}, {max(1, len(page) // 1024)} KiB", err=True)


command = click.Command(
    "report",
    callback=_report,
    help="Write a page about tasks: how they compare, their curves, inputs, results, errors, limits and the "
    "end of their output.\n\nIt is one HTML file without scripts, which needs no network.",
    params=[
        click.Argument(["tasks"], nargs=-1, metavar="[TASKS]..."),
        click.Option(["--all", "all_tasks"], is_flag=True, help="Report all recorded tasks."),
        click.Option(
            ["-o", "--output"],
            default="report.html",
            show_default=True,
            metavar="FILE",
            help="File to write, which is replaced; - for stdout.",
        ),
        STATE_DIR,
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)
