"""`hkrunner run`, and `hkrunner` without a command's name: run an algorithm, or serve HKube's worker."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import click

from ..errors import HkrunnerError, SettingsError
from ..settings.from_options import settings_of
from ..settings.options import OPTIONS
from ..settings.settings import Settings
from .click_options import Sections, complete_files, stands_alone
from .lean_command import with_version

HELP = """Run an algorithm in a supervised process, under limits.

With --input it runs locally, and results go to stdout. Without --input it serves HKube's worker until it is
stopped.

\b
Examples:
  hkrunner my_alg.py -i '[1, 2, 3]'              run one task, print its result
  hkrunner my_alg.py -i 1 -i 2 --mem 512Mi       two tasks, with a memory limit
  hkrunner my_alg.py --tasks in.jsonl --on lab   run a task for each line in the cluster "lab"
  hkrunner --pipeline flow.yml                   run a stream pipeline
  hkrunner my_alg.py                             serve HKube's worker
"""


def _epilog() -> str:
    # Late: a run does not need it.
    from ..protocol.error_codes import exit_status_help

    return exit_status_help()


def _is_on_command_line(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def _run(entry_argument: str | None, **values: Any) -> None:
    if entry_argument is not None:
        if entry_argument[:1] in ("[", "{") and not os.path.exists(entry_argument):
            raise stands_alone(entry_argument)
        if values.get("entry") and _is_on_command_line("entry"):
            raise SettingsError(f"two entries: {entry_argument} and --entry {values['entry']}; give one")
        values["entry"] = entry_argument
    if values.get("command") is not None and (entry_argument is not None or _is_on_command_line("entry")):
        raise SettingsError("--command starts the algorithm itself: leave the entry out")
    if values.get("again") is not None:
        values.update(_recorded(values))
        if entry_argument is not None:
            values["entry"] = entry_argument
        if not _is_on_command_line("on"):
            values["on"] = None  # it ran on this machine, whatever cluster the variable names
    try:
        settings = settings_of(values, os.environ)
        if settings.cluster.on is not None:
            sys.exit(_run_in_cluster(settings))
        if values.get("dry_run"):
            _print_dry_run(settings)
            return
        # Imported here to keep --help and --version fast.
        if settings.local_run.stream_pipeline is not None:
            from ..app.run_stream import run_stream

            sys.exit(run_stream(settings, settings.local_run.stream_pipeline))
        from ..app.run import run

        sys.exit(run(settings))
    except HkrunnerError as error:
        raise type(error)(_with_variables(str(error))) from None


def _run_in_cluster(settings: Settings) -> int:
    """Run the tasks in the cluster; return the exit status.

    Raises SettingsError for options that concern this machine.
    """
    for option in OPTIONS:
        if not option.in_cluster and _is_on_command_line(option.name):
            raise SettingsError(
                f"{option.flag} is for tasks on this machine (--on local), and --on runs them in a cluster,"
                " where the algorithm.yml that was applied sets limits and variables: leave it out"
            )
    from ..app.cluster_run import run_in_cluster

    return run_in_cluster(settings)


def values_of(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the values of all options for these arguments and the variables of this process.

    Raises SettingsError.
    """
    try:
        with command.make_context("run", list(arguments)) as context:
            values = dict(context.params)
    except click.ClickException as error:
        raise SettingsError(error.format_message()) from None
    entry = values.pop("entry_argument")
    return values if entry is None else {**values, "entry": entry}


def _with_variables(sentence: str) -> str:
    """Append the environment variables that set the options the sentence names."""
    source = click.get_current_context().get_parameter_source
    words = set(re.findall(r"--[\w-]+", sentence))
    found = [
        next(name for name in option.env if os.environ.get(name))
        for option in OPTIONS
        if not words.isdisjoint(option.flags)
        and source(option.name) is click.core.ParameterSource.ENVIRONMENT
    ]
    return f"{sentence} (set by {', '.join(found)})" if found else sentence


def _recorded(values: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the task of --again, except for those that this command line sets."""
    from .runs import settings_of_task

    given = click.get_current_context().get_parameter_source
    settings, input = settings_of_task(values["state_dir"], values["again"])
    found: dict[str, Any] = {}
    for option in OPTIONS:
        value = settings.get(option.name)
        if value is None:
            continue
        many = (value,) if isinstance(value, str) else value
        if option.kind == "many" and not option.env:
            found[option.name] = (*many, *values[option.name])
        elif given(option.name) is not click.core.ParameterSource.COMMANDLINE:
            found[option.name] = value if isinstance(value, bool) else str(value)
            if option.kind == "many":
                found[option.name] = tuple(many)
    if not values["input"] and values["tasks"] is None:
        found["input"] = (input,)
    return found


def _print_dry_run(settings: Settings) -> None:
    """Print what a run would do."""
    import json

    from ..console.terminal import plain

    file = settings.local_run.stream_pipeline
    if file is not None:
        from ..app.dry_run_stream import describe_stream, lines_of_stream

        description = describe_stream(settings, file)
        lines = lines_of_stream(description)
    else:
        from ..prepare.dry_run import describe_run, lines_of

        description = describe_run(settings, os.environ)
        lines = lines_of(description)
    if settings.console.json:
        click.echo(json.dumps(description))
        return
    encoding = sys.stdout.encoding or "ascii"
    for line in lines:
        click.echo(plain(line, encoding).encode(encoding, "backslashreplace"))


command = Sections(
    "run",
    callback=_run,
    params=[
        click.Argument(["entry_argument"], required=False, metavar="[ENTRY]", shell_complete=complete_files)
    ],
    options=OPTIONS,
    help=HELP,
    make_epilog=_epilog,
)
with_version(command)
