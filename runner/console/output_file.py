"""--output-file: the results in a file that is whole or not there, never half."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile

from ..errors import SettingsError


class OutputFile:
    """Written beside its place, and put there in the end. A pipe or a device is written to as it is."""

    def __init__(self, path: str, cwd: str) -> None:
        """Make sure that it can be written. Raises SettingsError."""
        if not path:
            raise SettingsError("--output-file wants a file")
        place = os.path.join(cwd, os.path.expanduser(path))
        self._part: str | None = None
        self._place = os.path.realpath(place)  # what a link leads to is replaced, not the link
        try:
            mode = _mode(place)
            if mode is not None and stat.S_ISDIR(mode):
                raise SettingsError(f"--output-file {path}: it is a folder")
            if mode is not None and not stat.S_ISREG(mode):
                self.fd = os.open(place, os.O_WRONLY | os.O_CLOEXEC)
                return
            if mode is not None and not os.access(self._place, os.W_OK):
                raise PermissionError(0, "it may not be written")
            folder, name = os.path.split(self._place)
            self.fd, self._part = tempfile.mkstemp(prefix=f".{name[:200]}.", suffix=".part", dir=folder)
            os.fchmod(self.fd, stat.S_IMODE(mode) if mode is not None else 0o666 & ~_umask())
        except OSError as error:
            self.discard()
            raise SettingsError(f"--output-file {path}: {error.strerror}") from None

    def commit(self) -> None:
        """It is there, with all that was written. Raises OSError, and then it is as it was."""
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
        """It stays as it was."""
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
    """Return the umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
