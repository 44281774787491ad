"""Writes the build context of an image: hkrunner's wheel, the requirements, the code, the Containerfile.

Everything in it can be read by every user, and has one fixed time: whoever runs the container can read the
code, and a file that was only touched changes no layer.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from urllib.parse import quote

from ...sandbox.linux.walk_tree import walk_tree
from ...sandbox.shared.entry import Location
from ..errors import SettingsError
from ..prepare.code_files import CodeFiles
from ..prepare.requirement_sources import Requirements
from ..settings.descriptor_search import is_below
from .containerfile import (
    CODE,
    CONTEXT_CODE,
    CONTEXT_HKRUNNER,
    CONTEXT_REQUIREMENTS,
    ImagePlan,
    containerfile,
)
from .own_wheel import write_own_wheel
from .requirement_lists import check, local_sources, nested_lists, variables_in, with_places

_LIST = "requirements.txt"
_HERE = os.path.dirname(os.path.abspath(__file__))
_CHUNK = 1024 * 1024
#: Seconds since 1970 of every file in the context, 1980-01-01: the engines compare times too.
_TIME = 315532800


def write_context(
    folder: str, plan: ImagePlan, code: CodeFiles, requirements: Requirements | None
) -> ImagePlan:
    """Write the context into the folder, which is empty; return the plan, completed. Raises SettingsError."""
    for name in (CONTEXT_HKRUNNER, CONTEXT_CODE):
        os.mkdir(os.path.join(folder, name))
    wheel = write_own_wheel(os.path.join(folder, CONTEXT_HKRUNNER))
    shutil.copyfile(
        os.path.join(_HERE, "algorithm-entrypoint"),
        os.path.join(folder, CONTEXT_HKRUNNER, "algorithm-entrypoint"),
    )
    plan = plan._replace(wheel=os.path.basename(wheel))
    _copy_code(os.path.join(folder, CONTEXT_CODE), code)
    if requirements is not None:
        plan = _with_requirements(folder, plan, code, requirements)
    with open(os.path.join(folder, "Containerfile"), "w", encoding="utf-8") as file:
        file.write(containerfile(plan))
    _make_uniform(folder)
    return plan


def digest_of(folder: str) -> str:
    """Return a digest of all names, modes and contents of the folder, 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in _files_of(folder):
        mode = "link" if os.path.islink(path) else str(os.access(path, os.X_OK))
        digest.update(f"\0{os.path.relpath(path, folder)}\0{mode}\0".encode(errors="surrogateescape"))
        if os.path.islink(path):
            digest.update(os.fsencode(os.readlink(path)))
            continue
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()[:12]


def entry_in_image(where: Location) -> str:
    """Return the entry as the variable ALGORITHM_ENTRY_POINT has it, relative to the folder of the code."""
    entry = os.path.relpath(where.file, where.folder) if where.file else where.module
    if not entry.isprintable():
        raise SettingsError(f"{entry!r} cannot be the entry of an image: its name has a line end or no UTF-8")
    return entry if where.function in ("", "start") else f"{entry}:{where.function}"


def _copy_code(folder: str, code: CodeFiles) -> None:
    for one in code.files:
        target = os.path.join(folder, one.name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        try:
            if one.link is not None:
                os.symlink(one.link, target)
            else:
                shutil.copyfile(one.path, target)
                os.chmod(target, 0o755 if one.executable else 0o644)
        except OSError as error:
            raise SettingsError(f"{one.path} cannot be copied: {error.strerror}") from None


def _with_requirements(
    folder: str, plan: ImagePlan, code: CodeFiles, requirements: Requirements
) -> ImagePlan:
    """Copy the lists of requirements, unless they are read where the code is."""
    check(requirements)
    plan = plan._replace(variables=variables_in(requirements))
    local = local_sources(requirements)
    listed = [] if requirements.lines is not None else nested_lists(requirements.file)
    places = [one.path for one in local] + (listed if local else [])
    outside = next((one for one in places if not is_below(one, code.folder)), None)
    if outside is not None:
        raise SettingsError(
            f"{requirements.source} installs from a folder, and {outside} lies outside of the code"
            f" ({code.folder}), which is all that the image gets"
        )
    to = os.path.join(folder, CONTEXT_REQUIREMENTS)
    if requirements.lines is not None:
        os.mkdir(to)
        top = os.path.realpath(code.folder)
        lines = with_places(requirements, lambda path: f"file://{CODE}/{quote(os.path.relpath(path, top))}")
        with open(os.path.join(to, _LIST), "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
        return plan._replace(requirements=_LIST, after_code=bool(local), list_in_code=False)
    if local:
        absolute = next((one for one in local if not one.is_relative), None)
        if absolute is not None:
            relative = os.path.relpath(absolute.path, os.path.realpath(requirements.folder))
            raise SettingsError(
                f"{requirements.source} installs from {absolute.named.rstrip(os.sep)}, which is elsewhere in"
                f" the image: write ./{relative}"
            )
        name = os.path.relpath(os.path.realpath(requirements.file), os.path.realpath(code.folder))
        return plan._replace(requirements=name, after_code=True, list_in_code=True)
    os.mkdir(to)
    top = os.path.commonpath(map(os.path.dirname, listed))
    for list_file in listed:
        target = os.path.join(to, os.path.relpath(list_file, top))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copyfile(list_file, target)
    return plan._replace(requirements=os.path.relpath(listed[0], top))


def _make_uniform(folder: str) -> None:
    """Give everything the same time, and modes with which every user can read it."""
    for path in (*_files_of(folder), *(root for root, _, _ in walk_tree(folder))):
        if not os.path.islink(path):
            is_program = os.path.isdir(path) or os.access(path, os.X_OK)
            os.chmod(path, 0o755 if is_program else 0o644)
        os.utime(path, (_TIME, _TIME), follow_symlinks=False)
    os.chmod(os.path.join(folder, CONTEXT_HKRUNNER, "algorithm-entrypoint"), 0o755)


def _files_of(folder: str) -> Iterator[str]:
    for root, folders, names in walk_tree(folder):
        folders.sort()
        links = [one for one in folders if os.path.islink(os.path.join(root, one))]
        yield from (os.path.join(root, name) for name in sorted([*names, *links]))
