"""`hkrunner doctor`: what this machine offers, and what to do about what it does not."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, replace

import click

from ..settings.options import OPTIONS
from .click_options import Sections

EPILOG = """\b
Exit status:
  0    all that is needed is there
  1    something that is needed is not
"""


def _doctor(*, json_wanted: bool, state_dir: str) -> None:
    # Late, so that --help does not pay for it.
    from ..console.terminal import plain
    from .doctor_checks import Place, all_needed, examine, summary

    findings = examine(Place(os.environ, os.path.abspath(state_dir)))
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
        replace(
            _OPTIONS["json"],
            name="json_wanted",
            help="Print the findings as one JSON object.",
            group="Doctor",
        ),
        replace(_OPTIONS["state_dir"], group="Doctor"),
    ],
    help="Look at what this machine offers: versions, limits and protection, proxies, ports, folders.\n\n"
    "One line a finding, with what to do about those that begin with ✘. Nothing is started, and nothing but "
    "a file that is gone at once is written.",
    epilog=EPILOG,
)
