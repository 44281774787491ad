"""A descriptor that becomes readable when a file is created in a folder: dnotify, read through a signalfd.

Not inotify: close() of its descriptor waits for the kernel's other processors (measured: 13 to 18 ms), which
would delay every end of a child. fanotify needs privileges.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import struct

# Not `threading`, which re-exports this function: its import would delay each child's start by 0.6 ms.
from _thread import get_native_id

_libc = ctypes.CDLL(None, use_errno=True)
_SIGSET_BYTES = 128  # glibc's sigset_t
#: struct signalfd_siginfo.
_INFO_BYTES = 128
#: fcntl(2) F_SETOWN_EX, F_OWNER_TID: the signal goes to this thread alone, which blocks it.
_F_SETOWN_EX, _F_OWNER_TID = 15, 0


class NameWatch:
    """Watches folders for new files; SIGIO is blocked in this thread until close()."""

    def __init__(self) -> None:
        """No folder is watched yet. Raises OSError where signalfd is not available."""
        self._folders: list[int] = []
        signals = (1 << (signal.SIGIO - 1)).to_bytes(_SIGSET_BYTES, "little")
        # Blocked first: otherwise the signal's default action ends the process.
        self._was_blocked = signal.SIGIO in signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
        #: Readable when a file has appeared.
        self.fd: int = _libc.signalfd(-1, ctypes.c_char_p(signals), os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            number = ctypes.get_errno()
            self._unblock()
            raise OSError(number, os.strerror(number))

    def add(self, folder: str) -> None:
        """Watch this folder too. Raises OSError if it is gone, or cannot be watched."""
        watched = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            owner = struct.pack("ii", _F_OWNER_TID, get_native_id())
            fcntl.fcntl(watched, _F_SETOWN_EX, owner)
            fcntl.fcntl(watched, fcntl.F_NOTIFY, fcntl.DN_CREATE | fcntl.DN_MULTISHOT)
        except BaseException:
            os.close(watched)
            raise
        self._folders.append(watched)

    def has_news(self) -> bool:
        """Return whether a file has appeared since the last call."""
        found = False
        with contextlib.suppress(BlockingIOError):  # nothing more to read
            while os.read(self.fd, _INFO_BYTES):
                found = True
        return found

    def close(self) -> None:
        """End the watch, and close all descriptors."""
        while self._folders:
            os.close(self._folders.pop())
        if self.fd >= 0:
            self.has_news()  # a signal still pending would end the process once it is unblocked
            os.close(self.fd)
            self.fd = -1
            self._unblock()

    def _unblock(self) -> None:
        if not self._was_blocked:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGIO})
