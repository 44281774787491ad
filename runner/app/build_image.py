"""Makes the OCI image of an algorithm: finds the code, writes the build context, lets an engine build."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from ...sandbox.shared.entry import Location
from ..errors import SettingsError
from ..image.containerfile import PIP_CONF, ImagePlan
from ..image.context import digest_of, entry_in_image, write_context
from ..image.engines import carry_out, find_engine, full_tag, option_values, secret_files
from ..prepare.code_files import CodeFiles, code_files
from ..prepare.ignore_file import IGNORE_FILE
from ..prepare.interpreter import probe
from ..prepare.prepare import place, temporary_folder
from ..prepare.requirement_sources import Requirements, find_requirements, not_read
from ..settings.algorithm_name import algorithm_name
from ..settings.settings import Settings

#: The oldest Python that hkrunner itself runs in.
_OLDEST = (3, 10)


class ImageRequest(NamedTuple):
    """The options of `hkrunner image`."""

    tag: str | None = None
    base: str | None = None
    push: bool = False
    engine: str | None = None
    context: str | None = None
    dry_run: bool = False
    engine_arguments: Sequence[str] = ()


class BuiltImage(NamedTuple):
    """The image, or with --context and --dry-run only its build context."""

    tag: str
    plan: ImagePlan
    code: CodeFiles
    containerfile: str
    engine: str | None = None
    pushed: bool = False

    def facts(self) -> dict[str, Any]:
        """Return the fields of --json."""
        return {
            "image": self.tag,
            "pushed": self.pushed,
            "engine": self.engine,
            "base": self.plan.base,
            "entry": self.plan.entry,
            "requirements": self.plan.requirements,
            "files": len(self.code.files),
            "bytes": self.code.size,
            "leftOut": [one._asdict() for one in self.code.left_out],
            "containerfile": self.containerfile,
        }


def build_image(
    settings: Settings, request: ImageRequest, version: str, tell: Callable[[str], None]
) -> BuiltImage:
    """Make the image, and push it if asked. `tell` gets each line for a person. Raises HkrunnerError."""
    if request.push and request.tag is None:
        raise SettingsError("--push wants --tag with the registry: --tag registry.example/team/alg")
    builds = request.context is None and not request.dry_run
    # Before the work: a missing engine is not reported after minutes of copying.
    engine = find_engine(request.engine) if builds else None
    with contextlib.ExitStack() as stack:
        where = _placed(settings, stack)
        plan, code = _plan(settings, request, version, where)
        requirements = find_requirements(where, settings.code.cwd)
        for line in (*code.lines(), *_not_installed(settings, where, requirements)):
            tell(line)
        if request.context is not None:
            folder = _new_folder(request.context)
        else:
            folder = temporary_folder(tempfile.gettempdir(), "hkrunner-image-", stack)
        try:
            plan = write_context(folder, plan, code, requirements)
        except OSError as error:
            raise SettingsError(
                f"the build context cannot be written: {error.filename or folder}: {error.strerror}"
            ) from None
        if plan.after_code:
            tell(
                f"{plan.requirements} installs from folders of the code: each change of the code installs all"
                " of it again"
            )
        given = {one.partition("=")[0] for one in option_values(request.engine_arguments, "--build-arg")}
        unset = [one for one in plan.variables if one not in given]
        if requirements is not None and unset:
            tell(
                f"{requirements.source} names the variables {', '.join(unset)}: pip gets the value of one"
                f" with `-- --build-arg {unset[0]}=…`"
            )
        tag = full_tag(plan.name if request.tag is None else request.tag, digest_of(folder))
        with open(os.path.join(folder, "Containerfile"), encoding="utf-8") as file:
            built = BuiltImage(tag, plan, code, file.read())
        if engine is None:
            return built
        tell(f"building {tag} with {engine.name} on {plan.base}")
        carry_out(engine.build(tag, folder, request.engine_arguments), "the build of the image")
        if request.push:
            tell(f"pushing {tag}")
            carry_out(engine.push(tag), "the push of the image")
        return built._replace(engine=engine.name, pushed=request.push)


def _placed(settings: Settings, stack: contextlib.ExitStack) -> Location:
    """Return where the code is. Raises SettingsError for code that is not Python's."""
    descriptor = settings.code.descriptor
    if settings.code.command is not None or (descriptor is not None and descriptor.env != "python"):
        raise SettingsError(
            "hkrunner image makes images of Python code; for another language, write a Containerfile that"
            " sets HKRUNNER_COMMAND"
        )
    return place(settings, stack)


def _not_installed(settings: Settings, where: Location, requirements: Requirements | None) -> Iterator[str]:
    """Yield what a person should know: what says what the code requires, and is not obeyed."""
    descriptor = settings.code.descriptor
    if descriptor is not None and descriptor.fields.get("dependencyInstallCmd"):
        at = descriptor.at("/dependencyInstallCmd")
        yield f"{at}: only HKube's build runs dependencyInstallCmd: what it installs has to be in the base"
    if requirements is None and (others := not_read(where, settings.code.cwd)):
        yield f"not read: {', '.join(others)}: list what the code requires in requirements.txt"


def _plan(
    settings: Settings, request: ImageRequest, version: str, where: Location
) -> tuple[ImagePlan, CodeFiles]:
    descriptor = settings.code.descriptor
    # In the cluster the descriptor is the one that was applied: limits in a file of the image would be older.
    without = [os.path.join(where.folder, IGNORE_FILE), *secret_files(request.engine_arguments)]
    if descriptor is not None:
        without.append(descriptor.file)
    code = code_files(where.folder, without=tuple(without))
    if where.file and os.path.realpath(where.file) not in {os.path.realpath(one.path) for one in code.files}:
        raise SettingsError(f"{where.shown}, the entry, is left out of the code: see {IGNORE_FILE}")
    base = request.base
    if base is None and descriptor is not None:
        base = descriptor.fields.get("baseImage")
        base = None if base is None else str(base)
    if base is None:
        python = probe(settings.code.python, settings.code.cwd)
        if python.version < _OLDEST:
            raise SettingsError(
                f"the image's Python runs hkrunner too, which needs 3.10, and {python.path} is"
                f" {python.shown_version}: name a newer one with --python, or the image with --base"
            )
        base = f"python:{python.version[0]}.{python.version[1]}-slim"
    if not base or not base.isprintable() or " " in base:
        raise SettingsError(f"--base wants the name of an image, such as python:3.12-slim; got {base!r}")
    name = None if descriptor is None else descriptor.name
    name = name or algorithm_name(where.folder)
    secrets = option_values(request.engine_arguments, "--secret")
    plan = ImagePlan(
        name,
        base,
        version,
        "",
        entry_in_image(where),
        has_pip_conf=any(f"id={PIP_CONF}" in one.split(",") for one in secrets),
    )
    return plan, code


def _new_folder(path: str) -> str:
    folder = os.path.abspath(os.path.expanduser(path))
    try:
        if os.path.lexists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
            raise SettingsError(f"--context {path}: it exists already; name a new folder")
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"--context {path} cannot be used: {error.strerror}") from None
    return folder


__all__ = ["BuiltImage", "ImageRequest", "build_image"]
