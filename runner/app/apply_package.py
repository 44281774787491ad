"""What `hkrunner apply` sends: the fields of the descriptor, and the package of the code."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ...sandbox.shared.limits import parse_cpu, parse_memory
from ..cluster.algorithm_payload import algorithm_payload, image_of, user_name
from ..cluster.byte_progress import untold
from ..cluster.code_package import write_package
from ..errors import EntryNotFound, SettingsError
from ..prepare.code_files import CodeFiles, code_files
from ..prepare.prepare import place
from ..settings.algorithm_name import algorithm_name
from ..settings.settings import Settings


class ApplyRequest(NamedTuple):
    """What the user asked for."""

    name: str | None = None
    image: str | None = None
    cpu: str | None = None
    mem: str | None = None
    gpu: str | None = None
    current: bool = False
    force: bool = False
    force_build: bool = False
    no_wait: bool = False


class CodePackage(NamedTuple):
    """The code as it is sent."""

    path: str
    name: str
    size: int
    files: CodeFiles | None  #: None: an archive that is sent as it is


class ApplyContent(NamedTuple):
    """What is sent."""

    name: str
    payload: dict[str, Any]
    package: CodePackage | None


def prepare_apply(
    settings: Settings,
    request: ApplyRequest,
    environ: Mapping[str, str],
    stack: contextlib.ExitStack,
    *,
    progress: Callable[[str], None] = untold,
) -> ApplyContent:
    """Return what is to be sent; the stack removes the package. Raises HkrunnerError.

    `progress`: gets how far the packing is.
    """
    descriptor = settings.code.descriptor
    fields = {} if descriptor is None else dict(descriptor.fields)
    fields.update(_limits(request))
    image = request.image
    if image is None and (descriptor is None or descriptor.code_path is None):
        image = image_of(fields)
    package, entry, folder = None, None, settings.code.cwd
    if image is None and not fields.get("gitRepository"):
        package, entry, folder = _package(settings, stack, progress)
        fields.setdefault("env", "python")
        if descriptor is not None:
            fields["env"] = descriptor.env
    name = request.name or (None if descriptor is None else descriptor.name) or algorithm_name(folder)
    payload = algorithm_payload(
        name,
        fields,
        removed=() if descriptor is None else descriptor.removed,
        entry=entry,
        image=image,
        user=user_name(environ),
    )
    return ApplyContent(name, payload, package)


def _limits(request: ApplyRequest) -> dict[str, Any]:
    """Return the limits that were given as options, which override the descriptor's."""
    found: dict[str, Any] = {}
    try:
        if request.cpu is not None:
            cores = parse_cpu(request.cpu)
            found["cpu"] = int(cores) if cores == int(cores) else cores
        if request.mem is not None:
            parse_memory(request.mem)
            found["mem"] = request.mem  # the cluster has it as it was written
    except ValueError as error:
        option = "--mem" if "cpu" in found or request.cpu is None else "--cpu"
        raise SettingsError(f"{option}: {error}") from None
    if request.gpu is not None:
        if not request.gpu.isdecimal():
            raise SettingsError(f"--gpu wants a number of GPUs, not {request.gpu!r}")
        found["gpu"] = int(request.gpu)
    return found


def _package(
    settings: Settings, stack: contextlib.ExitStack, progress: Callable[[str], None]
) -> tuple[CodePackage, str, str]:
    """Return the package, the entry point in it, and the folder of the code."""
    descriptor = settings.code.descriptor
    if descriptor is not None and descriptor.code_path is not None and os.path.isfile(descriptor.code_path):
        path = descriptor.code_path
        entry = descriptor.entry or "main.py"
        return (
            CodePackage(path, os.path.basename(path), os.path.getsize(path), None),
            entry,
            descriptor.folder,
        )
    if descriptor is not None and descriptor.env != "python":
        folder = descriptor.code_path or descriptor.folder
        entry = settings.code.entry or descriptor.entry or ""
        if not os.path.isfile(os.path.join(folder, entry)):
            raise EntryNotFound(
                f"ENTRY_NOT_FOUND: {descriptor.at('/code/entryPoint')}: no file {entry!r} in {folder}"
            )
    else:
        where = place(settings, stack)
        folder = where.folder
        entry = os.path.relpath(where.file, folder) if where.file else where.module
        if where.function not in ("", "start"):
            raise SettingsError(
                f"HKube calls `start`, and an entry point there is a file: {entry}:{where.function} runs with"
                " hkrunner only (hkrunner image)"
            )
    files = code_files(folder)
    if entry and not any(one.name == entry for one in files.files):
        raise SettingsError(f"{entry}, the entry, is left out of the code: see .hkubeignore")
    path = os.path.join(
        stack.enter_context(tempfile.TemporaryDirectory(prefix="hkrunner-apply-")), "code.zip"
    )
    write_package(path, files, progress=progress)
    return CodePackage(path, "code.zip", os.path.getsize(path), files), entry, folder
