"""The options of `hkrunner image`, beside those of `hkrunner run` that say what the algorithm is."""

from __future__ import annotations

from .option import Option, flag, in_group

IMAGE_OPTIONS = in_group(
    "Image",
    (
        Option(
            "tag",
            ("-t", "--tag"),
            "Name of the image: registry.example/team/alg:1.0. Without a version after a colon, it gets a"
            " digest of the content, so that an image of other code has another name.",
            default_text="the algorithm's name",
            metavar="NAME",
        ),
        Option(
            "base",
            ("--base",),
            "Image to build on; it must have Python 3.10 or newer as python3, with pip and venv.",
            default_text="the descriptor's baseImage, else python:3.x-slim of this Python's version",
            metavar="IMAGE",
        ),
        flag("push", ("--push",), "Push the image to the registry that its name begins with."),
        Option(
            "engine",
            ("--engine",),
            "The program that builds and pushes.",
            default_text="the first one that works here",
            kind="choice",
            choices=("docker", "podman", "buildah"),
        ),
        Option(
            "context",
            ("--context",),
            "Write the Containerfile, and all that it copies, into this new folder, and build nothing.",
            metavar="DIR",
        ),
        flag("dry_run", ("--dry-run",), "Print the Containerfile, and build nothing."),
        flag("json", ("-j", "--json"), "Print what was made as one JSON object."),
    ),
)
