"""Loads the entry and serves its tasks, one after the other, in the main thread.

Python 3.8 and newer.
"""

from __future__ import annotations

import _socket
import contextlib
import os
import sys
from typing import Any, Callable, Dict, FrozenSet, NoReturn, Optional, Tuple, Union

from ..codec import codec, large_values, unreadable
from ..shared import entry as entries
from ..shared.message_format import PROTOCOL_VERSION, Memfd, ProcessMessage, Wire
from ..shared.messages import (
    Begin,
    BeginAndStart,
    Done,
    Failed,
    Initialize,
    Initialized,
    Loaded,
    LoadFailed,
    Problem,
    Setup,
    Start,
    TaskRead,
    UseFolder,
)
from . import entry_import, exception_report, failures, fork_logging, isolation_hints, stream_serving
from .api import Api
from .event_loop import EventLoop, can_be_awaited, is_async_generator, was_not_run
from .frame_socket import FrameSocket, content_of, exit_fork, flush_output
from .memory_reserve import MemoryReserve, has_room_for_a_stack, lower_brake, own_memory_limit
from .result_files import ResultFiles, result_json
from .stop_control import StopControl, not_run
from .task_reports import TaskReports

#: msgspec is imported after this many tasks, or earlier, in a pause of PAUSE_S.
ENOUGH_TASKS = 3
PAUSE_S = 0.02
#: So much of a result is searched for a number that became null: 10 MB would take 10 ms.
SEARCHED_BYTES = 256 * 1024
_HOLDS_NO_NUMBER = (type(None), str)
#: Types of results that nothing is left to run of.
_PLAIN = frozenset((type(None), bool, int, float, str, bytes, list, dict, tuple))
#: Time for the worker's options for exit() to arrive, before exit() is called.
EXIT_OPTIONS_S = 5.0


class _Superseded(Exception):
    """The parent has dropped this task: it has sent the next one, or closed the socket."""


class TaskServer:
    """Serves the tasks of one entry until the parent closes the task socket."""

    #: Whether the next task is served after sys.exit() in the user's code, which fails its own task only.
    _survives_exit = False
    _stop_control = StopControl
    #: The messages with which a task begins.
    _beginnings: Tuple[type, ...] = (Begin, Initialize)

    def __init__(self, channel: FrameSocket, control: _socket.socket, setup: Setup) -> None:
        self._channel = channel
        self._setup = setup
        self._where = entries.Location(setup.folder, setup.module, setup.function, setup.file)
        #: The program's name in sys.argv.
        self.program = setup.file or setup.module
        self._encoding = setup.encoding
        isolation_hints.use(setup.isolation)
        self._loop = EventLoop(self._report_problem)
        channel.before_waiting = self._loop.run_until_readable
        self._stops = self._stop_control(control, channel, self._where, setup.encoding, self._loop)
        self.reserve = MemoryReserve()  #: for the answer to a MemoryError
        self._entry: Optional[entries.Entry] = None
        self._api: Optional[Api] = None
        self._files: Optional[ResultFiles] = None  #: of the task; None: nothing of it is kept
        self._task_env: Dict[str, str] = {}  #: variables that each task gets anew
        self._pid = os.getpid()
        self._most = None if setup.is_unlimited else codec.MESSAGE_LIMIT  #: bytes of a message for the worker
        self._reports = TaskReports(channel, setup.encoding, self._most, is_child=not self._survives_exit)
        #: A message that came instead of the one that was due.
        self._next: Optional[Tuple[int, ProcessMessage]] = None
        #: How the user's functions are called, by name.
        self._calls: Dict[str, Tuple[int, Optional[str]]] = {}
        self._may_accelerate = False  #: msgspec is still to be imported
        self._served = 0  #: tasks until it is
        self._stream: Optional[stream_serving.Stream] = None

    def run(self, bare: FrozenSet[str]) -> NoReturn:
        """Load the entry, serve, and end as the user's exit() and the interpreter end."""
        if self._setup.python_path:
            # It was withheld so that our own imports could not find files of the user's.
            os.environ["PYTHONPATH"] = os.pathsep.join(self._setup.python_path)
        fork_logging.watch()
        os.register_at_fork(after_in_child=self._renew_locks)
        try:
            self._stops.start()
        except RuntimeError as error:  # RLIMIT_NPROC, the pids of a cgroup, or the brake
            code = "RUNNER_ERROR" if has_room_for_a_stack() else "MEMORY_ERROR"
            text = f"{code}: no thread of hkrunner's could be started in the algorithm's process: {error}"
            if own := own_memory_limit():
                text += f"; {own}: raise it before hkrunner starts"
            self._channel.send(0, LoadFailed(code, text))
            os._exit(1)
        self._load(bare)
        while True:
            received, self._next = self._next or self._channel.receive(), None
            if received is None:
                break
            task, message = received
            if isinstance(message, self._beginnings):
                self._serve(task, message)
                self.reserve.restore()
                if self._may_accelerate:
                    self._served += 1
                    if self._served >= ENOUGH_TASKS or self._channel.stays_quiet(PAUSE_S):
                        self._accelerate()
        self._end()

    def _accelerate(self) -> None:
        """Import what makes messages fast: 15 ms, for which the first task shall not wait."""
        self._may_accelerate = False
        # The user's code may have done anything to the modules of this process by now.
        with contextlib.suppress(Exception):
            codec.accelerate()

    def _renew_locks(self) -> None:
        """Make new locks in a fork of the user's: no thread is left there to release a held one."""
        self._channel.renew_lock()
        self._stops.renew_locks()

    # ---- loading

    def _load(self, bare: FrozenSet[str]) -> None:
        python_path = self._setup.python_path
        folders = [self._where.folder, *python_path]
        later = not entry_import.stands_in(folders, frozenset(("msgspec", "typing_extensions")))
        try:
            self._may_accelerate = codec.prepare(self._encoding, later=later)
            loaded = self._import(bare)
        except entries.EntryError as error:
            self._refuse(failures.failed(error.code, error))
        except BaseException as error:  # noqa: BLE001 - the edge of user code: whatever it raises is an answer
            self._refuse(self._failed_by(error))
        self._entry = self._stops.entry = loaded
        flush_output()
        methods = [name for name in entries.METHODS if getattr(loaded, name) is not None]
        try:
            calls = entries.calls_of(loaded, self._where)
        except BaseException:  # noqa: BLE001 - what a user's object says of its signature may raise anything
            calls = {}
        lower_brake(self._setup.brake_bytes)
        self._channel.send(0, Loaded(PROTOCOL_VERSION, methods, sys.version.split()[0], calls))
        self._reports.send_still_running()

    def _import(self, bare: FrozenSet[str]) -> entries.Entry:
        return entry_import.load(self._where, bare=bare, python_path=self._setup.python_path)

    def _refuse(self, failed: Failed) -> NoReturn:
        self._send_load_failed(failed)
        # No task has begun, so nothing is to be ended in order; os._exit() waits for no thread of the user's.
        os._exit(0)

    def _send_load_failed(self, failed: Failed) -> None:
        flush_output()
        self._channel.send(0, LoadFailed(failed.code, failed.message, failed.details, failed.is_deliberate))

    # ---- one task

    def _serve(self, task: int, message: Any) -> None:
        entry = self._entry
        assert entry is not None, "tasks are served after Loaded"
        failed: Optional[Failed] = None
        leaving: Optional[BaseException] = None
        try:
            try:
                self._run_task(task, message, entry)
            except _Superseded:
                return
            except codec.ResultInvalid as error:
                failed = failures.failed("RESULT_INVALID", error)
            except codec.ResultTooLarge as error:
                failed = failures.failed("RESULT_TOO_LARGE", error)
            except entries.EntryError as error:
                failed = failures.failed(error.code, error)
            except BaseException as error:  # noqa: BLE001 - the edge of user code: all of it is an answer
                failed = self._failed_by(error)
                leaving = error if failed.ends else None
            # Only here: an error holds the frames of the user's code with all that was in them, and once the
            # answer is sent, the memory of this task would count as that of the next one.
            if failed is not None:
                self._fail(task, failed)
                if leaving is not None:
                    self._finish_loop()
                    raise leaving
        finally:
            if self._files is not None:
                self._files.close()
            if self._stream is not None:
                self._stream.close()
            self._files = self._stream = None
            if self._api is not None:
                self._stops.close_task()
                self._api = None

    def _failed_by(self, error: BaseException) -> Failed:
        """Return the answer for what the user's code has raised; in a copy of us that it forked, end."""
        self.reserve.release_after(error)
        if self._entry is None:
            return failures.of_import(error, self._where)
        failed = failures.of_task(error, self._where, may_end=not self._survives_exit)
        if os.getpid() != self._pid:  # it ends as a script would
            with contextlib.suppress(Exception):  # its stderr may be closed
                print(failed.message, file=sys.stderr)
            exit_fork(1)
        return failed

    def _run_task(self, task: int, message: Union[Begin, Initialize], entry: entries.Entry) -> None:
        args, is_announced = self._open(task, message, entry)
        api = self._open_api(task)
        has_start = isinstance(message, BeginAndStart)
        has_start |= args.get("kind") == "stream" and self._open_stream(task, args, api)
        if entry.init is not None:
            self._call(entry.init, "init", 1, args, api)
        if not is_announced:
            flush_output()
            self._channel.send(task, Initialized())
        if not has_start:
            self._wait_for(Start)
        api._begin_start()
        if self._stream is None:
            result = self._call(entry.start, self._where.function, 2, args, api)
        else:
            result = self._call_with_stream(entry.start, self._stream, args, api)
        self._finish(task, result)

    def _call_with_stream(
        self, start: Callable[..., Any], stream: stream_serving.Stream, args: Dict[str, Any], api: Api
    ) -> Any:
        return stream_serving.serve(
            stream, args, lambda one: self._call(start, self._where.function, 2, one, api)
        )

    def _open_stream(self, task: int, args: Dict[str, Any], api: Api) -> bool:
        """Open the stream of a task of a stream pipeline; return whether Start came meanwhile."""
        self._channel.send(task, stream_serving.request(args))
        answer, has_start = stream_serving.answer_of(self._wait_for)
        self._stream = stream_serving.open_stream(answer, args, self._report_problem, self._loop)
        self._stops.open_stream(api, self._stream)
        return has_start

    def _open_api(self, task: int) -> Api:
        api = self._api = Api(self._reports, task, returned_errors=self._setup.returned_errors)
        self._stops.open_task(task, api)
        return api

    def _open(
        self, task: int, message: Union[Begin, Initialize], entry: entries.Entry
    ) -> Tuple[Dict[str, Any], bool]:
        """Read the task; return what init and start get, and whether the worker takes it for initialized."""
        args = codec.data_of(self._decode(message.wire))
        if isinstance(message, Begin):
            place: Union[Begin, UseFolder] = message
            if entry.init is not None:
                # From here on the task has begun: if we die now, it is not given to another child.
                self._channel.send(task, TaskRead(codec.ids_of(args)))
        else:
            self._channel.send(task, TaskRead(codec.ids_of(args)))
            place = self._wait_for(UseFolder)
        if place.env is not None:
            self._task_env = place.env
        for name, value in self._task_env.items():
            if os.environ.get(name) != value:  # the code has changed it; to set it takes three times as long
                os.environ[name] = value
        if place.folder is not None:
            files = self._files = ResultFiles(
                place.folder,
                place.keep_max_bytes,
                lambda text: self._channel.send(task, Problem(text)),
                recorded_bytes=place.recorded_bytes,
            )
            wire = message.wire
            if files.wants(wire.size if isinstance(wire, Memfd) else len(wire)):
                files.write_input(codec.json_text(args.get("input")))
            files.prepare_output()
        return args, place.is_announced

    def _wait_for(self, wanted: Any) -> Any:
        """Return the next message, which is to be of this type or types; raises _Superseded for another."""
        received = self._channel.receive()
        if received is None or not isinstance(received[1], wanted):
            self._next = received
            raise _Superseded
        return received[1]

    def _decode(self, wire: Wire) -> Any:
        try:
            return codec.decode(self._encoding, content_of(wire))
        except ValueError as error:
            raise entries.EntryError(
                "RUNNER_ERROR", f"the worker's initialize {unreadable.why(error, f'is no {self._encoding}')}"
            ) from None

    def _call(self, function: Callable[..., Any], name: str, most: int, args: Any, api: Api) -> Any:
        how = self._calls.get(name)
        if how is None:  # a signature costs more than many a task
            how = self._calls[name] = entries.call_with(function, name, self._where.shown, most)
        places, keyword = how
        given = (args, api)[:places]
        self._loop.adopt()
        result = function(*given, **({keyword: api} if keyword else {}))
        if type(result) in _PLAIN and os.getpid() == self._pid:
            return result  # as good as always; what follows asks its class
        if can_be_awaited(result):
            result = self._stops.await_task(result, name)
        if os.getpid() != self._pid:
            exit_fork()  # a fork of the user's that returned from their function
        if most == 1 and was_not_run(result):
            raise not_run(name, self._where.shown)
        if is_async_generator(result):
            raise codec.ResultInvalid(
                f"{name}() in {self._where.shown} gives an async generator: have it return a list, "
                f"[one async for one in …]"
            )
        return result

    def _finish(self, task: int, result: Any) -> None:
        if self._may_accelerate and large_values.is_large(result):
            self._accelerate()
        wire = codec.encode_pieces(self._encoding, {"command": "done", "data": result}, most=self._most)
        is_json = self._encoding == "json" or (
            self._encoding == "socket.io" and bytes(wire[-1][-1:]) == b"}"  # no attachments
        )
        if self._files is not None and self._files.wants(sum(map(len, wire))):
            self._files.write_output(result_json(wire) if is_json else codec.json_text(result))
        # A text has no number, and only the first values are looked at.
        if type(result) not in _HOLDS_NO_NUMBER and is_json and b"null" in wire[0][:SEARCHED_BYTES]:
            self._reports.send_place_of_lost_number(task, result)
        del result
        self._wind_up(None)
        self._reports.send_at_end(task)
        self._channel.send_wire(task, Done, wire, reuse=True)

    def _fail(self, task: int, failed: Failed) -> None:
        self._wind_up(failed.message)
        self._reports.send_at_end(task)
        self._channel.send(task, failed)

    def _wind_up(self, error: Optional[str]) -> None:
        """Finish a task before its answer: wait for stop(), close its spans, flush its output."""
        if error is not None and self._stream is not None:
            self._stream.abort()
        self._stops.end_task()
        if self._api is not None:
            self._api._end(error)
            self._api = None
        flush_output()

    # ---- the end

    def _finish_loop(self) -> None:
        """Cancel asyncio tasks that are left; what goes wrong then changes no answer any more."""
        try:
            self._loop.finish()
        except Exception as error:  # noqa: BLE001 - a loop may be any class of the user's
            self._report_problem("the asyncio loop could not be closed", error)

    def thread_lost(self, name: str, error: str) -> None:
        """Report a thread of the user's that has ended for want of memory."""
        text = f"thread {name} ended with {error}; what waits for it may wait for ever"
        self._channel.send(0, Problem(text, thread_lost=True))

    def _report_problem(self, text: str, error: Optional[BaseException]) -> None:
        if error is not None:
            self.reserve.release_after(error)
            text += ": " + exception_report.describe(error, self._where.folder)["message"]
        self._channel.send(0, Problem(text))

    def _end(self) -> NoReturn:
        """Call the user's exit(), and end with the status the worker asked for."""
        # EndProcess comes on the other socket, and was sent before the EOF that has brought us here.
        self._stops.exit_known.wait(EXIT_OPTIONS_S)
        self._stops.join_stop()
        options = self._stops.exit_options
        function = self._entry.exit if self._entry is not None else None
        if function is not None and options is not None:
            try:
                self._stops.call_with_options(function, "exit", options)
            except SystemExit:
                pass  # it wanted to end: so it does
            except BaseException as error:  # noqa: BLE001 - the edge of user code
                told = exception_report.describe(error, self._where.folder, during=" in exit()")
                self._channel.send(0, Problem(told["message"]))
        self._finish_loop()
        code = (options or {}).get("exitCode")
        sys.exit(code if isinstance(code, int) else 0)
