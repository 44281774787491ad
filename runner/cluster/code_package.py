"""Packs an algorithm's code as a zip, the same bytes for the same code.

HKube builds an algorithm again when the checksum of the package has changed. So nothing is in it that differs
between two machines with the same code: no times, no owners, an order of the files that is fixed.
"""

from __future__ import annotations

import shutil
import stat
import zipfile

from ..errors import SettingsError
from ..prepare.code_files import CodeFile, CodeFiles

#: The oldest date that a zip can have.
_DATE = (1980, 1, 1, 0, 0, 0)


def write_package(path: str, code: CodeFiles) -> None:
    """Write the package. Raises SettingsError for a file that cannot be packed."""
    _check_names(code)
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package:
            for one in code.files:
                _add_or_explain(package, one)
    except OSError as error:
        raise SettingsError(f"the package {path} cannot be written: {error.strerror}") from None


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


def _add_or_explain(package: zipfile.ZipFile, one: CodeFile) -> None:
    try:
        _add(package, one)
    except OSError as error:
        raise SettingsError(f"{one.path} cannot be packed: {error.strerror}") from None


def _add(package: zipfile.ZipFile, one: CodeFile) -> None:
    entry = zipfile.ZipInfo(one.name, _DATE)
    entry.compress_type = zipfile.ZIP_DEFLATED
    if one.link is not None:
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        package.writestr(entry, one.link)
        return
    entry.external_attr = (stat.S_IFREG | (0o755 if one.executable else 0o644)) << 16
    entry.file_size = one.size  # so that zip64 is used where it is needed
    with open(one.path, "rb") as source, package.open(entry, "w") as target:
        shutil.copyfileobj(source, target)
