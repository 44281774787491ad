"""`hkrunner completion SHELL`: the shell's own way to complete commands, options and files."""

from __future__ import annotations

import click

from .click_options import CONTEXT_SETTINGS

SHELLS = ("bash", "zsh", "fish")
EPILOG = """\b
Once, for every shell that is started from then on:
  bash   echo 'eval "$(hkrunner completion bash)"' >> ~/.bashrc
  zsh    echo 'eval "$(hkrunner completion zsh)"' >> ~/.zshrc
  fish   hkrunner completion fish > ~/.config/fish/completions/hkrunner.fish
"""


@click.command(
    "completion",
    context_settings=CONTEXT_SETTINGS,
    short_help="Print the script that completes hkrunner in a shell.",
    epilog=EPILOG,
)
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print the script that completes hkrunner's commands and options in SHELL."""
    # Late, so that --help does not pay for it.
    from click.shell_completion import get_completion_class

    from .main import command as group

    kind = get_completion_class(shell)
    assert kind is not None, "click has all of SHELLS"
    # source() of bash would start bash to look at its version, and warn on stdout.
    one = kind(group, {}, "hkrunner", "_HKRUNNER_COMPLETE")
    click.echo(one.source_template % one.source_vars())
