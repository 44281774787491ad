"""`hkrunner validate`: what there is to run, and whether it can be loaded, without a task."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from typing import Any

import click

from ..errors import HkrunnerError, SettingsError
from ..settings.from_options import settings_of
from ..settings.options import OPTIONS
from .click_options import Sections, complete_files

EPILOG = """\b
Exit status:
  0    it can be run
  2    a bad option or descriptor
  3    no such code
  4    the code cannot be loaded, or cannot be called
"""

_CHOSEN = [option for option in OPTIONS if option.in_validate]
_HELP = {"json": "Print what was found as one JSON object."}


def _validate(entry_argument: str | None, **values: Any) -> None:
    # Late, so that --help does not pay for it.
    from ..app.validate import lines, refused, validate
    from ..console.terminal import plain

    try:
        if entry_argument is not None:
            if click.get_current_context().get_parameter_source("entry") is _COMMANDLINE:
                raise SettingsError(f"two entries: {entry_argument} and --entry {values['entry']}; give one")
            values["entry"] = entry_argument
        missing = {option.name: option.default for option in OPTIONS if option.name not in values}
        found = validate(settings_of({**missing, **values}, os.environ), os.environ)
    except HkrunnerError as error:
        if not values["json"]:
            raise
        found = refused(error)
    if values["json"]:
        click.echo(json.dumps(found.facts()))
    else:
        encoding = sys.stdout.encoding or "ascii"
        for line in lines(found):
            click.echo(plain(line, encoding).encode(encoding, "backslashreplace"))
    sys.exit(found.status)


_COMMANDLINE = click.core.ParameterSource.COMMANDLINE

command = Sections(
    "validate",
    callback=_validate,
    params=[
        click.Argument(["entry_argument"], required=False, metavar="[ENTRY]", shell_complete=complete_files)
    ],
    options=[
        replace(
            one, help=_HELP.get(one.name, one.help), group=one.group if one.group == "Limits" else "Algorithm"
        )
        for one in _CHOSEN
    ],
    help="Tell what would be run: code, descriptor, methods and what they are called with, Python, imports "
    "that are missing.\n\n"
    "The code is imported as for a run, in a process of its own below its limits; no task is run.",
    epilog=EPILOG,
)
