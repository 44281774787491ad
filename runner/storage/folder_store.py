"""HKube's storage in a folder (its fs adapter): an object is a file, its header the first 8 bytes."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Sequence

from .encoded_value import HEADER_SIZE, is_header
from .errors import StorageError
from .file_region import SMALL, Bytes, FileRegion, append, joined
from .stored_object import StoredObject, check_fits
from .unfinished_files import UnfinishedFiles


class FolderStore:
    """Objects below one folder."""

    def __init__(self, folder: str, unfinished: UnfinishedFiles | None = None) -> None:
        """`unfinished`: where the names of files are noted that a killed process would leave."""
        self._folder = folder
        self._noted = contextlib.nullcontext if unfinished is None else unfinished.noted
        self._real_folder = ""  #: without links, with a / at its end; "": not known yet

    def open(self, path: str, progress: Callable[[], None]) -> StoredObject:
        """Return the object at this path; raises StorageError."""
        file = self._file(path)
        try:
            fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StorageError(f"no object can be read at {file}: {error.strerror}") from None
        try:
            self._check_below(_path_of(fd), file)
            size = os.fstat(fd).st_size
            check_fits(size, file)
            progress()
            begin = os.pread(fd, max(size, HEADER_SIZE) if size <= SMALL else HEADER_SIZE, 0)
        except BaseException as error:  # also Abandoned
            os.close(fd)
            if isinstance(error, OSError):
                raise StorageError(f"no object can be read at {file}: {error.strerror}") from None
            raise
        # A header alone is that of empty bytes: as a value, it is of none of the encodings.
        header = begin[:HEADER_SIZE] if is_header(begin[:HEADER_SIZE]) else None
        at = 0 if header is None else HEADER_SIZE
        if len(begin) >= size:
            os.close(fd)
            return StoredObject(file, header, begin[at:size], lambda: None)
        return StoredObject(file, header, FileRegion(fd, at, size - at), lambda: os.close(fd))

    def write(self, path: str, header: bytes, body: Sequence[Bytes], progress: Callable[[], None]) -> None:
        """Write an object, which is there whole or not at all; raises StorageError."""
        file = self._file(path)
        folder, name = os.path.split(file)
        # Other pods write into this folder, too, and have the same process ids.
        part = os.path.join(folder, f".{name}.{secrets.token_hex(8)}.part")
        try:
            with self._noted(part):
                self._write_and_rename(part, file, (header, *body), progress)
        except OSError as error:
            reason = error.strerror or str(error)
            raise StorageError(f"no object can be written to {file}: {reason}") from None

    def _write_and_rename(
        self, part: str, file: str, pieces: Sequence[Bytes], progress: Callable[[], None]
    ) -> None:
        folder = os.path.dirname(file)
        fd = self._create(folder, part)
        try:
            with open(fd, "wb", buffering=0):
                self._check_below(os.path.dirname(_path_of(fd)), folder)
                for one in joined(pieces):
                    append(fd, one, progress)
            os.rename(part, file)
        except BaseException:  # also Abandoned and MemoryError
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise

    def _create(self, folder: str, part: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            return os.open(part, flags, 0o666)
        except FileNotFoundError:
            self._check_below(os.path.realpath(folder), folder)
            os.makedirs(folder, exist_ok=True)
            return os.open(part, flags, 0o666)

    def _check_below(self, real: str, shown: str) -> None:
        """Raise StorageError unless this path without links is below the folder: links may lead anywhere."""
        if self._real_folder and f"{real}/".startswith(self._real_folder):
            return
        self._real_folder = f"{os.path.realpath(self._folder).rstrip('/')}/"
        if not f"{real}/".startswith(self._real_folder):
            raise StorageError(f"a link leads out of the storage: {shown} is {real}")

    def _file(self, path: str) -> str:
        if ".." in path.split("/"):
            raise StorageError(f"the path of an object leads out of the storage: {path!r:.200}")
        try:
            if b"\0" in os.fsencode(path):
                raise ValueError("a null byte")
        except ValueError as error:  # also a lone surrogate
            raise StorageError(
                f"the path of an object is no path of a file: {path!r:.200}: {error}"
            ) from None
        return os.path.join(self._folder, path.lstrip("/"))


def _path_of(fd: int) -> str:
    """Return the path of an open file, without links."""
    return os.readlink(f"/proc/self/fd/{fd}")
