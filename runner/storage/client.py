"""hkrunner's side of the storage process: starts it, asks it, and answers for it when it is gone."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable

from ...sandbox.parent import orphan_cleanup
from ...sandbox.shared.channel import ChannelError, write_all
from ...sandbox.shared.message_format import PROTOCOL_VERSION, Memfd, ProcessMessage, Wire
from ...sandbox.shared.storage_messages import (
    ANSWERS,
    FROM_STORAGE,
    INLINE_MAX,
    CancelRequests,
    ConfigureStorage,
    FetchInput,
    RequestFailed,
    ResumeTask,
    StorageAnswer,
    StorageHangs,
    StorageNote,
    StorageRequest,
    StorageServes,
)
from ..io.loop import Loop
from ..io.message_socket import MessageSocket
from ..settings.storage_settings import StorageSettings

_START = os.path.join(os.path.dirname(os.path.abspath(__file__)), "start.py")
#: Wait at most this long for the end of the process, once it has closed its socket.
END_S = 1.0
#: When this many of its threads hang in the storage, replace the process before the next task.
HANGING_MAX = 8
#: Before it is replaced, wait at most this long for its end: one that hangs in the kernel does not end.
REPLACE_S = 0.1


#: Gets the answer of a request; a memfd in its `wire` is the receiver's to close.
OnAnswer = Callable[[StorageAnswer], None]


def start_command(fd: int) -> list[str]:
    """Return the command that starts a storage process which serves this socket."""
    return [sys.executable, "-I", _START, str(fd), json.dumps(sys.path)]


class StorageClient:
    """Asks the storage process, which is started by the first request or by begin()."""

    def __init__(
        self,
        loop: Loop,
        settings: StorageSettings,
        encodings: tuple[str, str, str],
        *,
        checks_later: bool = False,
        on_note: Callable[[str], None],
        on_serving: Callable[[], None],
    ) -> None:
        """`encodings`: of the worker's messages, of those of the algorithm's process, and of the storage.

        checks_later: CheckInput is asked when the algorithm's process cannot read the input of a task.
        on_note: gets a line for people. on_serving: called while other algorithms ask for results.
        """
        self._loop = loop
        self._on_note = on_note
        self._on_serving = on_serving
        self._configuration = ConfigureStorage(PROTOCOL_VERSION, settings._asdict(), *encodings, checks_later)
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: MessageSocket | None = None
        self._ids = itertools.count(1)
        self._waiting: dict[int, OnAnswer] = {}
        #: The task whose input was fetched: the next process goes on with it if this one ends.
        self.task: ResumeTask | None = None
        self._is_closed = False
        self._hanging = 0  #: threads of the process that hang in a request which was given up
        self._unfinished: int | None = None  #: memfd for UnfinishedFiles of each process

    def begin(self) -> None:
        """Start the process, to be ready when the first task comes. Raises OSError and MemoryError."""
        if self._socket is not None or self._is_closed:
            return
        if self._unfinished is None:
            self._unfinished = os.memfd_create("hkrunner-unfinished", os.MFD_CLOEXEC)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            # Before the process: without memory for it there is nothing to end.
            messages = MessageSocket(self._loop, ours, FROM_STORAGE, self._on_message, self._gone)
            undo.callback(messages.close)
            self._process = subprocess.Popen(
                start_command(theirs.fileno()),
                stdin=subprocess.DEVNULL,
                cwd="/",
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C is for hkrunner, which closes the socket in the end
            )
            undo.pop_all()
        orphan_cleanup.spare(self._process)
        self._socket = messages
        self._socket.send(self._configuration, [self._unfinished])
        if self.task is not None:
            self._socket.send(self.task)

    @property
    def waiting(self) -> int:
        """How many requests wait for their answers."""
        return len(self._waiting)

    def ask(self, what: type[StorageRequest], wire: Wire, on_answer: OnAnswer) -> None:
        """Request something for the current task; a memfd in `wire` stays the caller's."""
        if what is FetchInput and self._hanging >= HANGING_MAX:
            self._disconnect()
            self._kill(REPLACE_S)
        try:
            self.begin()
        except (OSError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or error
            text = f"the process that accesses HKube's storage cannot be started: {reason}"
            self._loop.after(0, lambda: on_answer(RequestFailed(0, text)))
            return
        identifier = next(self._ids)
        self._waiting[identifier] = on_answer
        if isinstance(wire, Memfd):
            self._post(what(b"", identifier, wire.size), [wire.fd])
        elif len(wire) <= INLINE_MAX:
            self._post(what(wire, identifier))
        else:
            with open(os.memfd_create("hkrunner-request", os.MFD_CLOEXEC), "wb", buffering=0) as file:
                write_all(file.fileno(), wire)
                self._post(what(b"", identifier, len(wire)), [file.fileno()])

    def cancel(self) -> None:
        """Drop every request; no answer comes any more."""
        if self._waiting:
            self._waiting.clear()
            self._post(CancelRequests())

    def close(self) -> None:
        """End the process."""
        self._is_closed = True
        self._waiting.clear()
        self._disconnect()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_S)  # it removes what it has not written to the end
        self._kill(END_S)
        unfinished, self._unfinished = self._unfinished, None
        if unfinished is not None:
            os.close(unfinished)

    def _kill(self, wait_s: float) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(OSError):
                process.send_signal(signal.SIGKILL)  # it has nothing to finish, and may hang
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(wait_s)

    # ---- the socket

    def _post(self, message: ProcessMessage, fds: Iterable[int] = ()) -> None:
        if self._socket is not None:
            self._socket.send(message, fds)

    def _on_message(self, message: ProcessMessage, fds: list[int]) -> None:
        if isinstance(message, ANSWERS):
            self._on_answer(message, fds[0] if fds else -1)
        else:
            self._hear(message)

    def _on_answer(self, answer: StorageAnswer, fd: int) -> None:
        on_answer = self._waiting.pop(answer.id, None)
        if on_answer is None:
            if fd >= 0:
                os.close(fd)
        elif fd < 0 or isinstance(answer, RequestFailed):
            on_answer(answer)
        else:
            on_answer(answer.replace(wire=Memfd(fd, answer.size)))

    def _hear(self, message: ProcessMessage) -> None:
        """Handle a message of the process that answers no request."""
        if isinstance(message, StorageNote):
            self._on_note(message.text)
        elif isinstance(message, StorageHangs):
            self._hanging = message.threads
        else:
            assert isinstance(message, StorageServes), "it is the only other message"
            self._on_serving()

    def _gone(self, error: ChannelError | None) -> None:
        """Answer every request that waits: the process has ended, or is ended because of what it has sent.

        The next request starts another one.
        """
        self._disconnect()
        if error is not None:
            self._kill(END_S)
            how = f"has sent what cannot be read, and was killed: {error}"
            self._on_note(f"the process that accesses HKube's storage {how}")
        else:
            how = self._how_it_ended()
        text = f"the process that accesses HKube's storage {how}"
        waiting, self._waiting = self._waiting, {}
        for on_answer in waiting.values():
            on_answer(RequestFailed(0, text))

    def _how_it_ended(self) -> str:
        process, self._process = self._process, None
        assert process is not None, "its socket was open"
        try:
            status = process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return "has closed its connection, and was killed"
        if status < 0:
            return f"was killed by {signal.Signals(-status).name}"
        return f"has ended with exit status {status}"

    def _disconnect(self) -> None:
        sock, self._socket = self._socket, None
        self._hanging = 0
        if sock is not None:
            sock.close()
