"""`hkrunner completion SHELL`: the script that completes commands, options and files in a shell."""

from __future__ import annotations

import click

from .click_options import CONTEXT_SETTINGS

SHELLS = ("bash", "zsh", "fish")
EPILOG = """\b
Run once; every shell started afterwards has it:
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
    # Imported here to keep --help fast.
    from click.shell_completion import get_completion_class

    from .main import command as group

    kind = get_completion_class(shell)
    assert kind is not None, "click has all of SHELLS"
    # Not source(): for bash it starts bash to check its version, and warns on stdout.
    one = kind(group, {}, "hkrunner", "_HKRUNNER_COMPLETE")
    click.echo(one.source_template % one.source_vars())
