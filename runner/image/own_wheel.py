"""Packs the hkrunner that is running as a wheel, so that an image gets this version and no other.

A wheel made twice of the same files is the same, byte for byte, so that an engine takes the layer from its
cache.
"""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile
from collections.abc import Iterator
from importlib import metadata

from ..errors import HkrunnerError

NAME = "hkrunner"
#: The root of the package, two folders above this one.
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_PACKAGES = ("runner", "sandbox", "boards")
_AT_THE_ROOT = ("__init__.py", "__main__.py", "py.typed")
#: The oldest date that a zip can have.
_DATE = (1980, 1, 1, 0, 0, 0)
_TAGS = "Wheel-Version: 1.0\nGenerator: hkrunner\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def write_own_wheel(folder: str) -> str:
    """Write the wheel into the folder, and return its path. Raises HkrunnerError if it is not installed."""
    try:
        distribution = metadata.distribution(NAME)
    except metadata.PackageNotFoundError:
        raise HkrunnerError(
            "hkrunner is not installed as a package, so its requirements are unknown: install it with pip"
        ) from None
    version = distribution.version
    information = f"{NAME}-{version}.dist-info"
    path = os.path.join(folder, f"{NAME}-{version}-py3-none-any.whl")
    record: list[str] = []
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in _content(distribution, information):
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(content)}")
            _add(wheel, name, content)
        record.append(f"{information}/RECORD,,")
        _add(wheel, f"{information}/RECORD", "\n".join(record).encode() + b"\n")
    return path


def _content(distribution: metadata.Distribution, information: str) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of each file, in a fixed order."""
    for path in _sources():
        with open(path, "rb") as file:
            yield f"{NAME}/{os.path.relpath(path, _ROOT)}", file.read()
    for name in ("METADATA", "entry_points.txt"):
        text = distribution.read_text(name)
        if text is None:
            raise HkrunnerError(f"the installation of hkrunner lacks {name}: install it again")
        yield f"{information}/{name}", text.encode()
    yield f"{information}/WHEEL", _TAGS.encode()


def _sources() -> Iterator[str]:
    """Yield the files of the package; in a checkout of the repository, those that would be installed."""
    yield from (os.path.join(_ROOT, name) for name in _AT_THE_ROOT)
    for package in _PACKAGES:
        for root, folders, names in os.walk(os.path.join(_ROOT, package)):
            folders[:] = sorted(one for one in folders if one != "__pycache__")
            yield from (os.path.join(root, name) for name in sorted(names) if not name.endswith(".pyc"))


def _add(wheel: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    wheel.writestr(entry, content)
