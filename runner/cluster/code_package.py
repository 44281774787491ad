"""Packs an algorithm's code as a zip, the same bytes for the same code.

HKube builds an algorithm again when the checksum of the package has changed. So the package has nothing that
differs between two machines with the same code: no times, no owners, and a fixed order of the files.
"""

from __future__ import annotations

import heapq
import os
import stat
import zipfile
from collections.abc import Callable

from ...sandbox.shared.limits import format_bytes
from ..errors import SettingsError
from ..prepare.code_archive import kind_of
from ..prepare.code_files import CodeFile, CodeFiles
from .byte_progress import ByteProgress, show_nothing

#: The oldest date that a zip can have.
_DATE = (1980, 1, 1, 0, 0, 0)
#: HKube's builder reads a zip with adm-zip, whose readFileSync() takes no file above this (Node: "File size …
#: is greater than 2 GiB"). The api-server accepts the upload, so that only the build would fail.
PACKAGE_MAX = (1 << 31) - 1
_PIECE = 1 << 20
#: Number of files that are named if the package is too large.
_NAMED = 3


def write_package(
    path: str,
    code: CodeFiles,
    *,
    progress: Callable[[str], None] = show_nothing,
    most: int = PACKAGE_MAX,
) -> None:
    """Write the package; `progress` gets how much is done. Raises SettingsError for what cannot be packed."""
    _check_names(code)
    packer = _Packer(path, code, progress, most)
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package:
            for one in code.files:
                packer.add_or_explain(package, one)
    except OSError as error:
        raise SettingsError(f"the package {path} cannot be written: {error.strerror}") from None


def check_archive(path: str) -> int:
    """Return the size of an archive that is sent as it is. Raises SettingsError if it cannot be built."""
    kind, size = kind_of(path), os.path.getsize(path)
    if kind == "zip" and size > PACKAGE_MAX:
        raise SettingsError(
            f"{path} is too large: HKube's builder reads no zip of more than {format_bytes(PACKAGE_MAX + 1)}."
            " Pack the code as .tar.gz, have the algorithm fetch large files, or use an image (hkrunner"
            " image)"
        )
    return size


def _check_names(code: CodeFiles) -> None:
    """Refuse names that a zip cannot hold, before a large file is packed in vain."""
    for one in code.files:
        try:
            f"{one.name}{one.link}".encode()
        except UnicodeEncodeError:
            what = "its name" if one.link is None else "its name, or what it points to,"
            raise SettingsError(
                f"{one.path!a} cannot be packed: {what} is not UTF-8; rename it, or leave it out by"
                " .hkubeignore"
            ) from None


class _Packer:
    """Adds files to a package, and counts."""

    def __init__(self, path: str, code: CodeFiles, progress: Callable[[str], None], most: int) -> None:
        self._path = path
        self._code = code
        self._progress = ByteProgress("packing", code.size, progress)
        self._most = most

    def add_or_explain(self, package: zipfile.ZipFile, one: CodeFile) -> None:
        try:
            self._add(package, one)
        except OSError as error:
            raise SettingsError(
                f"{one.path} cannot be packed: {error.strerror}; .hkubeignore can leave it out"
            ) from None

    def _add(self, package: zipfile.ZipFile, one: CodeFile) -> None:
        entry = zipfile.ZipInfo(one.name, _DATE)
        entry.compress_type = zipfile.ZIP_DEFLATED
        if one.link is not None:
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            package.writestr(entry, one.link)
            return
        entry.external_attr = (stat.S_IFREG | (0o755 if one.executable else 0o644)) << 16
        entry.file_size = one.size  # so that zip64 is used where it is needed
        with open(one.path, "rb") as source, package.open(entry, "w") as target:
            while piece := source.read(_PIECE):
                target.write(piece)
                self._progress.add(len(piece))
                self._check_size()

    def _check_size(self) -> None:
        if self._progress.done > self._most and os.stat(self._path).st_size > self._most:
            largest = heapq.nlargest(_NAMED, self._code.files, key=lambda one: one.size)
            named = "; ".join(f"{one.name}, {format_bytes(one.size)}" for one in largest)
            raise SettingsError(
                f"the code in {self._code.folder} is too large: packed, it has more than"
                f" {format_bytes(self._most + 1)}, which HKube's builder cannot read. Leave files out by"
                f" .hkubeignore (the largest: {named}), have the algorithm fetch them, or use an image"
                " (hkrunner image)"
            )
