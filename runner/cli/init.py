"""`hkrunner init NAME`: a folder with an algorithm that runs at once."""

from __future__ import annotations

import os
import shlex
import sys

import click

from .click_options import CONTEXT_SETTINGS


@click.command(
    "init",
    context_settings=CONTEXT_SETTINGS,
    short_help="Make a folder with an algorithm to begin with.",
    epilog="\b\nExit status:\n  0    it is made\n  2    it cannot be: a file is there already, or a bad name",
)
@click.argument("name")
def command(name: str) -> None:
    """Make the folder NAME with an algorithm, its descriptor as hkubectl reads it, and .hkubeignore.

    It runs as it is. What is there already is never overwritten.
    """
    # Late, so that --help does not pay for it.
    from ..console.terminal import plain
    from .scaffold import make

    for path in make(os.path.abspath(os.path.expanduser(name))):
        click.echo(os.path.relpath(path))
    text = f"  run it:  cd {shlex.quote(name)} && hkrunner -i '[1, 2, 3]'"
    click.echo(plain(text, sys.stderr.encoding or "ascii"), err=True)
