"""`hkrunner init NAME`: create a folder with an algorithm that runs as it is."""

from __future__ import annotations

import os
import shlex
import sys

import click

from ..errors import SettingsError
from .click_options import CONTEXT_SETTINGS


@click.command(
    "init",
    context_settings=CONTEXT_SETTINGS,
    short_help="Create a folder with a first algorithm.",
    epilog="\b\nExit status:\n  0    created\n  2    a file exists already, or the name is not valid",
)
@click.argument("name")
def command(name: str) -> None:
    """Create the folder NAME with an algorithm, its descriptor in hkubectl's format, and .hkubeignore.

    The algorithm runs as it is. Existing files are never overwritten.
    """
    # Imported here to keep --help fast.
    from ..console.terminal import plain
    from .scaffold import make

    if not name:
        raise SettingsError("init wants the name of a folder, not ''")
    for path in make(os.path.abspath(os.path.expanduser(name))):
        click.echo(os.path.relpath(path))
    text = f"  run it:  cd {shlex.quote(name)} && hkrunner -i '[1, 2, 3]'"
    click.echo(plain(text, sys.stderr.encoding or "ascii"), err=True)
