"""The command line: options -> Settings -> run -> exit status. Only this package knows click.

A further command is a file named as it is, with a click command (or group) called `command` in it, and a
line in COMMANDS below. The file is imported when the command is called or its own help is asked for, so
it may import what it likes; what takes long goes into the callback all the same, so that its --help stays
fast. Options are declared once, in settings/options.py, and become click's with click_options.Sections. A
callback raises HkrunnerError for what the user has to know, and ends with sys.exit(status).

What is no command is an entry: `hkrunner my_alg.py -i 1` and `hkrunner --entry my_alg.py -i 1` are
`hkrunner run …`.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from ... import __version__
from ..errors import HkrunnerError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

#: Each command and its line in --help.
COMMANDS = {
    "run": "Run an algorithm: locally with --input, else for HKube's worker. The default.",
    "worker": "Stand in for HKube's worker, to try a wrapper of any language.",
    "runs": "Tasks that have run: list, show, repeat, remove.",
    "board": "TensorBoard over the runs that are kept.",
    "boards": "HKube's routes for boards.",
    "init": "Make a folder with an algorithm to begin with.",
    "validate": "Load the code without a task: what is there, what is missing.",
    "doctor": "What this machine offers, and what to do about what it does not.",
    "explain": "What an error code means, and what to do.",
    "completion": "Print the script that completes hkrunner in bash, zsh or fish.",
    "version": "Print the version.",
}
#: Commands that lie in another's file, as `file:name`.
PLACES = {"boards": "board:boards_command"}
DEFAULT = "run"


class DefaultGroup(click.Group):
    """Commands that are imported when they are needed; `run` where none is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the command; None when there is none of this name."""
        if name not in COMMANDS:
            return None
        module, _, attribute = PLACES.get(name, f"{name}:command").partition(":")
        command = getattr(importlib.import_module(f".{module}", __package__), attribute)
        assert isinstance(command, click.Command), f"{module}.py holds it"
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `run` in front of what begins with an option of its, or an entry."""
        first = args[0] if args else None
        own = {"-h", "--help", "--version"}
        if first is None and ctx.resilient_parsing:
            return super().parse_args(ctx, args)  # completing the first word: it may become a command
        if first is None or (first not in own and first not in COMMANDS):
            if first is not None and not _may_be_entry(first):
                raise click.UsageError(_no_command(first), ctx)
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Offer the options of `run` too, since it need not be typed, and what may be an entry as a file."""
        from click.shell_completion import CompletionItem

        found = super().shell_complete(ctx, incomplete)
        run = self.get_command(ctx, DEFAULT)
        assert run is not None, "it is in COMMANDS"
        with click.Context(run, info_name=DEFAULT, parent=ctx) as inner:
            there = {one.value for one in found}
            found += [one for one in run.shell_complete(inner, incomplete) if one.value not in there]
        if not incomplete.startswith("-"):
            # First: at one of these, click's script for bash forgets what came before it.
            found.insert(0, CompletionItem(incomplete, type="file"))
        return found

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """`run` need not be written."""
        formatter.write_usage(ctx.command_path, "[run] [OPTIONS] [ENTRY]")
        formatter.write_usage(ctx.command_path, "COMMAND [OPTIONS] …", prefix="       ")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of `run`, then the commands."""
        run = self.get_command(ctx, DEFAULT)
        assert run is not None, "it is in COMMANDS"
        run.format_options(ctx, formatter)
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the epilog of `run`."""
        run = self.get_command(ctx, DEFAULT)
        assert run is not None, "it is in COMMANDS"
        run.format_epilog(ctx, formatter)


def _may_be_entry(word: str) -> bool:
    """It is an option, or looks like code: a path, file.py:function, a dotted module, one that is here."""
    looks = word.startswith("-") or any(mark in word for mark in (os.sep, ".", ":", "~"))
    return looks or os.path.exists(word) or os.path.exists(f"{word}.py")


def _no_command(word: str) -> str:
    near = difflib.get_close_matches(word, COMMANDS, n=1)
    meant = f" Did you mean {near[0]!r}?" if near else f" The commands are {', '.join(COMMANDS)}."
    return f"There is no command {word!r}, and no such file or folder here.{meant}"


command = DefaultGroup(
    "hkrunner",
    help="Run an algorithm as a supervised process.\n\n"
    "With --input it runs at once, locally, and its results go to stdout. Without, it serves HKube's worker "
    "until it is stopped.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
command = click.version_option(__version__, "--version", message="hkrunner %(version)s")(command)


def main() -> NoReturn:
    """The command `hkrunner`."""
    main_with(None)


def main_with(args: list[str] | None) -> NoReturn:
    """The command `hkrunner` with these arguments; None: those of this process."""
    if not sys.platform.startswith("linux"):
        sys.exit(
            f"hkrunner: runs on Linux; this is {sys.platform}. What it stands on (subreapers, memory files, "
            "/proc) is Linux's own; a Linux virtual machine or container serves."
        )
    try:
        command.main(args, prog_name="hkrunner", standalone_mode=False)
        status = 0
    except HkrunnerError as error:
        _say(str(error))
        status = error.exit_status
    except click.ClickException as error:
        error.show()
        status = 2
    except (click.Abort, KeyboardInterrupt):
        status = 130
    except (OSError, RuntimeError, MemoryError) as error:
        sentence = _explain(error)
        if sentence is None:
            raise
        _say(sentence)
        status = 1
    sys.exit(status)


def _explain(error: BaseException) -> str | None:
    try:
        from .surroundings import explain
    except OSError:  # too many open files, for this import as well
        return "too many open files: raise the limit (ulimit -n)"
    return explain(error)


def _say(text: str) -> None:
    click.echo(f"hkrunner: {text}", err=True)


__all__ = ["COMMANDS", "command", "main", "main_with"]
