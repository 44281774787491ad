"""--output-file: what is written replaces the file atomically in the end."""

from __future__ import annotations

import contextlib
import os
import stat

from ...sandbox.linux.abandoned import remove_abandoned, signed_name
from ..errors import SettingsError

#: Ending of the name of a file that is not complete yet.
PART = ".part"


class OutputFile:
    """A file that only commit() replaces. A pipe or a device is written to directly."""

    def __init__(self, path: str, cwd: str, flag: str = "--output-file") -> None:
        """Raises SettingsError, which names the flag, if it cannot be written."""
        if not path:
            raise SettingsError(f"{flag} wants FILE, not ''")
        place = os.path.join(cwd, os.path.expanduser(path))
        #: The file itself: a symbolic link stays, its target is replaced.
        self.path = os.path.realpath(place)
        self._part: str | None = None  #: name of the incomplete file, if it has one
        self._is_unnamed = False  #: whether it has no name, so that commit() has to give it one
        try:
            mode = _mode(place)
            if mode is not None and stat.S_ISDIR(mode):
                raise SettingsError(f"{flag} {path}: is a folder")
            if mode is not None and not stat.S_ISREG(mode):
                self.fd = os.open(place, os.O_WRONLY | os.O_CLOEXEC)
                return
            if mode is not None and not os.access(self.path, os.W_OK):
                raise PermissionError(0, "is not writable")
            self.fd = self._open_part()
            os.fchmod(self.fd, stat.S_IMODE(mode) if mode is not None else 0o666 & ~_umask())
        except OSError as error:
            self.discard()
            raise SettingsError(f"{flag} {path}: {error.strerror}") from None

    @property
    def is_replaced(self) -> bool:
        """Whether commit() replaces the file, or makes it; otherwise it is written to in its place."""
        return self._is_unnamed or self._part is not None

    def _open_part(self) -> int:
        """Open a file in the same folder: without a name, so that nothing is left if we are killed."""
        folder = os.path.dirname(self.path)
        try:
            fd = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            raise
        except OSError:  # not every file system has it: NFS, an older overlay
            part = self._new_name()
            fd = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            self._part = part
        else:
            self._is_unnamed = True
        return fd

    def _prefix(self) -> str:
        return f".{os.path.basename(self.path)[:150]}."

    def _new_name(self) -> str:
        return os.path.join(os.path.dirname(self.path), signed_name(self._prefix(), PART))

    def _remove_abandoned(self) -> None:
        """Remove incomplete files of earlier runs with the same file, if SIGKILL has ended those."""
        if self._part is not None and not self._is_unnamed:
            remove_abandoned(os.path.dirname(self.path), self._prefix(), PART)

    def commit(self) -> None:
        """Replace the file by what was written. Raises OSError, and then the old file is unchanged."""
        self._remove_abandoned()
        try:
            if self.is_replaced:
                os.fsync(self.fd)
            if self._is_unnamed:
                self._part = self._name_part()
            if self._part is not None:
                os.replace(self._part, self.path)
        except OSError:
            self._unlink_part()
            raise
        finally:
            self._part, self._is_unnamed = None, False
            os.close(self.fd)

    def _name_part(self) -> str:
        part = self._new_name()
        # With a folder's descriptor it is linkat(), which follows the link to the open file (open(2)).
        root = os.open("/", os.O_PATH | os.O_CLOEXEC)
        try:
            os.link(f"/proc/self/fd/{self.fd}", part, src_dir_fd=root)
        finally:
            os.close(root)
        return part

    def discard(self) -> None:
        """Leave the old file unchanged, unless commit() was called."""
        if self._part is None and not self._is_unnamed:
            return
        self._remove_abandoned()
        self._unlink_part()
        self._part, self._is_unnamed = None, False
        os.close(self.fd)

    def _unlink_part(self) -> None:
        if self._part is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._part)


def _mode(path: str) -> int | None:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


def _umask() -> int:
    """Return the umask; setting it is the only way to read it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
