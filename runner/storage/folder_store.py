"""HKube's storage in a folder (its fs adapter): an object is a file, its header the first 8 bytes."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Sequence

from .encoded_value import HEADER_SIZE, is_header
from .errors import StorageError
from .file_region import Bytes, FileRegion, append
from .stored_object import StoredObject


class FolderStore:
    """Objects below one folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def open(self, path: str, progress: Callable[[], None]) -> StoredObject:
        """Return the object at this path; raises StorageError."""
        file = self._file(path)
        try:
            fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StorageError(f"no object can be read at {file}: {error.strerror}") from None
        try:
            size = os.fstat(fd).st_size
            progress()
            begin = os.pread(fd, HEADER_SIZE, 0)
        except OSError as error:
            os.close(fd)
            raise StorageError(f"no object can be read at {file}: {error.strerror}") from None
        # Of an object that is not longer, the bytes are the value (HKube storage-manager lib/storage).
        header = begin if size > HEADER_SIZE and is_header(begin) else None
        at = 0 if header is None else HEADER_SIZE
        return StoredObject(file, header, FileRegion(fd, at, size - at), lambda: os.close(fd))

    def write(self, path: str, header: bytes, body: Sequence[Bytes], progress: Callable[[], None]) -> None:
        """Write an object, which is there whole or not at all; raises StorageError."""
        file = self._file(path)
        folder, name = os.path.split(file)
        # Other pods write into this folder, too, and have the same process ids.
        part = os.path.join(folder, f".{name}.{secrets.token_hex(8)}.part")
        try:
            fd = self._create(folder, part)
            try:
                with open(fd, "wb", buffering=0):
                    for one in (header, *body):
                        append(fd, one, progress)
                os.rename(part, file)
            except BaseException:  # also when nobody waits any more, or no memory is left
                with contextlib.suppress(OSError):
                    os.unlink(part)
                raise
        except OSError as error:
            reason = error.strerror or str(error)
            raise StorageError(f"no object can be written to {file}: {reason}") from None

    def _create(self, folder: str, part: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            return os.open(part, flags, 0o666)
        except FileNotFoundError:
            os.makedirs(folder, exist_ok=True)
            return os.open(part, flags, 0o666)

    def _file(self, path: str) -> str:
        if ".." in path.split("/"):
            raise StorageError(f"the path of an object leads out of the storage: {path!r}")
        return os.path.join(self._folder, path.lstrip("/"))
