"""The parent's handle on a process that it has not started: the one that the user has (see inprocess.py).

It has the face of process.Child. There is no warden: nothing is limited, sampled or swept up, and what ended
the process is not told by the kernel, since it is no child of ours. A crash is told by what faulthandler has
written, os._exit() by a last word; for the rest, an end is all that is known.

It stands at a breakpoint for as long as its user likes. So it is killed only when its user has asked for an
end that did not come; a stop or an exit of the worker is passed on, and waited for.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from ..child.in_user_process import Terminal
from ..shared.channel import EXIT_CHANNEL_LOST, ChannelError
from ..shared.limits import Limits
from ..shared.messages import FROM_USER_PROCESS, EndAsked, LastWord, Message, Setup, decode
from ..shared.outcome import Cause, Exit
from . import child_handle
from .child_handle import Child, Listener, Loop

#: A process that its user's signal does not end in this time is killed.
KILL_S = 0.5

_FATAL = {
    "Segmentation fault": signal.SIGSEGV,
    "Bus error": signal.SIGBUS,
    "Aborted": signal.SIGABRT,
    "Floating point exception": signal.SIGFPE,
    "Illegal instruction": signal.SIGILL,
}


class Host(Child):
    """The process that runs the user's code, and has started us."""

    def __init__(
        self,
        loop: Loop,
        listener: Listener,
        *,
        pid: int,
        fds: Mapping[str, int],
        setup: Setup,
        on_asked: Callable[[int], object],
        on_gone: Callable[[], object],
    ) -> None:
        """`fds`: our ends of tasks, control and news, and the file for a crash's stack.

        `on_asked`: its user wants an end with this exit status; `on_gone`: called after on_exit. Raises
        OSError when the process is gone already.
        """
        self._set_out(loop, listener, Limits())
        self._pidfd = os.pidfd_open(pid)
        self.pid = pid
        self._on_asked = on_asked
        self._on_gone = on_gone
        #: Its user wants it to end: it is killed when it does not.
        self.may_kill = False
        self._terminal = Terminal(2)
        self._tasks = socket.socket(fileno=fds["tasks"])
        self._control = socket.socket(fileno=fds["control"])
        self._lifeline = socket.socket(fileno=fds["news"])
        self._fault = fds["fault"]
        for one in (self._lifeline, self._tasks, self._control):
            one.setblocking(False)
        self._to_main = child_handle._Sender(loop, self._tasks)
        self._to_control = child_handle._Sender(loop, self._control)
        self._code: int | None = None
        self._by: int = signal.SIGKILL  #: the signal that its user has sent, so that it ends by that one
        loop.on_readable(self._lifeline.fileno(), self._on_news)
        self._listen_to_child()
        loop.on_readable(self._pidfd, self._it_ended)
        self.send(0, setup)

    # ---- what the parent says

    def kill(self, cause: Cause, detail: str = "") -> None:
        """End it, if its user wants it to end or has broken the channel; on_exit follows."""
        if self._gone or self._kill is not None or not (self.may_kill or cause is Cause.CHANNEL_BROKEN):
            return
        self._kill, self._kill_detail = cause, detail
        self._send_signal(self._by)
        self._later(KILL_S, lambda: self._send_signal(signal.SIGKILL))

    def _send_signal(self, number: int) -> None:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._pidfd, number)

    def _tell_warden(self, message: Message, *, fds: Iterable[int] = ()) -> None:
        """There is none."""

    # ---- what it says

    def _on_news(self) -> None:
        try:
            data = self._lifeline.recv(child_handle.CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            # A fork of the user's may hold it open, but only the process itself can have closed it.
            self._loop.on_readable(self._lifeline.fileno(), None)
            return
        for message in self._said(data):
            if isinstance(message, EndAsked):
                self.may_kill = True
                self._by = message.status - 128
                self._on_asked(message.status)
            elif isinstance(message, LastWord):
                self._code = message.status
                self._it_ended()
                return

    def _said(self, data: bytes) -> list[Message]:
        try:
            return [decode(frame, FROM_USER_PROCESS) for frame in self._news.feed(data)]
        except ChannelError as error:
            self._loop.on_readable(self._lifeline.fileno(), None)
            self.kill(Cause.CHANNEL_BROKEN, str(error))
            return []

    def _it_ended(self) -> None:
        if self._gone:
            return
        self._loop.on_readable(self._pidfd, None)
        if self._code is None:
            self._read_last_word()
        if self._kill is not None:
            self._terminal.restore()
        self._finish(self._exit())

    def _read_last_word(self) -> None:
        with contextlib.suppress(OSError):
            for message in self._said(self._lifeline.recv(child_handle.CHUNK)):
                if isinstance(message, LastWord):
                    self._code = message.status

    def _exit(self) -> Exit:
        fatal = re.search(r"^Fatal Python error: (.+)$", self._fault_text(), re.M)
        number = _FATAL.get(fatal[1].strip()) if fatal is not None else None
        cause = Cause.EXITED if number is None else Cause.SIGNALLED
        detail = ""
        if self._kill is not None:
            cause, detail = self._kill, self._kill_detail
        elif self._code == EXIT_CHANNEL_LOST:
            cause, detail = Cause.CHANNEL_BROKEN, "it closed the socket"
        elif self._code is None and number is None:
            detail = "killed from outside, or in a way that leaves no word"
        return Exit(cause, pid=self.pid, code=self._code, signal=number, detail=detail, loaded=self.loaded)

    def _fault_text(self) -> str:
        try:
            return os.pread(self._fault, 4096, 0).decode("utf-8", "replace")
        except OSError:
            return ""

    # ---- the end

    def _finish(self, exit: Exit) -> None:
        self._drain_tasks()
        self._gone = True
        stack = self._read_stack()
        self._close()
        self._loop.on_readable(self._pidfd, None)
        os.close(self._pidfd)
        self._listener.on_exit(self, replace(exit, stack=stack))
        self._on_gone()
