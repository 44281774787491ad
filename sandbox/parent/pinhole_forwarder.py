"""The parent's handle of the process that connects an algorithm to the targets of `--net HOST:PORT`."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Sequence

from . import orphan_cleanup
from .warden_launch import START


class PinholeForwarder:
    """A process of isolation/forwarder.py for one child, and our end of its channel."""

    def __init__(self, targets: Sequence[str]) -> None:
        """Start the process; it ends with us. Raises OSError."""
        #: Over this the child sends its listening sockets. The process ends when all copies are closed.
        self.channel, theirs = socket.socketpair()
        with theirs:
            try:
                # It reports on stderr what cannot be reached.
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", START, "forwarder", str(theirs.fileno()), *targets],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            except BaseException:
                self.channel.close()
                raise
        orphan_cleanup.spare(self._process)

    def end(self) -> None:
        """End the process, and with it all connections."""
        self.channel.close()
        self._process.kill()
        self._process.wait()
