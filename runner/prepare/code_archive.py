"""Unpacks a code archive into a cache folder, once for each content, and writes nothing outside of it.

As HKube's server does, it accepts zip, and gzip with a tar in it, recognized by content and not by name. The
archive's root is the root of the code. Two rules keep everything inside: a name that leaves the root is
refused, and no file is written through a link.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Generator, Iterator
from typing import IO, NamedTuple

from ..errors import SettingsError

#: Limits of an archive. Sizes are counted while writing, since those in its headers may be false.
BYTES_MAX = 4 * 1024**3
FILES_MAX = 100_000
_CHUNK = 1024 * 1024
#: Bytes that are read behind the end of a tar, which fills its last record: 10 KiB, or what tar -b was given.
_PADDING_MAX = 16 * 1024**2
#: Bytes that are read of a link's target: a longer one is no path (PATH_MAX).
_LINK_MAX = 4096
#: Exceptions of the libraries for data that is no archive, or that is truncated.
_BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, gzip.BadGzipFile),
    *(NotImplementedError, RuntimeError, UnicodeError, ValueError),
)


class _Member(NamedTuple):
    """One entry of an archive: a folder (`link` and `content` are None), a link, or a file."""

    name: str
    link: str | None
    content: IO[bytes] | None
    executable: bool


def unpack(archive: str, cache: str, *, bytes_max: int = BYTES_MAX, files_max: int = FILES_MAX) -> str:
    """Return the folder below `cache` with the content of this archive, which is unpacked if it is new.

    Raises SettingsError for a file that is no archive, or that would write outside.
    """
    shown = os.path.basename(archive)
    kind = kind_of(archive)
    digest = _digest(archive)
    folder = os.path.join(cache, digest)
    if os.path.isdir(folder):
        return folder
    try:
        os.makedirs(cache, exist_ok=True)
        part = tempfile.mkdtemp(prefix=f".{digest}.", dir=cache)
        try:
            with contextlib.closing(_members(archive, kind)) as members:
                _fill(part, members, bytes_max, files_max)
            os.chmod(part, 0o755)
            _move(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except _ArchiveRefused as error:
        raise SettingsError(f"{shown}: {error}") from None
    except EOFError:
        raise SettingsError(f"{shown} is cut off: its end is missing; copy or pack it again") from None
    except _BROKEN as error:
        raise SettingsError(f"{shown} cannot be unpacked: {error or type(error).__name__}") from None
    except OSError as error:
        raise SettingsError(f"{shown} cannot be unpacked to {cache}: {error.strerror or error}") from None
    return folder


class _ArchiveRefused(Exception):
    """The archive contains something that is refused."""


def kind_of(archive: str) -> str:
    """Return `zip` or `gz`, by the file's content. Raises SettingsError for a file that is neither."""
    with _opened(archive) as file:
        head = file.read(4)
    if head[:2] == b"\x1f\x8b":
        return "gz"
    # The second signature is that of an empty zip.
    if head in (b"PK\x03\x04", b"PK\x05\x06"):
        return "zip"
    raise SettingsError(
        f"{os.path.basename(archive)}: data.fileExt should be equal to one of the allowed values (zip,gz): it"
        " is neither by its content"
    )


def _digest(archive: str) -> str:
    digest = hashlib.sha256()
    with _opened(archive) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()[:24]


@contextlib.contextmanager
def _opened(archive: str) -> Iterator[IO[bytes]]:
    """Open the archive; an error of it becomes a SettingsError."""
    try:
        with open(archive, "rb") as file:
            yield file
    except OSError as error:
        raise SettingsError(f"cannot read {archive}: {error.strerror}") from None


def _move(part: str, folder: str) -> None:
    try:
        os.rename(part, folder)
    except OSError:
        if not os.path.isdir(folder):
            raise
        # Another run was faster; its content is the same.


def _members(archive: str, kind: str) -> Generator[_Member, None, None]:
    return _of_zip(archive) if kind == "zip" else _of_tar(archive)


def _of_zip(archive: str) -> Generator[_Member, None, None]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            mode = info.external_attr >> 16
            if info.is_dir():
                yield _Member(info.filename, None, None, False)
            elif stat.S_ISLNK(mode):
                with opened.open(info) as content:
                    yield _Member(info.filename, os.fsdecode(content.read(_LINK_MAX)), None, False)
            else:
                with opened.open(info) as content:
                    yield _Member(info.filename, None, content, bool(mode & 0o100))


def _of_tar(archive: str) -> Generator[_Member, None, None]:
    with gzip.open(archive) as file:
        try:
            opened = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - the file is closed
        except tarfile.ReadError as error:
            raise _ArchiveRefused(f"it is gzip, and holds no tar: {error}") from None
        for info in opened:
            if info.isdir():
                yield _Member(info.name, None, None, False)
            elif info.issym():
                yield _Member(info.name, info.linkname, None, False)
            elif info.isreg() or info.islnk():
                # A hard link becomes a copy of the file that it names.
                try:
                    content = opened.extractfile(info)
                except KeyError:
                    raise _ArchiveRefused(
                        f"{info.name} is a link to a file that is not in the archive"
                    ) from None
                if content is None:
                    raise _ArchiveRefused(f"{info.name} is a link to something that is not a file")
                with content:
                    yield _Member(info.name, None, content, bool(info.mode & 0o100))
            else:
                raise _ArchiveRefused(f"{info.name} is a device or a pipe")
        _read_to_end(file)


def _read_to_end(file: gzip.GzipFile) -> None:
    """Read to the end of the gzip, where its checksum is: tarfile stops at the end of the tar.

    Where far more follows than any tar has there, the rest is left unread: it may be gigabytes.
    """
    left = _PADDING_MAX
    try:
        while left > 0 and (chunk := file.read(_CHUNK)):
            left -= len(chunk)
    except gzip.BadGzipFile as error:
        if "Not a gzipped file" not in str(error):  # other bytes after the end, which gunzip ignores too
            raise


def _fill(root: str, members: Iterator[_Member], bytes_max: int, files_max: int) -> None:
    root = os.path.realpath(root)
    left = bytes_max
    number = 0
    for number, member in enumerate(members, start=1):
        if number > files_max:
            raise _ArchiveRefused(f"it holds more than {files_max:,} files")
        path = _inside(root, member.name)
        if path == root:
            continue
        parent = os.path.dirname(path)
        os.makedirs(parent, exist_ok=True)
        if os.path.realpath(parent) != parent:
            raise _ArchiveRefused(f"{member.name} would be written through a link")
        if member.content is not None:
            left -= _write(path, member.content, left, bytes_max, member.executable)
        elif member.link is not None:
            _inside(root, os.path.join(os.path.relpath(parent, root), member.link), link=member.name)
            _remove(path)
            os.symlink(member.link, path)
        else:
            if os.path.islink(path):
                raise _ArchiveRefused(f"{member.name} would be written through a link")
            os.makedirs(path, exist_ok=True)
    if not number:
        raise _ArchiveRefused("it is empty")


def _inside(root: str, name: str, *, link: str = "") -> str:
    """Return the path for this name; raises _ArchiveRefused if it is outside. `link`: whose target it is."""
    parts = os.path.normpath(name).split(os.sep)
    if "\0" in name or os.path.isabs(name) or parts[0] == os.pardir:
        raise _ArchiveRefused(
            f"{link} is a link that leads outside: {name}" if link else f"{name} lies outside"
        )
    return os.path.normpath(os.path.join(root, name))


def _write(path: str, content: IO[bytes], most: int, bytes_max: int, executable: bool) -> int:
    _remove(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    written = 0
    with open(os.open(path, flags, 0o755 if executable else 0o644), "wb") as file:
        while chunk := content.read(_CHUNK):
            written += len(chunk)
            if written > most:
                raise _ArchiveRefused(f"it holds more than {bytes_max:,} bytes")
            file.write(chunk)
    return written


def _remove(path: str) -> None:
    """Remove a file of the same name: the last one of a name counts."""
    if os.path.islink(path) or os.path.isfile(path):
        os.unlink(path)
