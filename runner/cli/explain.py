"""`hkrunner explain CODE`: what an error code means, and what to do."""

from __future__ import annotations

import difflib
import shutil
import sys
import textwrap
from collections.abc import Iterable

import click

from ..errors import SettingsError
from .click_options import CONTEXT_SETTINGS


@click.command(
    "explain",
    context_settings=CONTEXT_SETTINGS,
    short_help="Say what an error code means, and what to do.",
    epilog="\b\nExit status:\n  0    it is known\n  2    it is not",
)
@click.argument("code", required=False)
def command(code: str | None) -> None:
    """Say what the error code CODE means, what to do about it, and what exit status it leads to.

    CODE may be an exit status (137) or a word (oom, memory). Without it, list all of them.
    """
    from ..console.terminal import plain
    from ..protocol.error_codes import CODES, codes_about, meaning_of_status

    encoding = sys.stdout.encoding or "ascii"
    width = min(shutil.get_terminal_size().columns, 100)

    def say(text: str) -> None:
        click.echo(plain(text, encoding).encode(encoding, "backslashreplace"))

    def list_them(names: Iterable[str]) -> None:
        for name in names:
            shown = textwrap.shorten(CODES[name].meaning, max(width - 21, 30), placeholder=" …")
            say(f"{name:<21}{shown}")

    if code is None:
        list_them(CODES)
        return
    name = code.strip(":").upper()
    about = [] if name in CODES else codes_about(code)
    status = meaning_of_status(int(code)) if code.isdigit() else None
    if status is not None:
        say(f"exit status {code}: {status}")
        list_them(about)
        return
    if len(about) > 1:
        list_them(about)
        return
    if about:
        name = about[0]
    found = CODES.get(name)
    if found is None:
        near = difflib.get_close_matches(name, CODES, n=1)
        hint = f" Did you mean {near[0]}?" if near else " All of them: hkrunner explain"
        raise SettingsError(f"there is no error code {code!r}.{hint}")
    say(name)
    for title, text in (
        ("what", found.meaning),
        ("do", found.remedy),
        ("then", found.then),
        ("--json", f"reason {found.reason}"),
        ("exits", f"with {found.exit_status}, if it was the only task"),
    ):
        # Two columns that a long line does not leave.
        say(textwrap.fill(text, width, initial_indent=f"  {title:<8}", subsequent_indent=" " * 10))
