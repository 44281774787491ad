"""`hkrunner doctor`: what this machine provides, with a remedy for what is missing."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict

import click

from ..settings.options import OPTIONS
from .click_options import Sections

EPILOG = """\b
Exit status:
  0    everything that is needed is there, whatever is marked ◌
  1    something that is needed is missing: a line with ✘
"""


def _doctor(*, json_wanted: bool, state_dir: str) -> None:
    # Imported here to keep --help fast.
    from ..console.terminal import plain
    from .doctor_checks import all_needed, examine, summary
    from .doctor_finding import Machine

    findings = examine(Machine(os.environ, os.path.abspath(state_dir)))
    if json_wanted:
        click.echo(json.dumps({"ok": all_needed(findings), "findings": [asdict(one) for one in findings]}))
    else:
        for line in (*(one.line() for one in findings), summary(findings)):
            encoding = sys.stdout.encoding or "ascii"
            click.echo(plain(line, encoding).encode(encoding, "backslashreplace"))
    sys.exit(0 if all_needed(findings) else 1)


_OPTIONS = {option.name: option for option in OPTIONS}

command = Sections(
    "doctor",
    callback=_doctor,
    options=[
        _OPTIONS["json"]._replace(
            name="json_wanted",
            help="Print the findings as one JSON object.",
            group="Doctor",
        ),
        _OPTIONS["state_dir"]._replace(group="Doctor"),
    ],
    help="Check this machine: versions, how limits are enforced, protection, proxies, ports, folders.\n\n"
    "One line for each finding, with the remedy where something is wrong: ✘ marks what no run or board can "
    "do without, ◌ what is optional. Some steps are tried in processes that are thrown away; only temporary "
    "files are written.",
    epilog=EPILOG,
)
