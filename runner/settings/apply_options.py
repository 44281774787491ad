"""The options of `hkrunner apply`, beside those of `hkrunner run` that say what the algorithm is."""

from __future__ import annotations

from . import cluster_options
from .option import Option, flag, in_group

_DESCRIPTOR = "the descriptor's"
ON = cluster_options.ON._replace(
    help="The HKube cluster: its URL, a name in ~/.config/hkrunner/clusters.yml, or hkubectl for the one in"
    " hkubectl's own file.",
    default_text="",
    group="Cluster",
    in_cluster=False,
)

APPLY_OPTIONS = (
    ON,
    *in_group(
        "Apply",
        (
            Option(
                "name",
                ("--name",),
                "Name of the algorithm in the cluster.",
                default_text="the descriptor's name, else that of the folder",
                metavar="NAME",
            ),
            Option(
                "image",
                ("--image",),
                "Send the name of this image instead of the code; the cluster builds nothing.",
                default_text="the descriptor's algorithmImage, if it has no code.path",
                metavar="IMAGE",
            ),
            Option(
                "cpu",
                ("--cpu",),
                "CPU cores of the algorithm: 0.5.",
                metavar="CORES",
                default_text=_DESCRIPTOR,
            ),
            Option("mem", ("--mem",), "Its memory: 512Mi.", metavar="SIZE", default_text=_DESCRIPTOR),
            Option("gpu", ("--gpu",), "Its number of GPUs.", metavar="N", default_text=_DESCRIPTOR),
            flag("current", ("--current",), "Make the new version the current one, if the cluster does not."),
            flag("force", ("--force",), "With --current, do so even while jobs of the algorithm run."),
            flag("force_build", ("--force-build",), "Build the code even if it is the same as before."),
            flag("no_wait", ("--no-wait",), "Do not wait for the build; print its id."),
            flag(
                "dry_run",
                ("--dry-run",),
                "Print what would be sent, without secrets, and what it changes; send nothing.",
            ),
            flag("json", ("-j", "--json"), "Print the outcome as one JSON object."),
        ),
    ),
)
