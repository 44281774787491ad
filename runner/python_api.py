"""hkrunner in a Python program: hkrunner.run(), for scripts, notebooks and tests.

    import hkrunner

    (result,) = hkrunner.run("my_alg.py", [[1, 2, 3]], mem="512Mi", timeout=60)
    print(result.output, result.peak_bytes)

The tasks run under an hkrunner command of their own, a process below the caller's: the parent of an
algorithm must own its process (it adopts orphans, handles signals, runs a loop), and the caller's may be a
notebook's kernel with threads and an event loop. Two pipes lead back, both read in the caller's thread:

    stdin   a temporary file, one input a line         (--tasks -)
    stdout  one result object a line                   (--json)
    stderr  what the algorithm prints, and errors      -> sys.stderr, or on_event

Whatever ends the call early (Ctrl-C, an exception of on_event) asks the command to stop in order and waits
for it; a second Ctrl-C kills the algorithm. When the caller itself is killed, the kernel asks for it.
"""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn, TypedDict

from .errors import BoardFailed, EntryNotFound, EntryUnusable, HkrunnerError, LinkError, SettingsError
from .io.signals import reset_inherited_signals

#: What run() starts, with -c: neither -m nor a file, which would put a folder of the user's, or of ours,
#: first on sys.path, where a random.py stands in for the standard library's.
_BEGIN = (
    "import sys; sys.path[:] = filter(None, sys.path); from hkrunner.runner.python_api import begin; begin()"
)
_PR_SET_PDEATHSIG = 1
#: What runner/settings/env_file.py takes for one character between double quotes.
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})
_CHUNK = 65536
#: The error's sentence is at the end of stderr, within so many characters.
_TAIL = 65536
#: What begins the line of the error that ended hkrunner: its own, click's, a load that failed.
_SENTENCES = ("hkrunner: ", "Error: ", "✘ ", "error: ")
_ERRORS: tuple[type[HkrunnerError], ...] = (
    SettingsError,
    EntryNotFound,
    EntryUnusable,
    LinkError,
    BoardFailed,
)


class TaskFailed(HkrunnerError):
    """A task has no result; `result` says all that is known."""

    def __init__(self, result: TaskResult) -> None:
        super().__init__(f"task {result.task_id} {result.status} ({result.reason}): {result.message}")
        self.result = result


class Incomplete(HkrunnerError):
    """hkrunner ended before every task had run; `results` are those that had."""

    def __init__(self, sentence: str, results: list[TaskResult]) -> None:
        super().__init__(sentence)
        self.results = results


@dataclass(frozen=True)
class TaskError:
    """Why a task failed. `code` is one of hkrunner's list, `details` the traceback if there is one."""

    code: str
    message: str
    details: str


@dataclass(frozen=True)
class TaskLogs:
    """The files with what the algorithm printed."""

    stdout: Path
    stderr: Path


@dataclass(frozen=True)
class TaskResult:
    """One task, ended."""

    task_id: str
    job_id: str
    status: str  #: "succeed", "failed" or "stopped", HKube's words
    reason: str | None  #: None when it succeeded; else MemoryLimit, Timeout, AlgorithmError, …
    output: Any  #: what start() returned, as it comes out of JSON; None when the task did not succeed
    error: TaskError | None
    duration_s: float
    peak_bytes: int | None  #: most memory at a time, all its processes together; None: not measured
    limit_bytes: int | None  #: the memory limit that held; None: there was none
    cpu_s: float | None
    metrics_dir: Path | None  #: its event files
    logs: TaskLogs | None

    @property
    def ok(self) -> bool:
        """It has a result."""
        return self.status == "succeed"

    @property
    def message(self) -> str:
        """Why there is no result, in a sentence; "" when there is one."""
        return self.error.message if self.error is not None else self.reason or ""

    def raise_for_status(self) -> TaskResult:
        """Return self if the task succeeded, else raise TaskFailed."""
        if not self.ok:
            raise TaskFailed(self)
        return self


@dataclass(frozen=True)
class Printed:
    """A line of the algorithm's output, or of hkrunner's about it, without its end."""

    line: str


class Options(TypedDict, total=False):
    """The keywords of run() but for on_event, each the command's option of the same name."""

    cpu: float | str | None
    mem: int | str | None
    pids: int | None
    timeout: float | None
    start_timeout: float | None
    cpu_time: float | None
    files: int | None
    disk: int | str | None
    gpu: int | None
    grace: float | None
    path: str | os.PathLike[str] | None
    file: str | os.PathLike[str] | None
    python: str | os.PathLike[str] | None
    state_dir: str | os.PathLike[str] | None
    env: Mapping[str, str] | None
    no_limits: bool


def run(
    entry: str | os.PathLike[str],
    inputs: Iterable[Any],
    *,
    cpu: float | str | None = None,
    mem: int | str | None = None,
    pids: int | None = None,
    timeout: float | None = None,
    start_timeout: float | None = None,
    cpu_time: float | None = None,
    files: int | None = None,
    disk: int | str | None = None,
    gpu: int | None = None,
    no_limits: bool = False,
    grace: float | None = None,
    env: Mapping[str, str] | None = None,
    python: str | os.PathLike[str] | None = None,
    path: str | os.PathLike[str] | None = None,
    file: str | os.PathLike[str] | None = None,
    state_dir: str | os.PathLike[str] | None = None,
    on_event: Callable[[Printed | TaskResult], object] | None = None,
) -> list[TaskResult]:
    """Run the algorithm with each of the inputs, one task each; return their results in order.

    An input is what `--input` takes: the list that start() finds as args["input"]; what is not a list is
    wrapped in one. A task that fails or is ended is a result too: see raise_for_status().

    Limits, for the algorithm with all its processes; None: the descriptor's, if there is one, else none
        cpu            cores on average: 0.5, "500m"
        mem            "512Mi", or bytes
        pids           processes at a time
        timeout        seconds a task may take; start_timeout: seconds that loading the code may take
        cpu_time       seconds of CPU time
        files, disk    open files of a process; growth of the working folder and the records
        gpu            GPUs that it sees
        no_limits      True: measure only
    grace      seconds between asking the algorithm to stop and killing it
    env        variables for the algorithm
    python     the interpreter that the code runs in: a path, a virtual environment's folder, a name
    path       folder of the code, where it is not the entry's
    file       the descriptor (algorithm.yml), where it is not beside the code
    state_dir  where the records are kept; ./.hkrunner by default
    on_event   called with each line that is printed and each result as it comes; without it, what is
               printed goes to sys.stderr

    Raises EntryNotFound, EntryUnusable (it cannot be loaded) or SettingsError before the first task, and
    Incomplete when hkrunner itself was ended.
    """
    options: Options = {
        "cpu": cpu,
        "mem": mem,
        "pids": pids,
        "timeout": timeout,
        "start_timeout": start_timeout,
        "cpu_time": cpu_time,
        "files": files,
        "disk": disk,
        "gpu": gpu,
        "no_limits": no_limits,
        "grace": grace,
        "env": env,
        "python": python,
        "path": path,
        "file": file,
        "state_dir": state_dir,
    }
    with contextlib.ExitStack() as stack:
        tasks = stack.enter_context(tempfile.TemporaryFile())
        count = _write_tasks(tasks, inputs)
        arguments = _arguments(entry, options)
        variables = stack.enter_context(_variables(env)) if env else None
        if variables is not None:
            arguments.append(f"--env-file=/dev/fd/{variables.fileno()}")
        command = stack.enter_context(_Command(arguments, tasks, on_event, variables))
        status = command.wait()
    if len(command.results) < count or (count == 0 and status != 0):
        raise _error(status, command, count)
    return command.results


def begin() -> NoReturn:
    """Be the hkrunner command of a caller, whose pid stands before the arguments; see _BEGIN."""
    caller = int(sys.argv[1])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    reset_inherited_signals()
    if os.getppid() != caller:
        sys.exit(143)  # it was gone before the kernel was told
    from .cli.main import main_with

    main_with(sys.argv[2:])


def _write_tasks(file: IO[bytes], inputs: Iterable[Any]) -> int:
    count = 0
    for value in inputs:
        try:
            text = json.dumps(value, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError, RecursionError) as error:
            raise SettingsError(f"inputs[{count}] cannot be sent as JSON: {error}") from error
        file.write(text.encode() + b"\n")
        count += 1
    file.seek(0)
    return count


def _variables(env: Mapping[str, str]) -> IO[bytes]:
    """Return a memory file for --env-file: what stands in arguments, everybody on the machine can read.

    Raises SettingsError for what no variable can be.
    """
    lines: list[bytes] = []
    for name, value in env.items():
        if not re.fullmatch(r"[^\s=#'\"]+", name):
            raise SettingsError(f"env: {name!r} is no name of a variable")
        text = str(value).translate(_ESCAPES)
        try:
            lines.append(f'{name}="{text}"\n'.encode())
        except UnicodeEncodeError as error:
            raise SettingsError(f"env: the value of {name} is no text: {error.reason}") from None
    file = os.fdopen(os.memfd_create("hkrunner-env", os.MFD_CLOEXEC), "wb")
    file.write(b"".join(lines))
    file.flush()
    return file


def _arguments(entry: str | os.PathLike[str], options: Options) -> list[str]:
    # With the value in the same word: it may begin with a dash.
    words = ["run", f"--entry={os.fspath(entry)}", "--tasks=-", "--json", "--quiet"]
    for name, value in options.items():
        if name == "no_limits":
            words += ["--no-limits"] if value else []
        elif value is not None and name != "env":
            words.append(f"--{name.replace('_', '-')}={value}")
    return words


class _Command:
    """The hkrunner command below us. Left early, it is asked to stop, and has ended on return."""

    def __init__(
        self,
        arguments: list[str],
        stdin: IO[bytes],
        on_event: Callable[[Printed | TaskResult], object] | None,
        variables: IO[bytes] | None,
    ) -> None:
        self.results: list[TaskResult] = []
        self.tail = ""  #: the last of stderr
        self._on_event = on_event
        self._was_left = False  #: by an exception
        self._line = ""  #: of stderr, not ended yet
        self._object = bytearray()  #: of stdout, not ended yet
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BEGIN, str(os.getpid()), *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            pass_fds=(variables.fileno(),) if variables is not None else (),
            # A terminal's Ctrl-C is for the main thread, which passes it on. No other thread ever hears of
            # it: then it must reach the command itself, as one of the terminal's own group.
            start_new_session=threading.current_thread() is threading.main_thread(),
        )

    def __enter__(self) -> _Command:
        return self

    def wait(self) -> int:
        """Pass on what comes until the command has ended; return its exit status as subprocess does."""
        process = self._process
        assert process.stdout is not None and process.stderr is not None, "both are pipes"
        pidfd = os.pidfd_open(process.pid)
        try:
            with selectors.PollSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ, self._take_stdout)
                selector.register(process.stderr, selectors.EVENT_READ, self._take_stderr)
                selector.register(pidfd, selectors.EVENT_READ)
                ended = False
                # Once it has ended, all that it wrote is in the pipes: no end of them is waited for.
                while (ready := _ready(selector, wait=not ended)) or not ended:
                    for key in ready:
                        data = os.read(key.fd, _CHUNK)
                        key.data(data)
                        if not data:
                            selector.unregister(key.fileobj)
                    ended = ended or process.poll() is not None
        finally:
            os.close(pidfd)
        return process.wait()

    def _take_stdout(self, data: bytes) -> None:
        if self._was_left:
            return  # a piece may be missing, and nobody asks any more
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._object += line
            result = _result(bytes(self._object))
            self._object.clear()
            self.results.append(result)
            if self._on_event is not None:
                self._on_event(result)
        self._object += rest

    def _take_stderr(self, data: bytes) -> None:
        text = self._decode(data, not data)
        self.tail = (self.tail + text)[-_TAIL:]
        if self._was_left and self._on_event is not None:
            return  # it may be what has raised
        if self._on_event is None:
            if sys.stderr is not None:
                sys.stderr.write(text)
                sys.stderr.flush()
            return
        *lines, self._line = (self._line + text).split("\n")
        if self._line and (not data or len(self._line) > _TAIL):
            lines.append(self._line)
            self._line = ""
        for line in lines:
            self._on_event(Printed(line))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._was_left = kind is not None
        while self._process.returncode is None:
            interrupt = kind is None or issubclass(kind, KeyboardInterrupt)
            with contextlib.suppress(KeyboardInterrupt):  # again: asked for a second time, it kills
                self._process.send_signal(signal.SIGINT if interrupt else signal.SIGTERM)
                self.wait()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None, "both are pipes"
            stream.close()


def _ready(selector: selectors.BaseSelector, *, wait: bool) -> list[selectors.SelectorKey]:
    """Return the pipes that can be read."""
    return [key for key, _ in selector.select(None if wait else 0) if key.data is not None]


def _result(line: bytes) -> TaskResult:
    told: Mapping[str, Any] = json.loads(line)
    error, logs = told["error"], told["logs"]
    return TaskResult(
        task_id=told["taskId"],
        job_id=told["jobId"],
        status=told["status"],
        reason=told["reason"],
        output=told["output"],
        error=None if error is None else TaskError(error["code"], error["message"], error["details"] or ""),
        duration_s=told["durationMs"] / 1000,
        peak_bytes=told["peakMemBytes"],
        limit_bytes=told["memLimitBytes"],
        cpu_s=told["cpuSeconds"],
        metrics_dir=None if told["metricsDir"] is None else Path(told["metricsDir"]),
        logs=None if logs is None else TaskLogs(Path(logs["stdout"]), Path(logs["stderr"])),
    )


def _error(status: int, command: _Command, count: int) -> HkrunnerError:
    """Return what to raise for a command that ended before all tasks had."""
    results = command.results
    sentence = _sentence(command.tail)
    if not results:
        for kind in _ERRORS:
            if status == kind.exit_status:
                return kind(sentence)
    how = f"by signal {-status}" if status < 0 else f"with status {status}"
    told = f": {sentence}" if sentence else ""
    return Incomplete(f"hkrunner ended {how} after {len(results)} of {count} tasks{told}", results)


def _sentence(tail: str) -> str:
    """Return the error that ended hkrunner, which is the last it said; "" for none."""
    lines = tail.rstrip().splitlines()
    for at in range(len(lines) - 1, -1, -1):
        for begin in _SENTENCES:
            if lines[at].startswith(begin):
                return "\n".join([lines[at].removeprefix(begin), *lines[at + 1 :]])
    return lines[-1] if lines else ""
