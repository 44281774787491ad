"""--output-file: results that replace the file atomically at the end of the run."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile

from ..errors import SettingsError


class OutputFile:
    """A file that only commit() replaces. A pipe or a device is written to directly."""

    def __init__(self, path: str, cwd: str) -> None:
        """Raises SettingsError if it cannot be written."""
        if not path:
            raise SettingsError("--output-file needs a file name")
        place = os.path.join(cwd, os.path.expanduser(path))
        self._part: str | None = None
        self._place = os.path.realpath(place)  # a symbolic link stays, its target is replaced
        try:
            mode = _mode(place)
            if mode is not None and stat.S_ISDIR(mode):
                raise SettingsError(f"--output-file {path}: is a folder")
            if mode is not None and not stat.S_ISREG(mode):
                self.fd = os.open(place, os.O_WRONLY | os.O_CLOEXEC)
                return
            if mode is not None and not os.access(self._place, os.W_OK):
                raise PermissionError(0, "is not writable")
            folder, name = os.path.split(self._place)
            self.fd, self._part = tempfile.mkstemp(prefix=f".{name[:200]}.", suffix=".part", dir=folder)
            os.fchmod(self.fd, stat.S_IMODE(mode) if mode is not None else 0o666 & ~_umask())
        except OSError as error:
            self.discard()
            raise SettingsError(f"--output-file {path}: {error.strerror}") from None

    def commit(self) -> None:
        """Replace the file by what was written. Raises OSError, and then the old file is unchanged."""
        if self._part is not None:
            part, self._part = self._part, None
            try:
                os.fsync(self.fd)
                os.replace(part, self._place)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(part)
                raise
            finally:
                os.close(self.fd)
        else:
            os.close(self.fd)

    def discard(self) -> None:
        """Leave the old file unchanged, unless commit() was called."""
        if self._part is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._part)
                self._part = None
                os.close(self.fd)


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
