"""The options of `hkrunner run` that run the tasks in a cluster, and what they mean together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import SettingsError
from .algorithm_name import RULE, is_algorithm_name
from .option import Option, flag

#: The name with --on that means this machine, whatever the variable says.
LOCAL = "local"
CLUSTER_VARIABLE = "HKRUNNER_CLUSTER"
USERNAME_VARIABLE = "HKRUNNER_CLUSTER_USERNAME"
PASSWORD_VARIABLE = "HKRUNNER_CLUSTER_PASSWORD"
TOKEN_VARIABLE = "HKRUNNER_CLUSTER_TOKEN"
#: What logs in to a cluster; no algorithm inherits it.
SECRET_VARIABLES = (PASSWORD_VARIABLE, TOKEN_VARIABLE)

ON = Option(
    "on",
    ("--on",),
    "Run the tasks of --input or --tasks in this HKube cluster, as one job: its URL, a name in"
    " ~/.config/hkrunner/clusters.yml, hkubectl for the one in hkubectl's own file, or local for this"
    " machine. The algorithm is the one that the descriptor names, or --algorithm NAME.",
    (CLUSTER_VARIABLE,),
    default_text="this machine",
    metavar="CLUSTER",
    python="str | None",
    python_help="Run the tasks in this HKube cluster, as one job: its URL, a name in"
    " ~/.config/hkrunner/clusters.yml, or hkubectl for the one in hkubectl's own file. None: run them on this"
    f" machine, whatever {CLUSTER_VARIABLE} says.",
    in_cluster=True,
)

CLUSTER_OPTIONS = (
    ON,
    flag(
        "detach",
        ("--detach",),
        "With --on, print the job's id and end; `hkrunner runs follow JOB` prints the results later.",
        in_cluster=True,
    ),
)


class ClusterSettings(NamedTuple):
    """Which cluster runs the tasks, and which of its algorithms."""

    on: str | None = None  #: as written; None: this machine runs them
    algorithm: str = ""
    detach: bool = False


def cluster_settings(
    values: Mapping[str, Any], environ: Mapping[str, str], *, local: bool, name: str | None
) -> ClusterSettings:
    """Return the settings. local: whether there are inputs. name: the descriptor's. Raises SettingsError.

    The variable alone does not concern a run that serves a worker.
    """
    on = values.get("on")
    is_variable = on is not None and on == environ.get(CLUSTER_VARIABLE)
    if on in (None, LOCAL) or (is_variable and not local):
        if values.get("detach"):
            raise SettingsError("--detach leaves a job in a cluster: give --on with it")
        return ClusterSettings()
    if not local:
        raise SettingsError(f"--on {on} runs tasks in a cluster: give --input or --tasks with it")
    named = tuple(values.get("algorithm") or ())
    if len(named) > 1 or "=" in "".join(named):
        raise SettingsError(f"--on {on} runs one algorithm of the cluster: --algorithm NAME, without a file")
    if named and not is_algorithm_name(named[0]):
        raise SettingsError(f"--algorithm {named[0]}: {RULE}")
    if not named and name is None:
        raise SettingsError(
            f"--on {on}: which algorithm of the cluster? Give --algorithm NAME, or an algorithm.yml with a"
            " name"
        )
    if values.get("detach") and values.get("board"):
        raise SettingsError(
            "--detach ends before the job does, and its board has nothing to show: leave --board out, and"
            " give it to `hkrunner runs follow`"
        )
    return ClusterSettings(str(on), named[0] if named else str(name), bool(values.get("detach")))
