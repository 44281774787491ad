"""The child's main: takes its channel out of the user's reach, loads the entry, serves task after task.

Theory of operation
-------------------
The main thread reads the *task socket* (SETUP, INIT, GO, START) and runs the user's init and start:
signals, plotting and deep-learning libraries want the main thread. The control thread reads the *control
socket* (STOP, EXIT, REPLY), so a stop is heard while start() runs; the user's stop() runs in a thread of
its own, so that one that hangs does not keep replies from arriving. Everything goes back over the task
socket, whole frames under one lock.

Descriptors: 0 is empty, 1 and 2 are pipes to the parent, the two sockets and the file for faulthandler
are moved above 100 and closed on exec, so programs started by the user never see them. A process that
the user's code forks does have them: it never writes, because every frame checks the pid.

The order at the end of a task: the user's output is flushed, the result is kept in the task's folder,
then DONE or FAILED goes out. Nothing here waits with a deadline: the parent has the clock and the kill.

Runs on Python 3.8 and newer; imports the standard library and our own few modules only.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import threading
from types import CoroutineType
from typing import Any, Callable, Dict, FrozenSet, List, NoReturn, Optional, Sequence, Tuple, Type, Union

from ..codec import codec
from ..shared import entry as entries
from ..shared.channel import (
    EXIT_CHANNEL_LOST,
    INLINE_MAX,
    STACK_SIGNAL,
    ChannelError,
    FrameReader,
    encode,
    fds_of,
    header,
    seal,
)
from ..shared.messages import (
    PROTOCOL_VERSION,
    TO_CHILD,
    TO_CONTROL,
    ApiCall,
    Begin,
    Blob,
    Done,
    EndProcess,
    Failed,
    Initialize,
    Initialized,
    Loaded,
    LoadFailed,
    Message,
    Problem,
    Progress,
    Reply,
    Setup,
    Start,
    StopReturned,
    StopTask,
    TaskRead,
    UseFolder,
    Wire,
    body_of,
    decode,
)
from . import exception_report, fork_logging
from .api import Api

#: Descriptors of ours go above this, where no program expects any; with few allowed (--files), above half.
HIGH = min(100, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)


#: Reserved for the words about a MemoryError: two arenas of Python's allocator.
KEPT_BACK_BYTES = 2 << 20
#: A pause between two tasks, long enough to import what makes the next ones faster; and when it is worth it
#: without one.
REST_S = 0.02
ENOUGH_TASKS = 3
#: Details of a progress up to this size are told as they are.
DETAILS_MAX = 16 * 1024
#: Of an answer that cannot be read, so much at both ends is looked through for the call that it belongs to.
EDGE = 1024
#: By this much the brake is let go for them.
ROOM_BYTES = 4 << 20


def main(bare: FrozenSet[str], collects: bool) -> NoReturn:
    """Run as the child; argv: role, task socket, control socket, file for faulthandler's stacks.

    `collects`: garbage is to be collected once the user's code is loaded, as the interpreter came up.
    """
    tasks, control, fault = (_move_up(int(number)) for number in sys.argv[2:5])
    faulthandler.enable(fault, all_threads=True)
    faulthandler.register(STACK_SIGNAL, fault, all_threads=True, chain=False)
    channel = Channel(tasks)
    setup = receive_setup(channel)
    if setup is None:
        sys.exit(0)
    child = Child(channel, socket.socket(fileno=control), setup)
    # As for a script: an argparse of the user's must not meet ours.
    sys.argv[:] = [child.shown_as]
    if collects:
        gc.enable()
    child.run(bare)


def receive_setup(channel: Channel) -> Optional[Setup]:
    """Return the first message of the parent, None when it is gone. One of another version ends us."""
    try:
        received = channel.receive()
    except ChannelError as error:
        channel.send(0, LoadFailed("RUNNER_ERROR", f"RUNNER_ERROR: {error}"))
        os._exit(0)
    if received is None:
        return None
    setup = received[1]
    assert isinstance(setup, Setup), "a parent says first what to load"
    return setup


def _move_up(fd: int) -> int:
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH)
    os.close(fd)
    return moved


class Channel:
    """The task socket: frames in for the main thread, frames out for every thread of this process."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._reader = FrameReader()
        self._scratch = bytearray(65536)  # what is read, until it is taken apart
        self._ready: List[Tuple[int, Message]] = []
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._blob: Optional[int] = None

    def receive(self) -> Optional[Tuple[int, Message]]:
        """Wait for the next message; return it with its task's number, None when no more will come."""
        while not self._ready:
            try:
                count, ancillary, _, _ = self._socket.recvmsg_into([self._scratch], 256, _CLOEXEC)
            except OSError:
                _leave_without_channel()
            fds = fds_of(ancillary)
            if not count and not fds:
                return None
            frames = self._reader.feed(memoryview(self._scratch)[:count], fds)
            self._ready = [(frame.task, decode(frame, TO_CHILD)) for frame in frames]
        return self._ready.pop(0)

    def rests(self, seconds: float) -> bool:
        """Whether nothing comes for so long; neither a frame nor the end."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not self._ready and not poll.poll(seconds * 1000)

    def send(self, task: int, message: Message) -> None:
        """Send a message, whole. Waits while the parent does not read."""
        self.send_body(task, message.kind, _short_body(message))

    def send_wire(
        self, task: int, message: Type[Union[Done, ApiCall]], *wire: codec.Buffer, keep: bool
    ) -> None:
        """Send bytes of HKube's own messages, in one or more pieces.

        `keep`: a large body may use the one memfd that is kept from task to task; the parent has done
        with the last one by the time the next task begins.
        """
        self.send_body(task, message.kind, *wire, keep=keep)

    def send_body(self, task: int, kind: int, *body: codec.Buffer, keep: bool = False) -> None:
        """Send one frame, whole, its body in one or more pieces."""
        if os.getpid() != self._pid:
            # A process forked by the user's code that came back here instead of ending.
            _leave_fork()
        with self._lock:
            try:
                self._send(kind, task, body, keep)
            except OSError:
                _leave_without_channel()

    def renew_lock(self) -> None:
        """In a forked process: see Child._renew_locks."""
        self._lock = threading.Lock()

    def _send(self, kind: int, task: int, body: Sequence[codec.Buffer], keep: bool) -> None:
        size = sum(len(one) for one in body)
        if size <= INLINE_MAX:
            self._socket.sendall(encode(kind, task, b"".join(body)))
        else:
            fd = self._filled(body, keep)
            try:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder))]
                self._socket.sendmsg([header(kind, task, size, blob=True)], rights)
            finally:
                if not keep:
                    os.close(fd)

    def _filled(self, body: Sequence[codec.Buffer], keep: bool) -> int:
        """Return a memfd with this content. A kept one has its pages already: 4 times faster to fill."""
        fd = self._blob if keep else None
        if fd is None:
            fd = _new_blob()
            if keep:
                self._blob = fd
        at = 0
        for one in body:
            _write(fd, one, at)
            at += len(one)
        return fd


def _new_blob() -> int:
    fd = os.memfd_create("hkrunner", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH)
    finally:
        os.close(fd)
    seal(high)
    return high


_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def _leave_fork(code: int = 0) -> NoReturn:
    with contextlib.suppress(Exception):
        _flush()
    os._exit(code)


def _leave_without_channel() -> NoReturn:
    """The parent is gone, or the user's code has closed our sockets: there is nobody to answer to."""
    with contextlib.suppress(Exception):
        _flush()
    os._exit(EXIT_CHANNEL_LOST)


def _flush() -> None:
    fork_logging.drain()
    for stream in (sys.stdout, sys.stderr):
        # A user may have closed or replaced them with anything.
        with contextlib.suppress(Exception):
            stream.flush()


class _MovedOn(Exception):
    """The supervisor wants no more of this task; it has sent the next one, or closed the socket."""


class Child:
    """Serves the tasks of one entry until the parent closes the task socket."""

    #: sys.exit() in the user's code fails the task, and the next one is served.
    _outlives_exit = False

    def __init__(self, channel: Channel, control: socket.socket, setup: Setup) -> None:
        self._channel = channel
        self._control = control
        self._where = entries.Location(setup.folder, setup.module, setup.function, setup.file)
        #: What stands for the program's name.
        self.shown_as = self._where.file or self._where.module
        self._encoding = setup.encoding
        self._returned_errors = setup.returned_errors
        self._python_path = setup.python_path
        self._brake_bytes = setup.brake_bytes
        self._entry: Optional[entries.Entry] = None
        self._task = 0
        self._api: Optional[Api] = None
        self._state = threading.Lock()
        self._exit: Optional[Dict[str, Any]] = None
        self._cancel: Optional[Callable[[], object]] = None
        self._pid = os.getpid()
        self._next: Optional[Tuple[int, Message]] = None
        self._result: Optional[Tuple[int, str]] = None
        #: Never touched, so nothing is used; bytes(n) comes from calloc.
        self._kept_back = bytes(KEPT_BACK_BYTES)
        self._stopper: Optional[threading.Thread] = None
        #: A stop that came when there was no such task.
        self._early: Optional[Tuple[int, Dict[str, Any]]] = None
        self._exit_known = threading.Event()
        self._calls: Dict[str, Tuple[int, Optional[str]]] = {}
        self._is_slow = False  #: msgspec is still to be imported
        self._served = 0  #: tasks until then

    def run(self, bare: FrozenSet[str]) -> NoReturn:
        """Load the entry, serve, and end as the user's exit() and the interpreter end."""
        self._restore_environment()
        fork_logging.watch()
        os.register_at_fork(after_in_child=self._renew_locks)
        try:
            threading.Thread(target=self._listen, name="hkrunner-control", daemon=True).start()
        except RuntimeError as error:  # RLIMIT_NPROC, the pids of a cgroup
            text = f"RUNNER_ERROR: the algorithm's process has no room for a thread of hkrunner's: {error}"
            self._channel.send(0, LoadFailed("RUNNER_ERROR", text))
            os._exit(1)
        self._load(bare)
        while True:
            received, self._next = self._next or self._channel.receive(), None
            if received is None:
                break
            task, message = received
            if isinstance(message, (Begin, Initialize)):
                self._serve(task, message)
                if self._is_slow:
                    self._served += 1
                    if self._served >= ENOUGH_TASKS or self._channel.rests(REST_S):
                        self._accelerate()
                if not self._kept_back:
                    with contextlib.suppress(MemoryError):
                        self._kept_back = bytes(KEPT_BACK_BYTES)
        self._say_goodbye()

    def _accelerate(self) -> None:
        """Import what makes messages fast. Not before the first task: it would wait for 15 ms."""
        self._is_slow = False
        # What the user's code has done to the modules of this process by now is not ours to know.
        with contextlib.suppress(Exception):
            codec.accelerate()

    def _renew_locks(self) -> None:
        """In a process that the user's code has forked: nobody is left to release what was held just then."""
        self._channel.renew_lock()
        self._state = threading.Lock()
        if self._api is not None:
            self._api._lock = threading.Lock()

    def _restore_environment(self) -> None:
        # It was withheld so that our own imports could not find files of the user's.
        if self._python_path:
            os.environ["PYTHONPATH"] = os.pathsep.join(self._python_path)

    def _load(self, bare: FrozenSet[str]) -> None:
        folders = [self._where.folder, *self._python_path]
        later = not entries.stands_in(folders, frozenset(("msgspec", "typing_extensions")))
        self._is_slow = codec.prepare(self._encoding, later=later)
        try:
            loaded = entries.load(self._where, bare=bare, python_path=self._python_path)
        except entries.EntryError as error:
            self._refuse(_failed(error.code, error))
        except BaseException as error:  # noqa: BLE001 - the edge of user code: whatever it raises is an answer
            self._make_room(error)
            self._refuse(self._import_failure(error))
        self._entry = loaded
        _flush()
        methods = [name for name in entries.METHODS if getattr(loaded, name) is not None]
        try:
            calls = entries.calls_of(loaded, self._where)
        except BaseException:  # noqa: BLE001 - what a user's object says of its signature may raise anything
            calls = {}
        self._give_back_room()
        self._send(0, Loaded(PROTOCOL_VERSION, methods, sys.version.split()[0], calls))

    def _give_back_room(self) -> None:
        """Have no task use what the brake allowed above the limit while the code was loaded.

        The warden does the same when it hears of that, by when a first task may have filled the room.
        """
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if self._brake_bytes is None or soft == resource.RLIM_INFINITY:
            return
        with contextlib.suppress(OSError, ValueError, MemoryError), open("/proc/self/statm", "rb") as file:
            most = int(file.read().split()[5]) * resource.getpagesize() + self._brake_bytes
            if most < soft:
                resource.setrlimit(resource.RLIMIT_DATA, (most, hard))

    def _import_failure(self, error: BaseException) -> Failed:
        told = exception_report.describe(
            error, self._where.folder, code="IMPORT_FAILED", during=" during import"
        )
        text: str = told["message"]
        if isinstance(error, ModuleNotFoundError):
            text = text.replace(" during import", f" (python: {exception_report.interpreter()})", 1)
        return Failed(told["code"], text, told["details"])

    def _refuse(self, failed: Failed) -> NoReturn:
        _flush()
        self._send(0, LoadFailed(failed.code, failed.message, failed.details))
        # Nothing of the user's has to be wound down; a thread it started must not hold us up.
        os._exit(0)

    # ---- one task, in the main thread

    def _serve(self, task: int, message: Union[Begin, Initialize]) -> None:
        entry = self._entry
        assert entry is not None, "tasks are served after LOADED"
        folder: Optional[str] = None
        announced = False
        try:
            size = len(message.wire) if isinstance(message.wire, bytes) else message.wire.size
            if isinstance(message, Begin):
                announced = message.is_announced
                args, ids = codec.ids_of(self._decode(message.wire))
                if entry.init is not None:
                    # From here on the task has begun: if we die now, it is not given to another child.
                    self._send(task, TaskRead(ids))
                place: Union[Begin, UseFolder] = message
            else:
                args = self._admit(task, message)
                place = self._wait_for_folder()
            folder, most = place.folder, place.keep_max_bytes
            if place.env:
                os.environ.update(place.env)
            if folder is not None:
                if most is None or size <= most:
                    self._keep_input(folder, codec.json_text(args.get("input")))
                self._prepare(folder)
            api = Api(
                lambda message: self._call_worker(task, message),
                lambda value, details: self._show_progress(task, value, details),
                returned_errors=self._returned_errors,
            )
            self._open(task, api)
            if entry.init is not None:
                self._call(entry.init, "init", 1, args, api)
            if not announced:
                _flush()
                self._channel.send(task, Initialized())
            start = self._channel.receive()
            if start is None or not isinstance(start[1], Start):
                self._next = start
                raise _MovedOn
            api._begin_start()
            result = self._call(entry.start, self._where.function, 2, args, api)
            self._finish(task, folder, most, result)
        except _MovedOn:
            return
        except codec.ResultInvalid as error:
            self._fail(task, _failed("RESULT_INVALID", error))
        except codec.ResultTooLarge as error:
            self._fail(task, _failed("RESULT_TOO_LARGE", error))
        except entries.EntryError as error:
            self._fail(task, _failed(error.code, error))
        except BaseException as error:  # the edge of user code: whatever it raises is an answer
            self._make_room(error)
            if os.getpid() != self._pid:
                # A copy of us, forked by the user's code: it ends as a script would.
                text = exception_report.describe(error, self._where.folder)["message"]
                with contextlib.suppress(Exception):
                    print(text, file=sys.stderr)
                _leave_fork(1)
            ends = isinstance(error, SystemExit) and not self._outlives_exit
            told = exception_report.describe(error, self._where.folder)
            self._fail(task, Failed(told["code"], told["message"], told["details"], ends))
            if ends:
                raise
        finally:
            self._drop_result()
            with self._state:
                self._task, self._api = 0, None

    def _make_room(self, error: BaseException) -> None:
        """After a MemoryError, have memory for the answer: the traceback still holds what was taken.

        First what was kept back goes, which takes no memory; then the brake is let go a little: the guard
        sets it anew when it looks next.
        """
        if not isinstance(error, MemoryError) and not isinstance(error.__context__, MemoryError):
            return
        self._kept_back = b""
        with contextlib.suppress(OSError, ValueError):
            soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
            if soft != resource.RLIM_INFINITY:
                more = soft + ROOM_BYTES
                if hard != resource.RLIM_INFINITY:
                    more = min(more, hard)
                resource.setrlimit(resource.RLIMIT_DATA, (more, hard))

    def _admit(self, task: int, message: Initialize) -> Dict[str, Any]:
        """Decode the task and tell the parent its ids; returns what init and start get."""
        data, ids = codec.ids_of(self._decode(message.wire))
        self._send(task, TaskRead(ids))
        return data

    def _decode(self, wire: Wire) -> Any:
        try:
            return codec.decode(self._encoding, wire if isinstance(wire, bytes) else _mapped(wire))
        except ValueError as error:
            raise entries.EntryError(
                "RUNNER_ERROR", f"the worker's initialize is no {self._encoding}: {error}"
            ) from None
        finally:
            if isinstance(wire, Blob):
                os.close(wire.fd)

    def _open(self, task: int, api: Api) -> None:
        """The task can be stopped from here on; at once, if that was asked for before we had read it."""
        with self._state:
            self._task, self._api = task, api
            early, self._early = self._early, None
        if early is not None and early[0] == task:
            self._begin_stop(*early)
        elif self._exit is not None:
            self._begin_stop(task, {"forceStop": True})

    def _wait_for_folder(self) -> UseFolder:
        received = self._channel.receive()
        if received is None or not isinstance(received[1], UseFolder):
            raise _MovedOn
        return received[1]

    def _call(self, function: Callable[..., Any], name: str, most: int, args: Any, api: Api) -> Any:
        how = self._calls.get(name)
        if how is None:  # a signature costs more than many a task
            how = self._calls[name] = entries.call_with(function, name, self._where.shown, most)
        places, keyword = how
        given = (args, api)[:places]
        result = function(*given, **({keyword: api} if keyword else {}))
        if isinstance(result, CoroutineType):
            result = _asyncio().run(self._awaited(result))
        if os.getpid() != self._pid:
            _leave_fork()  # a fork of the user's that returned from their function
        return result

    async def _awaited(self, coroutine: Any) -> Any:
        """Run the coroutine so that a stop can cancel it."""
        asyncio = _asyncio()
        running = asyncio.ensure_future(coroutine)
        loop = asyncio.get_running_loop()
        with self._state:
            self._cancel = lambda: loop.call_soon_threadsafe(running.cancel)
        try:
            return await running
        except asyncio.CancelledError:
            if self._api is not None and self._api.stopping:
                return None
            raise
        finally:
            with self._state:
                self._cancel = None

    def _finish(self, task: int, folder: Optional[str], most: Optional[int], result: Any) -> None:
        if self._is_slow and codec.is_large(result):
            self._accelerate()
        wire = codec.encode_pieces(self._encoding, {"command": "done", "data": result})
        if folder is not None and (most is None or sum(map(len, wire)) <= most):
            is_json = self._encoding == "json"
            self._keep_result(folder, _data_of(bytes(wire[0])) if is_json else codec.json_text(result))
        del result
        self._wind_up(None)
        self._channel.send_wire(task, Done, *wire, keep=True)

    def _wind_up(self, error: Optional[str]) -> None:
        """The last of a task before its answer: stop() comes to its end, spans are closed, output is out."""
        self._join_stop()
        if self._api is not None:
            self._api._end(error)
        with self._state:
            # A stop that comes from now on is for a task that is over.
            self._task, self._api = 0, None
        _flush()

    def _call_worker(self, task: int, message: Dict[str, Any]) -> None:
        """Send a message of the code API, encoded once, for the wire. Raises ApiError."""
        self._need_own_process()
        try:
            wire = codec.encode(self._encoding, message, name=f"{message['command']} data")
        except (codec.ResultInvalid, codec.ResultTooLarge) as error:
            raise Api.Error(str(error)) from None
        self._channel.send_wire(task, ApiCall, wire, keep=False)

    def _show_progress(self, task: int, value: float, details: Any) -> None:
        self._need_own_process()
        self._send(task, Progress(value, _plain(details)))

    def _need_own_process(self) -> None:
        if os.getpid() != self._pid:
            raise Api.Error(
                "api can be used in the algorithm's own process only; this one was forked by it: return what "
                "it has found, and call api from there"
            )

    def _fail(self, task: int, failed: Failed) -> None:
        self._wind_up(failed.message)
        self._send(task, failed)

    def _prepare(self, folder: str) -> None:
        """Make the file that will hold the result now: a new file costs up to 0.2 ms, which is then no
        part of the time between start and done."""
        part = os.path.join(folder, ".output.json.part")
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self._result = (_move_up(os.open(part, flags, 0o666)), part)
        except OSError as error:
            self._not_kept("output.json", error)

    def _keep_result(self, folder: str, data: Optional[bytes]) -> None:
        if self._result is None or data is None:
            return
        fd, part = self._result
        try:
            _write(fd, data)
            os.replace(part, os.path.join(folder, "output.json"))
        except OSError as error:
            self._not_kept("output.json", error)
        else:
            self._result = None
            os.close(fd)

    def _drop_result(self) -> None:
        """The task has no result that could be kept."""
        if self._result is not None:
            fd, part = self._result
            self._result = None
            with contextlib.suppress(OSError):
                os.close(fd)
                os.unlink(part)

    def _keep_input(self, folder: str, data: Optional[bytes]) -> None:
        if data is None:
            return
        part = os.path.join(folder, ".input.json.part")
        try:
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            try:
                _write(fd, data)
            finally:
                os.close(fd)
            os.replace(part, os.path.join(folder, "input.json"))
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(part)
            self._not_kept("input.json", error)

    def _not_kept(self, name: str, error: OSError) -> None:
        """A full disk or a removed folder does not fail the task; it is told."""
        self._send(self._task, Problem(f"{name} was not kept: {error.strerror}"))

    # ---- stop and exit, in the control thread

    def _listen(self) -> None:
        # The stacks are asked for to see the user's code: it is the main thread that has to tell them.
        signal.pthread_sigmask(signal.SIG_BLOCK, [STACK_SIGNAL])
        try:
            self._hear()
        finally:
            self._exit_known.set()

    def _hear(self) -> None:
        reader = FrameReader()
        while True:
            try:
                data, ancillary, _, _ = self._control.recvmsg(65536, 256, _CLOEXEC)
            except OSError:
                return
            fds = fds_of(ancillary)
            if not data and not fds:
                return
            for frame in reader.feed(data, fds):
                message = decode(frame, TO_CONTROL)
                if isinstance(message, StopTask):
                    self._begin_stop(frame.task, message.options)
                elif isinstance(message, EndProcess):
                    self._exit = message.options
                    self._begin_stop(0, {"forceStop": True})
                    self._exit_known.set()
                elif isinstance(message, Reply):
                    self._take_reply(frame.task, message.wire)

    def _take_reply(self, task: int, wire: Wire) -> None:
        """Hand an answer of the worker to whoever waits for it."""
        with self._state:
            api = self._api if task == self._task else None
        data: codec.Buffer = b""
        try:
            data = wire if isinstance(wire, bytes) else _mapped(wire)
            if api is None:
                return
            message = codec.decode(self._encoding, data)
        except (ValueError, MemoryError) as error:
            if api is not None:
                # Whoever waits for it must not wait for ever.
                api._cannot_read(bytes(data[:EDGE]) + bytes(data[-EDGE:]), len(data), error)
            return
        finally:
            if isinstance(wire, Blob):
                os.close(wire.fd)
        if isinstance(message, dict):
            api._answer(message)

    def _begin_stop(self, task: int, options: Dict[str, Any]) -> None:
        with self._state:
            api, running = self._api, self._task
            if api is None or (task and task != running):
                # That task has ended meanwhile, and its answer is on its way; or it waits to be read.
                self._early = (task, options)
                return
            api._stop_asked()
            self._stopper = threading.Thread(
                target=self._stop, args=(running, options), name="hkrunner-stop", daemon=True
            )
            self._stopper.start()

    def _join_stop(self) -> None:
        """Let the user's stop() come to its end; the parent has the clock."""
        with self._state:
            stopper, self._stopper = self._stopper, None
        if stopper is not None:
            stopper.join()

    def _stop(self, task: int, options: Dict[str, Any]) -> None:
        """Call the user's stop(), then cancel a start() that is a coroutine."""
        failure = ""
        function = self._entry.stop if self._entry is not None else None
        if function is not None:
            try:
                places, _ = entries.call_with(function, "stop", self._where.shown, 1)
                result = function(*(options,)[:places])
                if isinstance(result, CoroutineType):
                    _asyncio().run(result)
            except BaseException as error:  # noqa: BLE001 - the edge of user code
                told = exception_report.describe(error, self._where.folder, during=" in stop()")
                failure = told["message"]
            if os.getpid() != self._pid:
                _leave_fork()
        with self._state:
            cancel = self._cancel
        if cancel is not None:
            with contextlib.suppress(RuntimeError):  # its loop has closed meanwhile
                cancel()
        self._send(task, StopReturned(failure))

    def _say_goodbye(self) -> NoReturn:
        """Call the user's exit(), and end with the code the worker asked for."""
        # EXIT comes on the other socket, and was sent before the EOF that has brought us here.
        self._exit_known.wait(5.0)
        self._join_stop()
        options = self._exit or {"exitCode": 0}
        function = self._entry.exit if self._entry is not None else None
        if function is not None and self._exit is not None:
            try:
                places, _ = entries.call_with(function, "exit", self._where.shown, 1)
                result = function(*(options,)[:places])
                if isinstance(result, CoroutineType):
                    _asyncio().run(result)
            except SystemExit:
                pass  # it wanted to end: so it does
            except BaseException as error:  # noqa: BLE001 - the edge of user code
                told = exception_report.describe(error, self._where.folder, during=" in exit()")
                self._send(0, Problem(told["message"]))
        code = options.get("exitCode")
        sys.exit(code if isinstance(code, int) else 0)

    def _send(self, task: int, message: Message) -> None:
        with contextlib.suppress(OSError):  # the parent is gone: the warden ends us in a moment
            self._channel.send(task, message)


def _short_body(message: Message) -> bytes:
    """Return the body of the message, its texts cut if it is too long for the stream."""
    body = body_of(message)
    if len(body) <= INLINE_MAX:
        return body
    # A character may take six bytes, or twelve: as text it was no longer than it may be.
    fields = message.as_dict()
    most = INLINE_MAX // 12 // max(1, len(fields))
    cut = {
        name: exception_report.cut(value, most) for name, value in fields.items() if isinstance(value, str)
    }
    return body_of(message.replace(**cut))


def _plain(value: Any) -> Any:
    """Return what can go into a frame of ours: the value as JSON has it, or its text."""
    try:
        plain = None if codec.is_large(value) else codec.plain(value, "json", "details")
        if plain is not None and len(json.dumps(plain)) <= DETAILS_MAX:
            return plain
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - whatever the user's own types do when they are looked at
        pass
    return None if value is None else exception_report.cut(exception_report.text_of(value), DETAILS_MAX // 12)


def _failed(code: str, error: Exception) -> Failed:
    return Failed(code, f"{code}: {error}")


def _write(fd: int, data: codec.Buffer, at: int = 0) -> None:
    """Write all of it; the kernel takes at most 2 GiB at once, and less on a full disk."""
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, at)
        view, at = view[done:], at + done


def _asyncio() -> Any:
    import asyncio  # 40 ms, and most algorithms are not written for it

    return asyncio


def _mapped(blob: Blob) -> memoryview:
    import mmap

    return memoryview(mmap.mmap(blob.fd, blob.size, mmap.MAP_SHARED, mmap.PROT_READ))[: blob.size]


_DONE = b'{"command":"done","data":'


def _data_of(wire: bytes) -> Optional[bytes]:
    """Return the result's own JSON out of the message it travels in."""
    return wire[len(_DONE) : -1] if wire.startswith(_DONE) else None
