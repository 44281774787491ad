"""The supervising process of a Pool: starts it, and talks to it. See app/pool_supervisor.py for its side."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
from collections.abc import Callable

from ...sandbox.shared.channel import ChannelError, write_all
from ...sandbox.shared.message_format import ProcessMessage, body_of
from ...sandbox.shared.supervision_messages import TO_POOL, Supervise
from ..io.loop import Loop
from ..io.message_socket import MessageSocket
from .begin import interpreter
from .pool_begin import PROGRAM


class SupervisorProcess:
    """The process. Start it in a thread that lives as long as it is needed: with that thread it ends."""

    def __init__(
        self,
        loop: Loop,
        order: Supervise,
        function: bytes | None,
        on_message: Callable[[ProcessMessage, list[int]], None],
        on_end: Callable[[], None],
    ) -> None:
        """`function`: pickled. `on_end`: called when it has closed its socket, has ended, or has sent
        what cannot be read. Raises OSError."""
        self._error: ChannelError | None = None
        self._on_end = on_end
        ours, theirs = map(_above_standard, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        with contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            with theirs, contextlib.ExitStack() as files:
                fds = [_file(body_of(order))]
                files.callback(os.close, fds[0])
                if function is not None:
                    fds.append(_file(function))
                    files.callback(os.close, fds[1])
                socket.send_fds(ours, [b"\0"], fds)
                self._process = subprocess.Popen(
                    [interpreter(), "-c", PROGRAM, str(os.getpid()), str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    # A terminal's Ctrl-C is for the caller, who decides what ends.
                    start_new_session=True,
                )
            undo.pop_all()
        self._socket = MessageSocket(loop, ours, TO_POOL, on_message, self._ended)

    def _ended(self, error: ChannelError | None) -> None:
        self._error = error
        self._on_end()

    def send(self, message: ProcessMessage) -> None:
        """Ask it to do this."""
        self._socket.send(message)

    def wait(self) -> str:
        """Close the socket, wait for its end, and return how it ended."""
        self._socket.close()
        status = self._process.wait()
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        return how if self._error is None else f"{how}, having sent what cannot be read: {self._error}"


def _above_standard(sock: socket.socket) -> socket.socket:
    """Return the socket under a number above 2: the lower ones are the new process's standard streams, also
    where this process has closed its own."""
    with sock:
        return socket.socket(fileno=fcntl.fcntl(sock, fcntl.F_DUPFD_CLOEXEC, 3))


def _file(data: bytes) -> int:
    """Return a memory file with these bytes, read from its beginning."""
    fd = os.memfd_create("hkrunner-pool", os.MFD_CLOEXEC)
    write_all(fd, data)
    return fd
