"""`hkrunner image`: an OCI image of the algorithm, with hkrunner as its entry point."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import click

from ... import __version__
from ..settings.image_options import IMAGE_OPTIONS
from ..settings.options import BY_NAME, OPTIONS
from .click_options import Sections, complete_files

EPILOG = """\b
Exit status:
  0    the image was made
  1    no engine works here, or it failed
  2    a bad option or descriptor
  3    the code was not found
"""
_PASSED_ON = "hkrunner.image.engine_arguments"
_WHAT = ("entry", "path", "file", "python")


class ImageCommand(Sections):
    """A command that passes on what follows `--`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments before `--`, and keep those after it."""
        if "--" in args:
            at = args.index("--")
            ctx.meta[_PASSED_ON] = args[at + 1 :]
            args = args[:at]
        return super().parse_args(ctx, args)


def _image(entry_argument: str | None, **values: Any) -> None:
    # Imported here to keep --help fast.
    from ..app.build_image import ImageRequest, build_image
    from ..console.terminal import plain
    from ..io.signals import signals_raise
    from ..settings.from_options import settings_of

    if entry_argument is not None:
        values["entry"] = entry_argument
    own = {option.name: values.pop(option.name) for option in IMAGE_OPTIONS}
    as_json = own.pop("json")
    missing = {option.name: option.default for option in OPTIONS if option.name not in values}
    settings = settings_of({**missing, **values, "no_state": True}, os.environ)
    request = ImageRequest(**own, engine_arguments=click.get_current_context().meta.get(_PASSED_ON, ()))

    def tell(line: str) -> None:
        click.echo(plain(f"  ● {line}", sys.stderr.encoding or "ascii"), err=True)

    with signals_raise():
        built = build_image(settings, request, __version__, tell)
    if as_json:
        click.echo(json.dumps(built.facts()))
    elif request.dry_run:
        click.echo(built.containerfile, nl=False)
    else:
        click.echo(built.tag)


command = ImageCommand(
    "image",
    callback=_image,
    params=[
        click.Argument(["entry_argument"], required=False, metavar="[ENTRY]", shell_complete=complete_files),
    ],
    options=[*IMAGE_OPTIONS, *(BY_NAME[name]._replace(group="Algorithm") for name in _WHAT)],
    help="Build an OCI image of the algorithm with docker, podman or buildah, and print its name.\n\n"
    "The image starts hkrunner, which serves the worker of its pod. It has the code without what .hkubeignore"
    " leaves out, and the packages of its requirements.txt, pyproject.toml or inline metadata. What follows"
    " `--` is passed to the engine's build command.",
    epilog=EPILOG,
)
