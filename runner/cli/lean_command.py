"""Commands of click that load fewer modules."""

from __future__ import annotations

import click

from ... import __version__


class LeanCommand(click.Command):
    """A command that does not need `inspect`, with which click cleans the text of each option.

    That and what it imports take 0.8 MB for as long as hkrunner serves. From Python 3.12 on, dataclasses need
    it anyway.
    """

    _help: click.Option | None = None

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Return click's own option for the help."""
        if self._help is None:
            click.help_option(*self.get_help_option_names(ctx), help=None)(self)
            self._help = described(self.params.pop(), "Show this message and exit.")
        return self._help


def described(option: click.Parameter, text: str) -> click.Option:
    """Give an option the text for its line in the help, which has no line breaks to remove."""
    assert isinstance(option, click.Option), "an argument has no text"
    option.help = text
    return option


def with_version(command: click.Command) -> None:
    """Add the option --version."""
    click.version_option(__version__, "--version", message="hkrunner %(version)s", help=None)(command)
    described(command.params[-1], "Show the version and exit.")
