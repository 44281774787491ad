"""Every code that begins an error message, declared once: meaning, remedy, reason, exit status.

Results, --json, the pointer to `hkrunner explain`, that command itself and the reference are made from this
table. A test compares it with the sources: it has each code that they can report, and no other.
"""

from __future__ import annotations

import contextlib
import re
import signal
from typing import NamedTuple

from ...sandbox.shared.limits import Limit, declared_limits

ALGORITHM_ERROR = "AlgorithmError"
MEMORY_LIMIT = "MemoryLimit"
CPU_LIMIT = "CpuLimit"
TIMEOUT = "Timeout"
LOAD_ERROR = "LoadError"
CRASHED = "Crashed"
STOPPED = "Stopped"

SANDBOX_UNAVAILABLE = "SANDBOX_UNAVAILABLE"
_SAME_PROCESS = "the same process takes the next task"
_NEW_PROCESS = "a new process takes the next task"
_LOADED_AGAIN = "the next task is given to a new process, which loads the code again"


class ErrorCode(NamedTuple):
    """The declaration of one error code."""

    meaning: str
    remedy: str
    reason: str  #: "reason" of --json
    exit_status: int | None  #: hkrunner's exit status if this was the only task; None: see `status_text`
    next_task: str = _NEW_PROCESS
    status_text: str = ""  #: the exit status where it is not one number
    explains_itself: bool = False  #: the message points at the user's own code; there is nothing to look up

    @property
    def shown_status(self) -> str:
        """The exit status as help texts show it."""
        return self.status_text or str(self.exit_status)


CODES: dict[str, ErrorCode] = {
    "ALGORITHM_ERROR": ErrorCode(
        "The code raised an exception. The message contains its type and text, the last line of your own code"
        " and your own frames; `details` contains the whole traceback.",
        "Look at the line that the message names. `hkrunner runs again TASK` repeats the task.",
        ALGORITHM_ERROR,
        1,
        _SAME_PROCESS,
        explains_itself=True,
    ),
    "RESULT_INVALID": ErrorCode(
        "start() returned a value that cannot be sent. The message names its place in the result and its"
        " type.",
        'Where one call makes the value plain, the message names it, such as `.to_dict("records")` for a'
        " DataFrame. Otherwise return numbers, strings, lists, dicts or None.",
        ALGORITHM_ERROR,
        1,
        _SAME_PROCESS,
        explains_itself=True,
    ),
    "RESULT_TOO_LARGE": ErrorCode(
        "The result is larger than a message may be.",
        "Write the result to a file or a store, and return its location.",
        ALGORITHM_ERROR,
        1,
        _SAME_PROCESS,
        explains_itself=True,
    ),
    "STORAGE_READ_FAILED": ErrorCode(
        "With `--storage v3`: an input of the task, or the answer of a call, could not be read from HKube's"
        " storage. The message names the object and the reason.",
        "Check that the storage is there and is the one that the cluster uses: `DEFAULT_STORAGE`,"
        " `BASE_FS_ADAPTER_DIRECTORY` or `S3_ENDPOINT_URL`, `STORAGE_ENCODING`. A slow storage may need a"
        " longer `--storage-timeout`.",
        CRASHED,
        1,
        _SAME_PROCESS,
    ),
    "STORAGE_WRITE_FAILED": ErrorCode(
        "With `--storage v3`: the result of the task could not be written to HKube's storage. The message"
        " names the place and the reason.",
        "Make room there, or give hkrunner the right to write: the storage is described by `DEFAULT_STORAGE`"
        " and `BASE_FS_ADAPTER_DIRECTORY` or `S3_ENDPOINT_URL`.",
        CRASHED,
        1,
        _SAME_PROCESS,
    ),
    "MEMORY_ERROR": ErrorCode(
        "An allocation failed inside the code, as Python's MemoryError. With a memory limit: the allocation"
        " would have exceeded the limit.",
        "Try the size that the message suggests (`--mem 512Mi`), or `--no-limits` to measure what is needed."
        " For large arrays of which only parts are used: `--mem-mode auto`.",
        MEMORY_LIMIT,
        137,
        _SAME_PROCESS,
    ),
    "TOO_MANY_FILES": ErrorCode(
        "The process has as many open files as it may have.",
        "Close files after use (`with open(…)`), or raise `--files`.",
        ALGORITHM_ERROR,
        1,
        _SAME_PROCESS,
    ),
    "DENIED": ErrorCode(
        "The kernel refused to deliver a signal to a process that does not belong to the algorithm.",
        "Send signals only to processes that the algorithm started.",
        ALGORITHM_ERROR,
        1,
        _SAME_PROCESS,
    ),
    "ENTRY_NOT_FOUND": ErrorCode(
        "There is no code at the place that the options or the descriptor name.",
        "Check `--entry` and `--path`. `hkrunner validate` shows which places are searched.",
        LOAD_ERROR,
        3,
        "the code is searched again for the next task",
        explains_itself=True,
    ),
    "ENTRY_INVALID": ErrorCode(
        "The code was loaded, but it has no function that can be called: no start(args, api), no other"
        " function, or one with other arguments.",
        "The message lists the functions that were found. Add `start(args, api)`, or name another function:"
        " `--entry file.py:function`.",
        LOAD_ERROR,
        4,
        _LOADED_AGAIN,
        explains_itself=True,
    ),
    "IMPORT_FAILED": ErrorCode(
        "The code raised an exception while it was imported: a syntax error, a missing package, an exception"
        " at the top level.",
        "Correct the line that the message names. Install a missing package in the Python that runs the code,"
        " list it in requirements.txt and give `--install`, or choose another Python with `--python`.",
        LOAD_ERROR,
        4,
        _LOADED_AGAIN,
        explains_itself=True,
    ),
    "START_TIMEOUT": ErrorCode(
        "Loading the code took longer than `--start-timeout`. The message shows what each thread was doing. A"
        " program of `--command` has not connected to hkrunner in that time.",
        "Raise `--start-timeout`, or do less during import.",
        LOAD_ERROR,
        4,
        _LOADED_AGAIN,
    ),
    "EXITED": ErrorCode(
        "The algorithm ended its own process (`sys.exit`, `os._exit`, exit() in C code) before it answered.",
        "Return a result, or raise an exception that says what is wrong.",
        CRASHED,
        1,
        explains_itself=True,
    ),
    "KILLED_BY_SIGNAL": ErrorCode(
        "The process was ended by a signal that hkrunner did not send, usually because C code crashed. The"
        " message contains the Python stack and the last lines of output.",
        "SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT: C code of a package; the stack shows which call. SIGKILL,"
        " SIGTERM: sent by another process on this machine.",
        CRASHED,
        None,
        status_text="128 + N",
    ),
    "OUT_OF_MEMORY": ErrorCode(
        "The algorithm, all its processes together, exceeded its memory limit and was killed. The message"
        " contains how much it used, after how long, and its largest processes.",
        "Try the size that the message suggests, or `--no-limits` to measure what is needed. In the cluster"
        " the same limit ends the pod as OOMKilled.",
        MEMORY_LIMIT,
        137,
    ),
    "SHARED_MEMORY_LIMIT": ErrorCode(
        "As OUT_OF_MEMORY, where most of the memory is in /dev/shm, memory files or System V segments. The"
        " message names the largest.",
        "Unlink shared memory after use; send fewer or smaller batches between the workers of a data loader.",
        MEMORY_LIMIT,
        137,
    ),
    "HOST_OOM": ErrorCode(
        "The kernel killed the algorithm, probably because the machine ran out of memory: it killed a process"
        " for that reason just before. The algorithm was within its own limit.",
        "Run fewer programs at a time, or use a larger machine.",
        MEMORY_LIMIT,
        137,
    ),
    "TOO_MANY_PROCESSES": ErrorCode(
        "The algorithm had more processes at a time than `--pids` allows.",
        "Start fewer processes at a time (`Pool(4)`), or raise `--pids`.",
        CRASHED,
        1,
    ),
    "CPU_TIME_LIMIT": ErrorCode(
        "The algorithm's process and all processes below it have used their CPU time (`--cpu-time`).",
        "Compute less, or raise `--cpu-time`.",
        CPU_LIMIT,
        124,
    ),
    "DISK_LIMIT": ErrorCode(
        "The working folder and the records have grown by more than `--disk` allows.",
        "Write less, remove files that are not needed any more, or raise `--disk`.",
        CRASHED,
        1,
    ),
    "TASK_TIMEOUT": ErrorCode(
        "The task took longer than `--timeout`. The message shows what each thread was doing.",
        "Raise `--timeout`, or look at what the threads were doing. Time during which a CPU limit slowed the"
        " task down counts too.",
        TIMEOUT,
        124,
    ),
    "STOP_FORCED": ErrorCode(
        "The algorithm was asked to stop or to exit, did not do so within `--grace`, and was killed. Also:"
        " killed by a second Ctrl-C, or because the worker started another task.",
        "Check `api.stopping` in long loops, define `stop(options)`, or raise `--grace` (HKube's worker waits"
        " 10 s).",
        STOPPED,
        None,
        status_text="130 after Ctrl-C, 143 after SIGTERM, 0 after a stop by the worker",
    ),
    "CHANNEL_BROKEN": ErrorCode(
        "The algorithm closed the pipes between it and hkrunner, or wrote data of its own to them. A program"
        " of `--command` closed its connection, broke the WebSocket protocol, or sent a message that is too"
        " large.",
        "Close only descriptors that your code opened (`os.closerange` is the usual cause).",
        CRASHED,
        1,
    ),
    "CLIENT_LOST": ErrorCode(
        "Only with `hkrunner worker`: the wrapper that had the task disconnected without an answer.",
        "Look at the wrapper's own output.",
        CRASHED,
        1,
        "the next wrapper that connects gets the next task",
    ),
    "JOB_FAILED": ErrorCode(
        "Only with `--on`: HKube ended the job before this task had a result. The message has HKube's"
        " reason.",
        "Look at the job in HKube's dashboard. When all tasks of a node have failed, HKube ends the whole"
        " job; inputs with different numbers of arguments are in different nodes.",
        CRASHED,
        1,
        "the job is over",
    ),
    "SANDBOX_UNAVAILABLE": ErrorCode(
        "This machine cannot provide the `--sandbox strict` that was requested, so the code was not started."
        " The message names the step that was refused, what is needed, and a weaker level that would start.",
        "Change the machine as the message says, or accept a weaker level: `--sandbox-level ns` (the"
        " algorithm sees the list of processes) or `landlock` (it also sees names of files, and reaches Unix"
        " sockets). `hkrunner doctor` shows what each level meets.",
        LOAD_ERROR,
        2,
        "the next task tries it again",
    ),
    "STREAM_UNAVAILABLE": ErrorCode(
        "The task is part of a stream pipeline, and its sockets cannot be opened. The message says why: pyzmq"
        " is not installed in hkrunner's environment, or the port for the next nodes is in use.",
        "Install `hkrunner[stream]`, or set STREAMING_DISCOVERY_PORT to a free port.",
        CRASHED,
        1,
        _SAME_PROCESS,
    ),
    "STREAM_LOST": ErrorCode(
        "hkrunner's process that holds the sockets of a stream ended while a task used them, usually because"
        " it was killed. The messages that were queued in it are lost.",
        "See the kernel's log for a killed process. A queue of STREAMING_MAX_BUFFER_MB needs that much memory"
        " in addition to the algorithm's own.",
        CRASHED,
        1,
    ),
    "RUNNER_ERROR": ErrorCode(
        "hkrunner itself failed: the process could not be started, the warden (the process that watches the"
        " algorithm) was killed, or a message of the worker could not be read. The error message says which.",
        "Check `--python` and run `hkrunner doctor`. If neither explains the error, it is a bug in hkrunner.",
        CRASHED,
        1,
    ),
}


def limit_of(code: str) -> Limit | None:
    """Return the limit that a task with this code has exceeded, None if it was none."""
    return next((limit for limit in declared_limits().values() if limit.code == code), None)


# ---- exit statuses

#: Each exit status of `hkrunner run`; above 128 also 128 + N, when the algorithm was ended by signal N.
EXIT_STATUSES: dict[int, str] = {
    0: "every task has a result, or was stopped before it had one",
    1: "the algorithm raised an exception, or ended before it answered",
    2: "bad usage: an option or a value that hkrunner does not accept, or a sandbox that the machine lacks",
    3: "the code was not found",
    4: "the code could not be loaded",
    5: "no worker answered in time",
    6: "the requested board failed",
    7: "--install: the environment could not be made",
    8: "the cluster could not be reached, refused the request, or lost the job",
    124: "a time limit was exceeded",
    129: "shut down after SIGHUP: the terminal was closed",
    130: "shut down after Ctrl-C",
    137: "a memory limit was exceeded, or another process sent SIGKILL",
    141: "the program that read the results has closed its pipe",
    143: "shut down after SIGTERM",
}
SIGNAL_STATUS = "the algorithm was ended by signal N: 139 is a segmentation fault, 134 an abort"


def meaning_of_status(status: int) -> str | None:
    """Return the meaning of this exit status of hkrunner, None if hkrunner never ends with it."""
    known = EXIT_STATUSES.get(status)
    if known is None and status > 128:
        with contextlib.suppress(ValueError):
            return f"the algorithm was ended by {signal.Signals(status - 128).name}"
    return known


#: Codes of a memory limit that was reached: the reason also where the code was still being imported.
MEMORY_CODES = frozenset(code for code, one in CODES.items() if one.reason == MEMORY_LIMIT)


def exit_status_of(code: str) -> int:
    """Return hkrunner's exit status for a failure with this code alone."""
    status = CODES[code].exit_status if code in CODES else None
    return 1 if status is None else status


def exit_status_help() -> str:
    """Return the list of exit statuses for --help."""
    rows = {**{str(status): text for status, text in EXIT_STATUSES.items()}, "128+N": SIGNAL_STATUS}
    return "\n".join(["Exit status:", *(f"  {status:<5}  {text}" for status, text in rows.items())])


# ---- search


def codes_about(word: str) -> list[str]:
    """Return the codes that contain the word, or that it abbreviates: `oom`, `memory`, `137`."""
    if word.isdecimal() and len(word) <= 3:
        found = [name for name, one in CODES.items() if word in re.findall(r"\d+", one.shown_status)]
        if int(word) > 128 and not found:
            found = ["KILLED_BY_SIGNAL"]
        return found
    wanted = word.strip(":").upper().replace("-", "_")
    return [
        name for name in CODES if wanted in name or wanted == "".join(part[0] for part in name.split("_"))
    ]
