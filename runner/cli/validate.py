"""`hkrunner validate`: what a run would use, and whether the code can be loaded."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import click

from ..errors import HkrunnerError, SettingsError
from ..settings.from_options import settings_of
from ..settings.options import OPTIONS
from .click_options import Sections, complete_files

EPILOG = """\b
Exit status:
  0    a task can be run
  2    a bad option or descriptor
  3    the code was not found
  4    the code cannot be loaded or called, or a requirement is not installed
"""

_CHOSEN = [option for option in OPTIONS if option.in_validate]
_HELP = {"json": "Print what was found as one JSON object."}


def _validate(entry_argument: str | None, **values: Any) -> None:
    # Imported here to keep --help fast.
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
        one._replace(
            help=_HELP.get(one.name, one.help), group=one.group if one.group == "Limits" else "Algorithm"
        )
        for one in _CHOSEN
    ],
    help="Show what a run would use: code, descriptor, methods and their arguments, Python, missing "
    "packages.\n\n"
    "The code is imported as for a run, in a process of its own under the same limits. No task is run.",
    epilog=EPILOG,
)
