"""`hkrunner version`: the same as --version."""

from __future__ import annotations

import click

from ... import __version__
from .click_options import CONTEXT_SETTINGS


@click.command("version", context_settings=CONTEXT_SETTINGS, short_help="Print the version.")
def command() -> None:
    """Print the version, as --version does."""
    click.echo(f"hkrunner {__version__}")
