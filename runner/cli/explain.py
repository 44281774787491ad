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
    short_help="Explain an error code or an exit status, and what to do.",
    epilog="\b\nExit status:\n  0    the code is known\n  2    there is no such code",
)
@click.argument("code", required=False)
def command(code: str | None) -> None:
    """Explain an error code: its meaning, what to do about it, and its exit status.

    CODE may also be an exit status (137) or a word (oom, memory). SANDBOX explains --sandbox strict, and
    tries what this machine can provide. Without CODE, list all error codes.
    """
    from ..console.terminal import plain
    from ..protocol.error_codes import CODES, codes_about, limit_of, meaning_of_status

    encoding = sys.stdout.encoding or "ascii"
    width = min(shutil.get_terminal_size().columns, 100)

    def say(text: str) -> None:
        click.echo(plain(text, encoding).encode(encoding, "backslashreplace"))

    def list_them(names: Iterable[str]) -> None:
        for name in names:
            shown = textwrap.shorten(CODES[name].meaning, max(width - 21, 30), placeholder=" …")
            say(f"{name:<21}{shown}")

    def say_rows(title: str, rows: Iterable[tuple[str, str]]) -> None:
        """Print rows in two columns; a long line continues in the second one."""
        say(title)
        for name, text in rows:
            say(textwrap.fill(text, width, initial_indent=f"  {name:<7} ", subsequent_indent=" " * 10))

    if code is None:
        list_them(CODES)
        return
    name = code.strip(":").upper()
    if name == "SANDBOX":
        from .explain_sandbox import rows

        say_rows(name, rows())
        return
    about = [] if name in CODES else codes_about(code)
    status = meaning_of_status(int(code)) if code.isdecimal() and len(code) <= 3 else None
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
        hint = f" Did you mean {near[0]}?" if near else " hkrunner explain lists all of them."
        raise SettingsError(f"there is no error code {code!r}.{hint}")
    limit = limit_of(name)
    rows_of_code = (
        ("what", found.meaning),
        ("do", found.remedy),
        ("limit", "" if limit is None else limit.option),
        ("next", found.next_task),
        ("--json", f"reason {found.reason}"),
        ("exit", f"status {found.shown_status} if this was the only task"),
    )
    say_rows(name, (row for row in rows_of_code if row[1]))
