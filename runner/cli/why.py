"""`hkrunner why --path P`: whether --sandbox strict allows it, and by which rule."""

from __future__ import annotations

import json
import os
import sys

import click

from ..errors import SettingsError
from ..settings.from_options import settings_of
from .click_options import CONTEXT_SETTINGS

EPILOG = """\b
Examples:
  hkrunner why --path /etc/shadow my_alg.py
  hkrunner why --path data my_alg.py --read data
  hkrunner why --net db:5432 -- --net db:5432 -e my_alg.py

\b
Exit status:
  0    everything asked for is allowed; of a path: to read it
  1    something is not
  2    a bad option
  3    the code was not found
"""


@click.command(
    "why",
    context_settings={**CONTEXT_SETTINGS, "allow_interspersed_args": False},
    short_help="Say what --sandbox strict allows, and by which rule.",
    epilog=EPILOG,
)
@click.option("--path", "paths", multiple=True, metavar="PATH", help="A file or a folder; repeatable.")
@click.option(
    "--net", "addresses", multiple=True, metavar="HOST:PORT", help="Where to connect to; repeatable."
)
@click.option("--json", "json_wanted", is_flag=True, help="Print a JSON object for each of them.")
@click.argument("run", nargs=-1, type=click.UNPROCESSED, metavar="[ENTRY | --] [OPTIONS OF run]")
def command(
    paths: tuple[str, ...], addresses: tuple[str, ...], run: tuple[str, ...], *, json_wanted: bool
) -> None:
    """Say whether the code may read and write a path, or connect to an address, with --sandbox strict.

    The options of `hkrunner run` follow the entry, or `--`. Nothing is started.
    """
    # Imported here to keep --help fast.
    from ...sandbox.shared.net_target import net_target
    from ..console.terminal import plain
    from ..prepare.sandbox_reasons import SandboxReasons
    from .run import values_of

    if (not paths and not addresses) or "" in paths:
        raise SettingsError("hkrunner why wants --path PATH or --net HOST:PORT, before the entry")
    try:
        targets = [net_target(one) for one in addresses]
    except ValueError as error:
        raise SettingsError(f"--net wants HOST:PORT: {error}") from None
    values = values_of(run)
    if values.get("sandbox") is None:
        values["sandbox"] = "strict"
    settings = settings_of(values, os.environ)
    if settings.sandbox is None:
        raise SettingsError("with --sandbox basic the code may do what you may do")
    reasons = SandboxReasons(settings, os.environ)
    found = [(os.path.abspath(one), os.path.lexists(one), reasons.of_path(one)) for one in paths]
    found += [(str(one), True, [reasons.of_target(one)]) for one in targets]
    encoding = sys.stdout.encoding or "ascii"
    for subject, is_there, answers in found:
        if json_wanted:
            facts = {"subject": subject, "exists": is_there, "answers": [one.facts() for one in answers]}
            click.echo(json.dumps(facts))
            continue
        lines = [subject if is_there else f"{subject} (there is no such file)"]
        for one in answers:
            opens = f"; {one.option} opens it" if one.option else ""
            lines.append(f"  {one.action:<9}{'yes' if one.is_allowed else 'no':<5}{one.rule}{opens}")
        for line in lines:
            click.echo(plain(line, encoding).encode(encoding, "backslashreplace"))
    sys.exit(0 if all(answers[0].is_allowed for _, _, answers in found) else 1)
