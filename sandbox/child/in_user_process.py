"""Serves tasks in the process that the user has started: for breakpoints, prompts and debuggers.

Theory of operation
-------------------
Otherwise the parent starts the child. With --in-process it is the other way round: the process that the
user, or their editor, has started runs the code, in its main thread and at its own terminal, and the
supervisor is a process below it, in a session of its own. Between them are the sockets that a child always
has; a third pair tells of signals and of the end:

    this process -> supervisor    EndAsked, LastWord (see user_process_messages.py)
    EOF                           the other side is gone

So while the code is at a breakpoint the supervisor answers the worker; it never waits for this process.

While the user's code runs, Ctrl-C raises KeyboardInterrupt, which pdb and input() handle. If the user's code
lets it out, the run ends, as it does by a Ctrl-C between two tasks. The other signals that end a run are
passed on: the supervisor asks this process to end, and kills it after the grace.
"""

from __future__ import annotations

import bdb
import contextlib
import faulthandler
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from select import select
from types import FrameType, ModuleType
from typing import Any, NoReturn

from ..shared.message_format import ProcessMessage, encode
from ..shared.messages import Failed
from ..shared.stop_signals import STOP_SIGNALS
from ..shared.user_process_messages import EndAsked, LastWord
from . import exception_report, own_threads
from .api import Api
from .frame_socket import FrameSocket, receive_setup, send_whole
from .stop_control import StopControl
from .task_server import TaskServer

#: The modules that a bare interpreter has: no file of the user's stands in for them.
_BARE_NAMES = "__main__ abc codecs encodings genericpath io os posixpath site stat types warnings"
BARE = frozenset((*sys.builtin_module_names, *_BARE_NAMES.split(), "_collections_abc", "_sitebuiltins"))
#: How often it is asked whether the code is loaded, by the threads that wait for that.
LOADING_S = 0.05
#: Signals that shut the run down, unless the user's code handles them itself.
_END_SIGNALS = tuple(one for one in STOP_SIGNALS if one != signal.SIGINT)


class DebuggerQuit(Exception):
    """The user has left the debugger in the middle of a task."""


DebuggerQuit.__module__ = "builtins"  # in the message its name alone is enough


class _ServingEnds(BaseException):
    """Nothing more is served."""


class UntracedThread:
    """A thread that no debugger stops, and that gevent, which the code may use, neither finds nor replaces.

    The mark that tells debuggers so is an attribute of a threading.Thread. Without a debugger, there is none
    of these before the code is loaded.
    """

    def __init__(self, target: Callable[[], object], name: str, fd: int) -> None:
        """`fd`: the descriptor that `target` reads first."""
        self._target, self._name, self._fd = target, name, fd
        #: Set once the code is loaded: the thread may become one of threading's.
        self.is_code_loaded = False

    def start(self) -> None:
        """Begin. Raises RuntimeError."""
        if "pydevd" in sys.modules:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        else:
            own_threads.start_thread(self._wait_and_run, ())

    def _wait_and_run(self) -> None:
        while not self.is_code_loaded:
            if select([self._fd], [], [], LOADING_S)[0]:
                self._target()
                return
        self._run()

    def _run(self) -> None:
        thread = threading.current_thread()
        thread.name, thread.pydev_do_not_trace = self._name, True  # type: ignore[attr-defined]
        self._target()


class _UntracedStopControl(StopControl):
    """A control thread through which replies arrive while all others stand at a breakpoint."""

    def start(self) -> None:
        self.thread = UntracedThread(self._listen, "hkrunner-control", self._control.fileno())
        self.thread.start()


class UserProcessServer(TaskServer):
    """Serves the tasks in this process, whose main thread has called."""

    _survives_exit = True
    _stop_control = _UntracedStopControl
    _stops: _UntracedStopControl

    def __init__(
        self,
        channel: FrameSocket,
        control: socket.socket,
        news: socket.socket,
        *,
        post_mortem: bool,
        quit_ends: bool,
    ) -> None:
        """Take the first message, which says what to load; raises EOFError when there is no supervisor.

        `post_mortem`: open pdb where the user's code has raised, before the task is answered. `quit_ends`:
        who leaves the debugger in the middle of a task ends the run as by Ctrl-C, not that task alone.
        """
        self._quit_ends = quit_ends
        self._news = news
        news.setblocking(True)  # as in frame_socket.py
        self._post_mortem = post_mortem
        self._end_asked = False
        self._owner = os.getpid()
        setup = receive_setup(channel)
        if setup is None:
            raise EOFError
        os.environ.update(setup.env or {})
        sys.argv[:] = [setup.file or setup.module]
        os.chdir(setup.folder)
        super().__init__(channel, control, setup)

    def serve(self, watcher: UntracedThread) -> None:
        """Load the code and serve until the supervisor asks to end, or is gone."""
        self._watcher = watcher
        before = {number: signal.signal(number, self._on_signal) for number in STOP_SIGNALS}
        os.register_at_fork(after_in_child=self._restore_signals)
        if sys.breakpointhook is sys.__breakpointhook__ and "PYTHONBREAKPOINT" not in os.environ:
            sys.breakpointhook = _breakpoint
        main, sys.modules["__main__"] = sys.modules["__main__"], _stand_in_for_main()
        exit_now, os._exit = os._exit, self._last_word(os._exit)  # type: ignore[assignment]
        try:
            self.run(BARE)
        except (SystemExit, _ServingEnds):
            self._send_news(LastWord(0))
        finally:
            os._exit = exit_now
            sys.modules["__main__"] = main
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def is_loaded(self) -> bool:
        """Whether the code was loaded."""
        return self._entry is not None

    def _send_news(self, message: ProcessMessage) -> None:
        # That the supervisor is gone is noticed by the reading side.
        with contextlib.suppress(OSError):
            send_whole(self._news, encode(0, message))

    def _last_word(self, exit_now: Callable[[int], NoReturn]) -> Callable[[int], NoReturn]:
        """Return an os._exit() that sends the status first: the supervisor is not our parent."""

        def telling(status: int) -> NoReturn:
            if os.getpid() == self._owner:
                self._send_news(LastWord(status))
            exit_now(status)

        return telling

    # ---- signals

    def _ask_to_end(self, number: int) -> None:
        is_under_way = self._stops.exit_known.is_set() and number == signal.SIGINT and not self._end_asked
        self._end_asked = True
        if not is_under_way:  # a second EndAsked would make the supervisor kill
            self._send_news(EndAsked(128 + number))
            # The same signal once more, from any sender, ends this process as it ends any other.
            signal.signal(number, signal.SIG_DFL)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Handle an end signal; a Ctrl-C only while our own code runs, mostly between two tasks."""
        self._ask_to_end(number)

    def _restore_signals(self) -> None:
        """In a process that the user's code has forked: signals do what they do in any other."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in _END_SIGNALS:
            if signal.getsignal(number) == self._on_signal:  # not one that the user's code has set
                signal.signal(number, signal.SIG_DFL)

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C raises KeyboardInterrupt within; afterwards it is ours again, whatever pdb has set."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, self._on_signal)

    # ---- where this differs from a child

    def _load(self, bare: frozenset[str]) -> None:
        with self._interruptible():
            super()._load(bare)
        for thread in (self._stops.thread, self._watcher):
            thread.is_code_loaded = True

    def _refuse(self, failed: Failed) -> NoReturn:
        self._send_load_failed(failed)
        raise _ServingEnds

    def _call(self, function: Callable[..., Any], name: str, most: int, args: Any, api: Api) -> Any:
        with self._interruptible():
            try:
                return super()._call(function, name, most, args, api)
            except bdb.BdbQuit:
                if self._quit_ends:
                    raise KeyboardInterrupt from None
                raise DebuggerQuit("the task was left in the debugger") from None
            except Exception as error:
                self._look_at(error)
                raise

    def _look_at(self, error: BaseException) -> None:
        """Open pdb where the error was raised, if that was asked for."""
        if not self._post_mortem or os.getpid() != self._owner or not issubclass(type(error), Exception):
            return
        trace = exception_report.users_traceback(error)
        told = exception_report.describe(error, self._where.folder)["message"]
        print(f"{told}\n(pdb: where it was raised; q or Ctrl-D goes on)", file=sys.stderr, flush=True)
        from . import debugger

        with contextlib.suppress(bdb.BdbQuit):
            debugger.look_at(trace)

    def _failed_by(self, error: BaseException) -> Failed:
        is_interrupt = issubclass(type(error), KeyboardInterrupt)  # isinstance() would ask the user's class
        if self._entry is None and is_interrupt:
            self._ask_to_end(signal.SIGINT)
            raise _ServingEnds from None
        if self._entry is None:
            self._look_at(error)
        elif is_interrupt and not self._end_asked:
            # Ctrl-C, or as good as: the run ends. The supervisor has heard of it before it gets the answer.
            self._ask_to_end(signal.SIGINT)
            self._stops.exit_known.wait(5.0)
        return super()._failed_by(error)

    def _end(self) -> NoReturn:
        try:
            with self._interruptible():
                super()._end()
        except KeyboardInterrupt:
            self._ask_to_end(signal.SIGINT)
            raise _ServingEnds from None


def _stand_in_for_main() -> ModuleType:
    """Return a `__main__` like a child's: it has what the algorithm's file defines, and spawned processes of
    multiprocessing run start.py again instead of the command that has started this process."""
    import runpy

    start = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "start.py")
    found = ModuleType("__main__")
    found.__dict__.update(runpy.run_path(start, run_name="__mp_main__"), __name__="__main__")
    return found


def _breakpoint(*args: Any, **more: Any) -> None:
    """What breakpoint() calls: pdb, imported when it is needed."""
    from . import debugger

    if args or more:
        sys.__breakpointhook__(*args, **more)
    else:
        debugger.stop_at(sys._getframe().f_back)


class UninterruptedFrameSocket(FrameSocket):
    """A task socket on which a Ctrl-C does not cut a frame in two."""

    def _send(
        self, task: int, kind: int, body: Sequence[bytes | bytearray | memoryview], *, reuse: bool
    ) -> None:
        if threading.current_thread() is not threading.main_thread():
            super()._send(task, kind, body, reuse=reuse)
            return
        late: list[int] = []
        handler = signal.signal(signal.SIGINT, lambda number, frame: late.append(number))
        try:
            super()._send(task, kind, body, reuse=reuse)
        finally:
            signal.signal(signal.SIGINT, handler)
        if late and callable(handler):
            handler(signal.SIGINT, None)


def tell_crashes(fd: int) -> None:
    """Have the stack written there when this process crashes."""
    faulthandler.enable(fd, all_threads=True)
