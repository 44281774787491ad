"""The command line: options -> Settings -> run -> exit status. Only this package knows click.

To add a command, add a file of its name with a click command (or group) called `command`, and a line in
COMMANDS below. The file is imported only when the command is called or its help is shown; slow imports belong
into the callback, so that --help stays fast. Options are declared once, in settings/options.py, and become
click's through click_options.Sections. A callback raises HkrunnerError for errors of the user, and ends with
sys.exit(status).

Without the name of a command, arguments belong to `run`: `hkrunner my_alg.py -i 1` and
`hkrunner --entry my_alg.py -i 1` are `hkrunner run …`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ..errors import HkrunnerError
from ..io.standard_streams import fill_standard_streams
from .lean_command import LeanCommand, with_version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.shell_completion import CompletionItem

#: Each command, with its line in --help.
COMMANDS = {
    "run": "Run an algorithm: locally with --input, otherwise for HKube's worker. The default.",
    "worker": "Stand in for HKube's worker, to test without a cluster.",
    "runs": "List, show, repeat and remove recorded tasks.",
    "board": "Show recorded tasks in TensorBoard.",
    "report": "Write a page about recorded tasks, to keep or to send.",
    "boards": "Serve HKube's REST routes for boards.",
    "env": "List and remove the virtual environments of --install.",
    "init": "Create a folder with a first algorithm.",
    "validate": "Load the code without running a task, and report what is missing.",
    "image": "Build a container image of the algorithm.",
    "apply": "Send the algorithm to an HKube cluster, and follow its build.",
    "compare": "Show a job in a cluster beside tasks that ran here.",
    "algorithm": "List, show and remove the algorithms of a cluster, and choose their versions.",
    "doctor": "Check what this machine provides, with a remedy for what is missing.",
    "why": "Say whether --sandbox strict lets the code use a file or an address, and by which rule.",
    "explain": "Explain an error code, and what to do about it.",
    "completion": "Print the script that completes hkrunner in bash, zsh or fish.",
    "version": "Print the version.",
}
#: Commands in another command's file, as `file:name`.
MODULES = {"boards": "board:boards_command"}
DEFAULT = "run"


class DefaultGroup(LeanCommand, click.Group):
    """Commands that are imported on demand; `run` is the default."""

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        """Read the arguments. --help prints here."""
        with _readers_may_go():
            return super().make_context(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _readers_may_go():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import and return the command; None if there is none of this name."""
        if name not in COMMANDS:
            return None
        module, _, attribute = MODULES.get(name, f"{name}:command").partition(":")
        command = getattr(importlib.import_module(f".{module}", __package__), attribute)
        assert isinstance(command, click.Command), f"{module}.py holds it"
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert `run` before arguments that begin with an option of `run` or an entry."""
        first = args[0] if args else None
        own = {"-h", "--help", "--version"}
        if first is None and ctx.resilient_parsing:
            return super().parse_args(ctx, args)  # completion of the first word, which may become a command
        if first is None or (first not in own and first not in COMMANDS):
            if first is not None and not _may_be_entry(first):
                raise click.UsageError(_no_command(first), ctx)
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the options of `run` as well, since its name is optional, and files as entries."""
        from click.shell_completion import CompletionItem

        found = super().shell_complete(ctx, incomplete)
        run = self.get_command(ctx, DEFAULT)
        assert run is not None, "it is in COMMANDS"
        with click.Context(run, info_name=DEFAULT, parent=ctx) as inner:
            there = {one.value for one in found}
            found += [one for one in run.shell_complete(inner, incomplete) if one.value not in there]
        if not incomplete.startswith("-"):
            # First, because click's script for bash drops everything before a file.
            found.insert(0, CompletionItem(incomplete, type="file"))
        return found

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the usage, with `run` as optional."""
        formatter.write_usage(ctx.command_path, "[run] [OPTIONS] [ENTRY]")
        formatter.write_usage(ctx.command_path, "COMMAND [OPTIONS] …", prefix="       ")

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what `run` does."""
        run = self.get_command(ctx, DEFAULT)
        assert run is not None, "it is in COMMANDS"
        run.format_help_text(ctx, formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, then the options of `run`."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        run = self.get_command(ctx, DEFAULT)
        assert run is not None, "it is in COMMANDS"
        run.format_options(ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the epilog of `run`."""
        run = self.get_command(ctx, DEFAULT)
        assert run is not None, "it is in COMMANDS"
        run.format_epilog(ctx, formatter)


@contextlib.contextmanager
def _readers_may_go() -> Iterator[None]:
    """Exit as a program that SIGPIPE ends, and quietly, once nobody reads what is printed: `… | head`."""
    try:
        yield
    except BrokenPipeError:
        # The interpreter would report that it cannot write the rest.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(nowhere, stream)
        sys.exit(128 + signal.SIGPIPE)


def _may_be_entry(word: str) -> bool:
    """Whether the word is an option or can be code: a path, file.py:function, a module, an existing file."""
    looks = word.startswith("-") or any(mark in word for mark in (os.sep, ".", ":", "~"))
    return looks or os.path.exists(word) or os.path.exists(f"{word}.py")


def _no_command(word: str) -> str:
    import difflib  # late: only for a command that does not exist

    near = difflib.get_close_matches(word, COMMANDS, n=1)
    meant = f" Did you mean {near[0]!r}?" if near else f" The commands are {', '.join(COMMANDS)}."
    return f"There is no command {word!r}, and no such file or folder here.{meant}"


command = DefaultGroup(
    "hkrunner",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
with_version(command)


def main() -> NoReturn:
    """Run the command `hkrunner`."""
    main_with(None)


def main_with(args: list[str] | None) -> NoReturn:
    """Run the command with these arguments; None: those of this process."""
    if not sys.platform.startswith("linux"):
        sys.exit(
            f"hkrunner needs Linux (subreapers, memory files, /proc); this is {sys.platform}. Use a Linux "
            "container or virtual machine."
        )
    fill_standard_streams()
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # it was closed, and Python has no file for it
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    try:
        command.main(args, prog_name="hkrunner", standalone_mode=False)
        status = 0
    except HkrunnerError as error:
        _say(str(error))
        status = error.exit_status
    except click.ClickException as error:
        with contextlib.suppress(OSError):  # as in _say()
            error.show()
        status = 2
    except (click.Abort, KeyboardInterrupt):
        status = 130
    except (OSError, RuntimeError, MemoryError, SystemError) as error:
        sentence = _explain(error)
        if sentence is None:
            raise
        _say(sentence)
        status = 1
    sys.exit(status)


def _explain(error: BaseException) -> str | None:
    try:
        from ..app.surroundings import explain
    except OSError:  # too many open files, for this import as well
        return "too many open files: raise the limit (ulimit -n)"
    return explain(error)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk does not change the exit status
        click.echo(f"hkrunner: {text}", err=True)


__all__ = ["COMMANDS", "command", "main", "main_with"]
