"""`hkrunner algorithm`: the algorithms of a cluster."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from ..errors import ClusterError
from ..protocol.messages import printable
from ..settings.apply_options import ON
from .click_options import parameter
from .cluster_access import store_of

if TYPE_CHECKING:
    from ..cluster.algorithm_store import Version

#: Fields that the cluster keeps for itself; --json shows them too.
_INNER = {"auditTrail", "userInfo", "options", "fileInfo", "created", "modified", "errors"}


def _tell(line: str) -> None:
    from ..console.terminal import plain

    click.echo(plain(line, sys.stderr.encoding or "ascii"), err=True)


def _ls(on: str | None, as_json: bool) -> None:
    store, cluster = store_of(on, _tell)
    found = sorted(store.all(), key=lambda one: str(one.get("name")))
    if as_json:
        for one in found:
            click.echo(json.dumps(one))
        return
    if not found:
        click.echo(f"no algorithms in {cluster}", err=True)
    rows = [(_word(one, "name"), _word(one, "type", ""), _limits(one), _state(one)) for one in found]
    width = max((len(name) for name, *_ in rows), default=0)
    for name, kind, limits, state in rows:
        click.echo(f"{name:<{width}}  {kind:<5}  {limits:<18}  {state}")


def _word(algorithm: Mapping[str, Any], key: str, absent: str = "-") -> str:
    """Return the value for a person; it is whatever the cluster has stored."""
    value = algorithm.get(key)
    return absent if value is None else printable(str(value))


def _limits(algorithm: Mapping[str, Any]) -> str:
    return f"{_word(algorithm, 'cpu')} cpu  {_word(algorithm, 'mem')}"


def _is_pending(algorithm: Mapping[str, Any]) -> bool:
    options = algorithm.get("options")
    return isinstance(options, dict) and bool(options.get("pending"))


def _state(algorithm: Mapping[str, Any]) -> str:
    if _is_pending(algorithm):
        return "waits for its first build"
    return _word(algorithm, "algorithmImage") if algorithm.get("algorithmImage") else "no image"


def _show(name: str, on: str | None, as_json: bool) -> None:
    store, _ = store_of(on, _tell)
    found = store.get(name)
    if as_json:
        click.echo(json.dumps(found))
        return
    import yaml  # late: only here

    from ..cluster.algorithm_payload import without_secrets
    from ..cluster.algorithm_store import NOT_LAST_VERSION

    shown = {key: value for key, value in without_secrets(found).items() if key not in _INNER}
    click.echo(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True), nl=False)
    if _is_pending(found):
        _tell(f"  ● {name} waits for its first build")
    errors = found.get("errors")
    if isinstance(errors, list) and NOT_LAST_VERSION in errors:
        _tell(f"  ● {name} has a newer version than the current one: hkrunner algorithm versions {name}")


def _rm(name: str, on: str | None, force: bool, all_versions: bool) -> None:
    store, _ = store_of(on, _tell)
    answer = store.remove(name, force=force, keeps_versions=not all_versions)
    _tell(f"  ● {answer.removesuffix('. related data deleted: ')}")
    if not all_versions:
        _tell("  ● its versions are kept, for an algorithm of the same name; --all-versions removes them")


def _versions(name: str, on: str | None, as_json: bool, use: str | None, force: bool) -> None:
    store, cluster = store_of(on, _tell)
    found, current = store.versions(name), (store.find(name) or {}).get("version")
    if not found:
        store.get(name)  # raises an error: there is no algorithm of this name
    if use is not None:
        chosen = _chosen(name, found, use, cluster)
        store.make_current(name, chosen, force=force)
        _tell(f"  ● {name} {chosen.number} is the current version")
        return
    for one in found:
        if as_json:
            facts = {**one._asdict(), "isCurrent": one.id == current}
            click.echo(json.dumps({key: value for key, value in facts.items() if key != "algorithm"}))
            continue
        mark = "*" if one.id == current else " "
        click.echo(printable(f"{mark} {one.number:<8} {one.id}  {_made(one)}  {one.image or ''}", 500))


def _made(version: Version) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime((version.created_ms or 0) / 1000))
    except (OverflowError, OSError, ValueError):
        return "?"  # no time that a calendar has


def _chosen(name: str, versions: list[Version], wanted: str, cluster: str) -> Version:
    matching = [one for one in versions if wanted in (one.id, one.number, one.image)]
    if not matching:
        raise ClusterError(
            f"{cluster} has no version {wanted} of {name}; it has {', '.join(one.number for one in versions)}"
        )
    return matching[-1]


def _json_option(text: str) -> click.Option:
    return click.Option(["-j", "--json", "as_json"], is_flag=True, help=text)


def _name() -> click.Argument:
    return click.Argument(["name"], metavar="NAME")


command = click.Group(
    "algorithm",
    help="The algorithms of an HKube cluster, which --on or HKRUNNER_CLUSTER names.",
    commands=[
        click.Command(
            "ls",
            callback=_ls,
            help="List the algorithms: name, type, limits, image.",
            params=[parameter(ON), _json_option("Print one JSON object a line.")],
        ),
        click.Command(
            "show",
            callback=_show,
            help="Show an algorithm as the cluster has it.",
            params=[_name(), parameter(ON), _json_option("Print all of it as JSON, with all values.")],
        ),
        click.Command(
            "rm",
            callback=_rm,
            help="Remove an algorithm. The cluster refuses while stored pipelines or jobs use it.",
            params=[
                _name(),
                parameter(ON),
                click.Option(
                    ["--force"],
                    is_flag=True,
                    help="Remove the pipelines that use it as well, and stop the jobs.",
                ),
                click.Option(["--all-versions"], is_flag=True, help="Remove its versions as well."),
            ],
        ),
        click.Command(
            "versions",
            callback=_versions,
            short_help="List the versions of an algorithm, or choose one.",
            help="List the versions of an algorithm, the oldest first; the current one has a star.",
            params=[
                _name(),
                parameter(ON),
                _json_option("Print one JSON object a line."),
                click.Option(
                    ["--use"],
                    metavar="VERSION",
                    help="Make this one current: its number, id or image.",
                ),
                click.Option(["--force"], is_flag=True, help="With --use, do so even while jobs run."),
            ],
        ),
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)
