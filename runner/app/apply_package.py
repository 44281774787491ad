"""What `hkrunner apply` sends: the fields of the descriptor, and the package of the code."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ...sandbox.shared.entry import Location
from ...sandbox.shared.limits import parse_cpu, parse_memory
from ..cluster.algorithm_payload import algorithm_payload, image_of, user_name
from ..cluster.byte_progress import show_nothing
from ..cluster.code_package import check_archive, write_package
from ..errors import EntryNotFound, SettingsError
from ..image.requirement_lists import hosts_with_login
from ..prepare.code_files import CodeFiles, code_files
from ..prepare.installation import named
from ..prepare.prepare import place, temporary_folder
from ..prepare.requirement_sources import find_requirements, listed_in
from ..settings.algorithm_name import RULE, algorithm_name, is_algorithm_name
from ..settings.descriptor_schema import Descriptor
from ..settings.descriptor_search import without_function
from ..settings.settings import Settings


class ApplyRequest(NamedTuple):
    """The options of `hkrunner apply`."""

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
    """The file that is sent."""

    path: str
    name: str
    size: int
    files: CodeFiles | None  #: None: an archive that is sent as it is
    notes: tuple[str, ...] = ()  #: what HKube's build will not do, and what it makes known

    def lines(self) -> list[str]:
        """Return what a person is told about it."""
        return [*(() if self.files is None else self.files.lines()), *self.notes]


class ApplyContent(NamedTuple):
    """What an apply sends."""

    name: str
    payload: dict[str, Any]
    package: CodePackage | None


def prepare_apply(
    settings: Settings,
    request: ApplyRequest,
    environ: Mapping[str, str],
    stack: contextlib.ExitStack,
    *,
    progress: Callable[[str], None] = show_nothing,
    before_packing: Callable[[], object] = lambda: None,
) -> ApplyContent:
    """Return what is to be sent; the stack removes the package. Raises HkrunnerError.

    `progress` gets how much is packed. `before_packing` is called once nothing else can be wrong here.
    """
    descriptor = settings.code.descriptor
    if request.name is not None and not is_algorithm_name(request.name):
        raise SettingsError(f"--name {request.name}: {RULE}")
    fields = {} if descriptor is None else dict(descriptor.fields)
    fields.update(_limits(request))
    image = request.image
    if image is None and (descriptor is None or descriptor.code_path is None):
        image = image_of(fields)
    package, entry, folder = None, None, settings.code.cwd
    if image is None and not fields.get("gitRepository"):
        package, entry, folder = _unpacked(settings, stack)
        fields.setdefault("env", "python")
        if descriptor is not None:
            fields["env"] = descriptor.env
    name = request.name or (None if descriptor is None else descriptor.name) or algorithm_name(folder)
    if package is not None and package.files is not None:
        before_packing()
        path = os.path.join(temporary_folder(tempfile.gettempdir(), "hkrunner-apply-", stack), package.name)
        write_package(path, package.files, progress=progress)
        package = package._replace(path=path, size=os.path.getsize(path))
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
            found["mem"] = request.mem  # as it was written
    except ValueError as error:
        option = "--mem" if "cpu" in found or request.cpu is None else "--cpu"
        raise SettingsError(f"{option}: {error}") from None
    if request.gpu is not None:
        if not request.gpu.isdecimal():
            raise SettingsError(f"--gpu wants a number of GPUs, not {request.gpu!r}")
        found["gpu"] = int(request.gpu)
    return found


def _unpacked(settings: Settings, stack: contextlib.ExitStack) -> tuple[CodePackage, str, str]:
    """Return the package, not packed yet unless it is an archive, the entry in it, and the code's folder."""
    descriptor = settings.code.descriptor
    where: Location | None = None
    if descriptor is not None and descriptor.code_path is not None and os.path.isfile(descriptor.code_path):
        path = descriptor.code_path
        package = CodePackage(path, os.path.basename(path), check_archive(path), None)
        return package, _entry_in_archive(settings, descriptor, package.name), descriptor.folder
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
        _need_start(entry, where.function)
    files = code_files(folder)
    if entry and not any(one.name == entry for one in files.files):
        raise SettingsError(f"{entry}, the entry, is left out of the code: see .hkubeignore")
    notes = () if where is None else tuple(_notes(settings, where, files))
    return CodePackage("", "code.zip", 0, files, notes), entry, folder


def _entry_in_archive(settings: Settings, descriptor: Descriptor, archive: str) -> str:
    """Return the path of the entry in the archive, which is not unpacked: --entry, or the descriptor's."""
    asked = settings.code.entry
    if asked is not None and os.path.isdir(os.path.join(settings.code.cwd, os.path.expanduser(asked))):
        asked = None  # the folder of the descriptor
    entry = asked or descriptor.entry or "main.py"
    name = without_function(entry)
    _need_start(name, entry[len(name) + 1 :])
    path = os.path.normpath(name)
    if os.path.isabs(path) or path.split(os.sep)[0] == os.pardir:
        raise SettingsError(f"--entry {entry}: the code is {archive}, and its entry is a path in it")
    return path


def _need_start(entry: str, function: str) -> None:
    if function not in ("", "start"):
        raise SettingsError(
            f"HKube calls `start`, and an entry point there is a file: {entry}:{function} runs with"
            " hkrunner only (hkrunner image)"
        )


def _notes(settings: Settings, where: Location, files: CodeFiles) -> Iterator[str]:
    """Yield what is said about the requirements of the code, which HKube's build reads only in part.

    It runs dependencyInstallCmd, or else reads the requirements.txt at the root of the code. Passwords and
    tokens in addresses are not refused, as for an image: it has no other way to a package index with a login.
    """
    root = os.path.join(where.folder, "requirements.txt")
    descriptor = settings.code.descriptor
    has_command = descriptor is not None and bool(descriptor.fields.get("dependencyInstallCmd"))
    try:
        found = find_requirements(where, settings.code.cwd)
        lists = [listed_in(root)] if os.path.isfile(root) else []
    except SettingsError:
        return  # the build does not read them either
    if found is not None and found.shown and not lists and not has_command:
        source = found.source if found.lines is not None else os.path.relpath(found.file, where.folder)
        yield (
            f"HKube's build does not install what {source} lists ({named(found.shown)}), but only a"
            f" requirements.txt in {where.folder}: write one, or use an image (hkrunner image)"
        )
    if found is not None and found.file != root:
        lists.append(found)
    sent = {one.path for one in files.files}
    for one in lists:
        for host in dict.fromkeys(hosts_with_login(one) if one.file in sent else ()):
            yield (
                f"{one.source} has a login in the address of {host}: whoever can read the cluster's storage,"
                " or pull the image that is built there, can read it (hkrunner image keeps it out of both)"
            )
