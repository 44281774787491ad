"""--in-process: this process runs the code at its own terminal, and the supervisor is a process below it.

    hkrunner run --in-process           the process that a user, or an editor's debugger, has started
      +- in_process_supervisor.begin()  the supervisor, in a session of its own: link, records, results

Settings and the place of the code are determined here, and passed on in a memory file; see
sandbox/child/in_user_process.py for the two sides of the sockets.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from select import select  # as it is before gevent replaces it

from ...sandbox.child import in_user_process
from ...sandbox.linux.terminal import TerminalMode
from ...sandbox.parent.child_handle import ChildListener
from ...sandbox.parent.user_process import UserProcess
from ...sandbox.shared.entry import Location
from ...sandbox.shared.messages import Setup
from ..errors import HkrunnerError
from ..io.loop import Loop
from ..settings.cluster_options import SECRET_VARIABLES
from ..settings.settings import Settings

#: Files that a run opens, with some to spare; 15 suffice for large inputs and results.
FILES_NEEDED = 20
#: The supervisor's code. As in python_api/begin.py, no folder of the user's is on its path.
_BEGIN = (
    "import sys; sys.path[:] = filter(None, sys.path);"
    "from hkrunner.runner.entry_point import look_last_in_python_path; look_last_in_python_path();"
    "from hkrunner.runner.app.in_process_supervisor import begin; begin()"
)
#: Starts the supervisor through a shell, because debuggers attach to every Python that a process starts
#: itself, and must not stop this one.
_SHELL = ("/bin/sh", "-c", 'exec "$@"', "hkrunner")


def run(settings: Settings, where: Location) -> int:
    """Run the code in this process; return the exit status. Call from the main thread."""
    _need_pidfds()
    _need_files()
    with contextlib.ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(3)]
        theirs = [stack.enter_context(other) for _, other in pairs]
        fault = os.memfd_create("hkrunner-fault", os.MFD_CLOEXEC)
        with os.fdopen(os.memfd_create("hkrunner-run", os.MFD_CLOEXEC), "wb") as order:
            pickle.dump((settings, where), order)
            order.flush()
            order.seek(0)
            fds = [*(one.fileno() for one in theirs), fault, order.fileno()]
            try:
                supervisor = subprocess.Popen(
                    [*_SHELL, sys.executable, "-c", _BEGIN, str(os.getpid()), *map(str, fds)],
                    stdin=subprocess.DEVNULL,
                    pass_fds=fds,
                    start_new_session=True,
                )
            except FileNotFoundError as error:
                raise HkrunnerError(f"the supervisor could not be started: {error}") from None
    for name in SECRET_VARIABLES:
        os.environ.pop(name, None)
    _reserve_stdout_for_results(settings)
    tasks, control, news = (ours for ours, _ in pairs)
    high = [_high(one.detach()) for one in (tasks, control, news)]
    terminal = TerminalMode(0)
    in_user_process.tell_crashes(fault)
    supervisor_end = _SupervisorEnd(supervisor, terminal)
    server: in_user_process.UserProcessServer | None = None
    try:
        server = in_user_process.UserProcessServer(
            in_user_process.UninterruptedFrameSocket(high[0]),
            socket.socket(fileno=high[1]),
            socket.socket(fileno=high[2]),
            post_mortem=settings.local_run.pdb,
            quit_ends=settings.local_run.is_local,
        )
        server.serve(supervisor_end.watch())
    except EOFError:
        if server is not None:
            raise
    except (OSError, RuntimeError, MemoryError):  # no thread, descriptor or memory left for us
        if server is None or not server.is_loaded:
            supervisor.kill()  # it would report this process as killed by somebody
            supervisor.wait()
        raise
    return supervisor_end.status()


def _need_pidfds() -> None:
    """Raise HkrunnerError where this process and the supervisor would not notice each other's end."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:  # the former: a Python built without it
        raise HkrunnerError(
            "--in-process needs Linux 5.3 or newer, and a seccomp profile that allows pidfd_open "
            f"({getattr(error, 'strerror', error)}): run the code without it"
        ) from None


def _need_files() -> None:
    """Raise OSError where fewer files can be opened than this process and the supervisor need.

    A descriptor that is sent and finds no room is lost without a word: a task was blamed, or waited for ever.
    """
    with contextlib.ExitStack() as stack:
        for _ in range(FILES_NEEDED // 2):
            for fd in os.pipe():
                stack.callback(os.close, fd)


def _high(fd: int) -> int:
    from ...sandbox.child.frame_socket import move_high

    return move_high(fd)


def _reserve_stdout_for_results(settings: Settings) -> None:
    """Send what the code prints, and its prompts, to stderr, unless stdout is a terminal."""
    if settings.local_run.is_local and not os.isatty(1):
        if sys.stdout is not None:
            sys.stdout.flush()
        os.dup2(2, 1)
        if isinstance(sys.stdout, io.TextIOWrapper):  # not a replacement of a harness or a debugger
            sys.stdout.reconfigure(line_buffering=True)


class _SupervisorEnd:
    """Ends this process with the supervisor: in order after the last task, at once before that."""

    def __init__(self, supervisor: subprocess.Popen[bytes], terminal: TerminalMode) -> None:
        self._supervisor = supervisor
        self._terminal = terminal
        self._served = False

    def watch(self) -> in_user_process.UntracedThread:
        """Kill this process, whatever its code is doing, as soon as the supervisor ends."""
        pidfd = _high(os.pidfd_open(self._supervisor.pid))
        thread = in_user_process.UntracedThread(lambda: self._watch(pidfd), "hkrunner-supervisor", pidfd)
        thread.start()
        return thread

    def _watch(self, pidfd: int) -> None:
        # Not waitpid: the main thread waits for the supervisor.
        select([pidfd], [], [])
        os.close(pidfd)
        if self._served:
            return
        try:
            self._terminal.restore()
            os.write(2, b"\nhkrunner: the supervisor has ended, and the algorithm with it\n")
        finally:  # stderr may be a pipe whose reader has ended as well
            os.kill(os.getpid(), signal.SIGKILL)

    def status(self) -> int:
        """Wait for the supervisor after the last task; return the exit status."""
        self._served = True
        signal.signal(signal.SIGINT, lambda number, frame: self._supervisor.kill())
        code = self._supervisor.wait()
        return code if code >= 0 else 128 - code


class UserProcessAttachment:
    """In the supervisor: makes the user's process, its parent, serve as the child."""

    def __init__(self, pid: int, fds: Mapping[str, int]) -> None:
        self._pid = pid
        self._fds = fds
        self._begun = False
        #: Called with the exit status when the user asks for the end.
        self.interrupt: Callable[[int], object] = lambda status: None
        #: Called after the end of the process has been handled.
        self.on_gone: Callable[[], object] = lambda: None

    def begin(self, loop: Loop, listener: ChildListener, setup: Setup) -> UserProcess:
        """Make it load the code. Raises OSError after its end: there is no other process."""
        if self._begun:
            raise ProcessLookupError(0, "the process of --in-process has ended")
        self._begun = True
        return UserProcess(
            loop,
            listener,
            pid=self._pid,
            fds=self._fds,
            setup=setup,
            on_asked=lambda status: self.interrupt(status),
            on_gone=lambda: self.on_gone(),
        )
