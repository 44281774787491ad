"""The parent's handle on a process that it has not started: the user's own, with --in-process.

It is used like any other child (child_handle.py; the other side: child/in_user_process.py). There is no
warden: nothing is limited, sampled or swept up, and the kernel does not tell what ended the process, since it
is no child of ours. A crash is known by what faulthandler has written, os._exit() by a LastWord; else the end
is all that is known.

Its user may stay at a breakpoint for any time. So it is killed only when its user has asked for an end
that did not come; a stop or an exit from the worker is passed on, and waited for.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from collections.abc import Callable, Mapping

from ..linux.terminal import TerminalMode
from ..shared.channel import EXIT_CHANNEL_LOST
from ..shared.limits import Limits
from ..shared.message_format import ProcessMessage
from ..shared.messages import Setup
from ..shared.outcome import Cause, Exit
from ..shared.user_process_messages import FROM_USER_PROCESS, EndAsked, LastWord
from .child_channel import FramedChannel
from .child_handle import Child, ChildListener, ChildState
from .exit_report import fault_text
from .frame_receiver import FrameReceiver
from .loop_protocol import LoopProtocol

#: A process that its user's signal does not end in this time is killed.
KILL_S = 0.5

_FATAL = {
    "Segmentation fault": signal.SIGSEGV,
    "Bus error": signal.SIGBUS,
    "Aborted": signal.SIGABRT,
    "Floating point exception": signal.SIGFPE,
    "Illegal instruction": signal.SIGILL,
}


class UserProcess(Child):
    """The process that runs the user's code, and has started us."""

    def __init__(
        self,
        loop: LoopProtocol,
        listener: ChildListener,
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
        super().__init__(loop, listener, Limits())
        self._pidfd = os.pidfd_open(pid)
        self.pid = pid
        self._on_asked = on_asked
        self._on_gone = on_gone
        #: Its user wants it to end: it is killed when it does not.
        self.may_kill = False
        self._terminal = TerminalMode(2)
        tasks, control = (socket.socket(fileno=fds[name]) for name in ("tasks", "control"))
        self._connect(FramedChannel(loop, tasks, control), fds["fault"])
        self._lifeline = socket.socket(fileno=fds["news"])
        self._lifeline.setblocking(False)
        self._news = FrameReceiver(
            loop,
            self._lifeline,
            FROM_USER_PROCESS,
            on_message=lambda task, message: self._on_news(message),
            on_error=self._channel_broken,
            # An EOF proves nothing: a fork of the user's may hold it open, or the process has closed it.
            on_end=lambda cut: None,
        )
        self._status: int | None = None  #: its exit status, as it has reported itself
        self._signal: int = signal.SIGKILL  #: the signal that its user has sent, by which it then ends
        self._news.resume()
        self._begin_reading()
        loop.on_readable(self._pidfd, self._on_end)
        self.send(0, setup)

    def kill(self, cause: Cause, detail: str = "") -> None:
        """End it, if its user wants it to end or has broken the channel; on_exit follows."""
        if self._state is ChildState.GONE or self._kill is not None:
            return
        if not self.may_kill and cause is not Cause.CHANNEL_BROKEN:
            return
        self._kill = (cause, detail)
        self._send_signal(self._signal)
        self._later(KILL_S, lambda: self._send_signal(signal.SIGKILL))

    def _send_signal(self, number: int) -> None:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._pidfd, number)

    def _on_news(self, message: ProcessMessage) -> None:
        if isinstance(message, EndAsked):
            self.may_kill = True
            self._signal = message.status - 128
            self._on_asked(message.status)
        elif isinstance(message, LastWord):
            self._status = message.status
            self._on_end()

    def _on_end(self) -> None:
        if self._state is not ChildState.RUNNING:
            return
        self._state = ChildState.ENDED
        self._loop.on_readable(self._pidfd, None)
        self._news.drain()  # LastWord may not have been read yet
        if self._kill is not None:
            self._terminal.restore()
        self._finish(self._exit())
        self._on_gone()

    def _exit(self) -> Exit:
        fatal = re.search(r"^Fatal Python error: (.+)$", fault_text(self._fault), re.M)
        number = _FATAL.get(fatal[1].strip()) if fatal is not None else None
        cause = Cause.EXITED if number is None else Cause.SIGNALLED
        detail = ""
        if self._kill is not None:
            cause, detail = self._kill
        elif self._status == EXIT_CHANNEL_LOST:
            cause, detail = Cause.CHANNEL_BROKEN, "it closed the socket"
        elif self._status is None and number is None:
            detail = "killed externally; cause unknown"
        return Exit(cause, pid=self.pid, code=self._status, signal=number, detail=detail, loaded=self.loaded)

    def _close(self) -> None:
        super()._close()
        self._news.close()
        self._lifeline.close()
        self._loop.on_readable(self._pidfd, None)
        os.close(self._pidfd)
