"""The command line: options -> Settings -> run -> exit status. Nothing below this file knows click."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

import click

from .. import __version__
from .errors import EntryNotFound, HkrunnerError, SettingsError
from .settings import OPTIONS, Option, Settings, settings_of

EPILOG = """\b
Exit status:
  0    every task has a result
  1    the algorithm raised, or ended before it answered
  2    bad usage
  3    no such code
  4    the code cannot be loaded
  5    no worker
  128+N  the algorithm was ended by signal N (139: segmentation fault)
  130, 143  ended by Ctrl-C or SIGTERM, in order
"""


class Sections(click.Command):
    """A command whose help shows its options in their groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section a group, in the order of OPTIONS."""
        groups: dict[str, list[tuple[str, str]]] = {}
        by_name = {option.name: option.group for option in OPTIONS}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                groups.setdefault(by_name.get(parameter.name or "", "Other"), []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does; an entry may stand without --entry."""
        return super().parse_args(ctx, args)


def _parameter(option: Option) -> click.Option:
    kind: Any = str
    if option.kind == "choice":
        kind = click.Choice(option.choices)
    flag = option.kind == "flag"
    shown = option.default is not None and not flag
    return click.Option(
        [*option.flags, option.name],
        envvar=list(option.env) or None,
        default=option.default,
        type=None if flag else kind,
        is_flag=flag,
        multiple=option.kind == "many",
        metavar=option.metavar or ("SECONDS" if option.kind == "seconds" else None),
        help=option.help,
        show_default=shown,
        show_envvar=bool(option.env),
    )


def _run(entry_argument: str | None, **values: Any) -> None:
    if entry_argument is not None:
        if values.get("entry") and click.get_current_context().get_parameter_source("entry") is not None:
            source = click.get_current_context().get_parameter_source("entry")
            if source is click.core.ParameterSource.COMMANDLINE:
                raise SettingsError(f"two entries: {entry_argument} and --entry {values['entry']}; give one")
        values["entry"] = entry_argument
    settings = settings_of(values, os.environ)
    # Late, so that --help and --version do not pay for it.
    from .main import run

    sys.exit(run(settings))


command = Sections(
    "hkrunner",
    callback=_run,
    params=[
        click.Argument(["entry_argument"], required=False, metavar="[ENTRY]"),
        *(_parameter(option) for option in OPTIONS),
    ],
    help="Run an algorithm as a supervised process.\n\n"
    "With --input it runs at once, locally, and its results go to stdout. Without, it serves HKube's worker "
    "until it is stopped.",
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
command = click.version_option(__version__, "--version", message="hkrunner %(version)s")(command)


def main() -> NoReturn:
    """The command `hkrunner`."""
    if not sys.platform.startswith("linux"):
        sys.exit(
            f"hkrunner: runs on Linux; this is {sys.platform}. What it stands on (subreapers, memory files, "
            "/proc) is Linux's own; a Linux virtual machine or container serves."
        )
    try:
        command.main(standalone_mode=False)
        status = 0
    except HkrunnerError as error:
        _say(str(error))
        status = error.exit_status
    except click.ClickException as error:
        error.show()
        status = 2
    except (click.Abort, KeyboardInterrupt):
        status = 130
    sys.exit(status)


def _say(text: str) -> None:
    click.echo(f"hkrunner: {text}", err=True)


__all__ = ["EntryNotFound", "Settings", "command", "main"]
