"""A descriptor that becomes readable when a name appears in a folder: dnotify, read through a signalfd.

Not inotify: closing its descriptor waits for the kernel's other processors, 13 to 18 ms here, which every end
of a child would take longer. fanotify wants privileges.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import struct

# Not `threading`, which re-exports this function: to import it costs the warden 0.6 ms before its child.
from _thread import get_native_id

_libc = ctypes.CDLL(None, use_errno=True)
_SIGSET_BYTES = 128  # glibc's sigset_t
#: struct signalfd_siginfo.
_INFO_BYTES = 128
#: fcntl(2) F_SETOWN_EX, F_OWNER_TID: the signal is for this thread, which blocks it, not for another.
_F_SETOWN_EX, _F_OWNER_TID = 15, 0


class NameWatch:
    """Watches folders for names that are made or moved there; SIGIO is blocked in this thread meanwhile."""

    def __init__(self) -> None:
        """No folder is watched yet. Raises OSError where there is no signalfd to be had."""
        self._folders: list[int] = []
        signals = (1 << (signal.SIGIO - 1)).to_bytes(_SIGSET_BYTES, "little")
        # Blocked first: unblocked, its default action ends the process.
        self._was_blocked = signal.SIGIO in signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
        #: Readable when a name has appeared.
        self.fd: int = _libc.signalfd(-1, ctypes.c_char_p(signals), os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            number = ctypes.get_errno()
            self._unblock()
            raise OSError(number, os.strerror(number))

    def add(self, folder: str) -> None:
        """Watch this folder too. Raises OSError where it is gone, or cannot be watched."""
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
        """Whether a name has appeared since this was asked before."""
        found = False
        with contextlib.suppress(BlockingIOError):  # that was all
            while os.read(self.fd, _INFO_BYTES):
                found = True
        return found

    def close(self) -> None:
        """Watch nothing any more, and give back the descriptors."""
        while self._folders:
            os.close(self._folders.pop())
        if self.fd >= 0:
            self.has_news()  # what is still pending would end the process once it is not blocked
            os.close(self.fd)
            self.fd = -1
            self._unblock()

    def _unblock(self) -> None:
        if not self._was_blocked:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGIO})
