"""`hkrunner apply`: send the algorithm to a cluster."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from ..settings.apply_options import APPLY_OPTIONS
from ..settings.options import BY_NAME, OPTIONS
from .board import STATE_DIR
from .click_options import Sections, complete_files

if TYPE_CHECKING:
    from ..app.apply import ApplyOutcome
    from ..app.apply_package import ApplyContent
    from ..app.local_peaks import LocalPeak

EPILOG = """\b
Exit status:
  0    the algorithm is stored, and its build is completed
  2    a bad option or descriptor
  3    the code was not found
  8    the cluster refused it, cannot be reached, or the build failed
"""
_WHAT = ("entry", "path", "file")


def _apply(entry_argument: str | None, state_dir: str, **values: Any) -> None:
    # Imported here to keep --help fast.
    from ..app.apply import Applier
    from ..app.apply_package import ApplyRequest, prepare_apply
    from ..app.local_peaks import local_peak
    from ..console.live_line import LiveLine
    from ..console.terminal import plain
    from ..errors import SettingsError
    from ..io.signals import signals_raise
    from ..settings.from_options import settings_of
    from .cluster_access import store_of

    if entry_argument is not None:
        values["entry"] = entry_argument
    own = {option.name: values.pop(option.name) for option in APPLY_OPTIONS}
    on, as_json, dry_run = own.pop("on"), own.pop("json"), own.pop("dry_run")
    if on is None and not dry_run:
        raise SettingsError("which cluster? Give --on CLUSTER, or set HKRUNNER_CLUSTER")
    if own["force"] and not own["current"]:
        raise SettingsError("--force is for --current: give both")
    missing = {option.name: option.default for option in OPTIONS if option.name not in values}
    settings = settings_of({**missing, **values, "no_state": True}, os.environ)

    live = LiveLine(settings.console)

    def tell(line: str) -> None:
        live.end("")
        click.echo(plain(f"  ● {line}", sys.stderr.encoding or "ascii"), err=True)

    for note in settings.console.notes:
        tell(note)
    request = ApplyRequest(**own)
    with contextlib.ExitStack() as stack:
        stack.enter_context(signals_raise())  # so that the code's archive is removed
        stack.callback(live.end, "")
        # A folder of gigabytes takes minutes to pack: first see whether there is a cluster to send it to.
        opened = None if on is None else store_of(on, tell)
        prepared = prepare_apply(
            settings,
            request,
            os.environ,
            stack,
            progress=live.line,
            before_packing=(lambda: None) if opened is None else opened[0].connect,
        )
        peak = local_peak(state_dir, prepared.name, _absolute(settings.code.cwd, settings.code.entry))
        if opened is None:
            _show_request(prepared, peak, tell)
            return
        store, cluster = opened
        applier = Applier(
            store,
            cluster,
            request,
            tell=tell,
            show_log=lambda line: click.echo(f"    {line}", err=True),
            progress=live.line,
            peak=peak,
        )
        if dry_run:
            outcome = applier.preview(prepared)
            click.echo(_readable(prepared.payload))
            for line in outcome.changes:
                tell(f"would change {line}")
            return
        outcome = applier.apply(prepared)
    click.echo(json.dumps(outcome.facts()) if as_json else _shown(outcome))


def _show_request(prepared: ApplyContent, peak: LocalPeak | None, tell: Callable[[str], None]) -> None:
    """Show what would be sent, without a cluster that could say what would change."""
    for line in () if prepared.package is None else prepared.package.lines():
        tell(line)
    sentence = None if peak is None else peak.exceeds(prepared.payload.get("mem"))
    if sentence is not None:
        tell(sentence)
    click.echo(_readable(prepared.payload))


def _shown(outcome: ApplyOutcome) -> str:
    """Return what a script reads of it: a build's id, or the algorithm's name and version."""
    if outcome.version is not None:
        return f"{outcome.name} {outcome.version.number}"
    return outcome.name if outcome.build is None else outcome.build.id


def _absolute(cwd: str, entry: str | None) -> str | None:
    return None if entry is None else os.path.abspath(os.path.join(cwd, os.path.expanduser(entry)))


def _readable(payload: dict[str, Any]) -> str:
    """Return the payload as JSON for a person, without secrets, in characters that stdout has."""
    from ..cluster.algorithm_payload import without_secrets

    shown = without_secrets(payload)
    text = json.dumps(shown, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return json.dumps(shown, indent=2)
    return text


command = Sections(
    "apply",
    callback=_apply,
    params=[
        click.Argument(["entry_argument"], required=False, metavar="[ENTRY]", shell_complete=complete_files),
        STATE_DIR,
    ],
    options=[*APPLY_OPTIONS, *(BY_NAME[name]._replace(group="Algorithm") for name in _WHAT)],
    help="Send the algorithm to an HKube cluster: its descriptor, and its code without what .hkubeignore"
    " leaves out.\n\nThe build in the cluster is followed to its end. hkrunner shows what changes, and"
    " what HKube does not report: a change that it has not stored, a version that no job uses.",
    epilog=EPILOG,
)
