"""`hkrunner env`: the virtual environments that --install has made."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any

import click

from ..errors import HkrunnerError, SettingsError
from ..settings.options import BY_NAME, OPTIONS
from .click_options import Sections, complete_files

_WHAT = ("entry", "path", "file", "python", "encoding")


def _ls(as_json: bool) -> None:
    from ..prepare.environments import EnvironmentCache, cache_folder
    from ..prepare.installation import named

    cache = EnvironmentCache(cache_folder(os.environ))
    found = cache.all()
    if as_json:
        for one in found:
            click.echo(
                json.dumps(
                    {
                        "name": one.name,
                        **one.facts,
                        "folder": one.folder,
                        "lastUsed": cache.last_used(one.name),
                    }
                )
            )
        return
    if not found:
        click.echo(f"no environments in {cache_folder(os.environ)}: --install makes them", err=True)
    for one in found:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(cache.last_used(one.name)))
        facts = one.facts
        click.echo(
            f"{one.name}  last used {used}  Python {facts['pythonVersion']:<8} {named(facts['requirements'])}"
            f"  ({facts['file']}, {facts['installer']})"
        )


def _rm(names: tuple[str, ...], remove_all: bool, unused: int | None) -> None:
    from ..prepare.environments import EnvironmentCache, cache_folder

    if not names and not remove_all and unused is None:
        raise SettingsError(
            "no environments given: name some (hkrunner env ls), or use --unused DAYS or --all"
        )
    cache = EnvironmentCache(cache_folder(os.environ))
    there = cache.names()
    wanted: list[str] = []
    for name in names:
        matching = [one for one in there if one.startswith(name)] if name else []
        if len(matching) != 1:
            raise SettingsError(
                f"{'no environment begins' if not matching else 'several environments begin'} with {name!r}"
            )
        wanted += matching
    if remove_all:
        wanted += there
    if unused is not None:
        before = time.time() - unused * 24 * 3600
        wanted += [one for one in there if cache.last_used(one) < before]
    removed, used = 0, []
    for name in dict.fromkeys(wanted):
        try:
            if cache.remove(name):
                removed += 1
            else:
                used.append(name)
        except OSError as error:
            raise HkrunnerError(f"{name} cannot be removed: {error.strerror}: {error.filename}") from None
    click.echo(f"{removed} {'environment' if removed == 1 else 'environments'} removed", err=True)
    if used:
        raise HkrunnerError(f"in use by a run, and not removed: {', '.join(used)}")


def _path(entry_argument: str | None, **values: Any) -> None:
    from ..prepare.installation import installation_for
    from ..prepare.prepare import place
    from ..settings.from_options import settings_of

    if entry_argument is not None:
        values["entry"] = entry_argument
    missing = {option.name: option.default for option in OPTIONS if option.name not in values}
    settings = settings_of({**missing, **values, "install": True, "no_state": True}, os.environ)
    with contextlib.ExitStack() as stack:
        where = place(settings, stack)
        found = installation_for(settings.code, where, settings.task_encoding, os.environ)
    if found is None:
        raise HkrunnerError(f"nothing says what {where.shown} requires, so --install makes no environment")
    environment = found.existing
    if environment is None:
        raise HkrunnerError(f"the environment of {found.requirements.source} is not made: --install makes it")
    click.echo(environment.folder)


command = click.Group(
    "env",
    help="List, find and remove the virtual environments of --install.",
    commands=[
        click.Command(
            "ls",
            callback=_ls,
            help="List the environments, the latest used last.",
            params=[click.Option(["-j", "--json", "as_json"], is_flag=True, help="Print JSON.")],
        ),
        Sections(
            "path",
            callback=_path,
            help="Print the folder of the environment of an algorithm. Exit status 1: it was not made yet.",
            params=[
                click.Argument(
                    ["entry_argument"], required=False, metavar="[ENTRY]", shell_complete=complete_files
                )
            ],
            options=[BY_NAME[name]._replace(group="Algorithm") for name in _WHAT],
        ),
        click.Command(
            "rm",
            callback=_rm,
            short_help="Remove environments.",
            help="Remove environments, named by the beginning of their names; those of running runs stay.",
            params=[
                click.Argument(["names"], nargs=-1, metavar="[NAMES]..."),
                click.Option(
                    ["--unused"],
                    type=click.IntRange(0),
                    metavar="DAYS",
                    help="Remove those not used for this many days.",
                ),
                click.Option(["--all", "remove_all"], is_flag=True, help="Remove all."),
            ],
        ),
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)
