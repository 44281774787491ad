"""Every code that stands in front of an error, what it means and what to do: one table, for people.

`hkrunner explain CODE` prints it, the documentation's list of codes is made of it. A test holds it against
the sources: a code that they can say is here, and none besides; reason and exit status are the real ones.
"""

from __future__ import annotations

import contextlib
import re
import signal
from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """What a code says.

    `reason` is that of --json. `exit_status` is hkrunner's when the task was the only one, as text.
    `then` is what becomes of the algorithm's process.
    """

    meaning: str
    remedy: str
    reason: str
    exit_status: str
    then: str


_GOES_ON = "the same process takes the next task"
_NEW = "a new process takes the next task"

CODES: dict[str, Code] = {
    "ALGORITHM_ERROR": Code(
        "The code raised an exception. The message has its type and text, the last line of your own code, "
        "and your frames; `details` has the whole traceback.",
        "Read the line that it names; repeat the task with `hkrunner runs again TASK`.",
        "AlgorithmError",
        "1",
        _GOES_ON,
    ),
    "RESULT_INVALID": Code(
        "start() returned something that cannot be sent. The message names the place in the result and the "
        "type.",
        "Return what the encoding can say: for json numbers, texts, lists, dicts, None; bytes with "
        "`--encoding bson` or `msgpack`. A numpy value becomes one with `.item()` or `.tolist()`.",
        "AlgorithmError",
        "1",
        _GOES_ON,
    ),
    "RESULT_TOO_LARGE": Code(
        "The result is larger than a message may be.",
        "Write it to a file or a store, and return where it is.",
        "AlgorithmError",
        "1",
        _GOES_ON,
    ),
    "MEMORY_ERROR": Code(
        "An allocation failed inside the code, as Python's own MemoryError: with a memory limit, it would "
        "not have fitted.",
        "Try the size that the message names (`--mem 512Mi`), or `--no-limits` to see what is needed. Where"
        " large arrays are reserved and hardly touched: `--mem-mode rss`.",
        "MemoryLimit",
        "137",
        _GOES_ON,
    ),
    "TOO_MANY_FILES": Code(
        "The process has as many files open as it may.",
        "Close what is done with (`with open(…)`), or raise `--files`.",
        "AlgorithmError",
        "1",
        _GOES_ON,
    ),
    "DENIED": Code(
        "The kernel refused a signal to a process that is not the algorithm's own.",
        "An algorithm may signal the processes that it started, nobody else. Leave others alone.",
        "AlgorithmError",
        "1",
        _GOES_ON,
    ),
    "ENTRY_NOT_FOUND": Code(
        "There is no code where the options or the descriptor say.",
        "Check `--entry` and `--path`; `hkrunner validate` tells what is looked for where.",
        "LoadError",
        "3",
        "it is looked for again for the next task",
    ),
    "ENTRY_INVALID": Code(
        "The code was loaded, but has no function that can be called: no start(args, api), no function, or "
        "one with other arguments.",
        "The message lists what there is. Add `start(args, api)` or name another function: `--entry "
        "file.py:function`.",
        "LoadError",
        "4",
        "it is tried again, in a new process, for the next task",
    ),
    "IMPORT_FAILED": Code(
        "The code raised while it was imported: a syntax error, a missing package, an exception at the top "
        "level.",
        "Mend the line that it names. A missing package belongs into the Python that runs the code: install"
        " it there, or name another Python with `--python`.",
        "LoadError",
        "4",
        "it is tried again, in a new process, for the next task",
    ),
    "START_TIMEOUT": Code(
        "Loading the code took longer than `--start-timeout`. The message shows where its threads stood.",
        "Raise `--start-timeout`, or do less at import.",
        "LoadError",
        "4",
        "it is tried again, in a new process, for the next task",
    ),
    "EXITED": Code(
        "The algorithm ended its process (`sys.exit`, `os._exit`, quit in C code) before it answered.",
        "Return a result, or raise an exception that says what is wrong.",
        "Crashed",
        "1",
        _NEW,
    ),
    "KILLED_BY_SIGNAL": Code(
        "The process was ended by a signal that hkrunner did not send: mostly a crash in C code. The "
        "message has the Python stack and the last lines of output.",
        "SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT: a package's C code; the stack says which call. SIGKILL "
        "or SIGTERM: somebody else on this machine.",
        "Crashed",
        "128 + N",
        _NEW,
    ),
    "OUT_OF_MEMORY": Code(
        "The algorithm with all its processes was above its memory limit and was ended. The message says "
        "how much it used, after how long, and which processes were largest.",
        "Try the size that the message names, or `--no-limits` to see what is needed. In the cluster the "
        "same limit ends the pod as OOMKilled.",
        "MemoryLimit",
        "137",
        _NEW,
    ),
    "SHARED_MEMORY_LIMIT": Code(
        "As OUT_OF_MEMORY, and most of it lies in /dev/shm, in memory files or in System V segments. The "
        "message names the largest.",
        "Unlink shared memory when it is done with; fewer or smaller batches between the workers of a data "
        "loader.",
        "MemoryLimit",
        "137",
        _NEW,
    ),
    "HOST_OOM": Code(
        "The kernel ended the algorithm, probably because the machine had no memory left: it killed a "
        "process for that just before. The algorithm was within its own limit.",
        "Run fewer things at once, or on a larger machine.",
        "MemoryLimit",
        "137",
        _NEW,
    ),
    "TOO_MANY_PROCESSES": Code(
        "There were more processes at a time than `--pids` allows.",
        "Start fewer at a time (`Pool(4)`), or raise `--pids`.",
        "Crashed",
        "1",
        _NEW,
    ),
    "CPU_TIME_LIMIT": Code(
        "One process of the algorithm's, with all that it started, has used its CPU time (`--cpu-time`).",
        "Compute less, or raise the limit.",
        "CpuLimit",
        "124",
        _NEW,
    ),
    "DISK_LIMIT": Code(
        "The working folder and the records have grown by more than `--disk`.",
        "Write less, remove what is not needed any more, or raise `--disk`.",
        "Crashed",
        "1",
        _NEW,
    ),
    "TASK_TIMEOUT": Code(
        "The task took longer than `--timeout`. The message shows where each thread stood.",
        "Raise `--timeout`, or look at what it was doing. Time that a CPU limit slowed it down counts too.",
        "Timeout",
        "124",
        _NEW,
    ),
    "STOP_FORCED": Code(
        "The algorithm was asked to stop or to end, did not within `--grace`, and was killed. Also: ended "
        "by a second Ctrl-C, or because the worker began another task.",
        "Look at `api.stopping` in long loops, or define `stop(options)`; or raise `--grace` (HKube's "
        "worker waits 10 s).",
        "Stopped",
        "130 after Ctrl-C, 143 after SIGTERM, 0 after a stop of the worker's",
        _NEW,
    ),
    "CHANNEL_BROKEN": Code(
        "The algorithm closed the pipes between it and hkrunner, or wrote something of its own to them.",
        "Do not close descriptors that you have not opened (`os.closerange` is the usual one).",
        "Crashed",
        "1",
        _NEW,
    ),
    "CLIENT_LOST": Code(
        "Only of `hkrunner worker`: the wrapper that had the task has gone away without an answer.",
        "Look at the wrapper's own output.",
        "Crashed",
        "1",
        "the next wrapper that connects gets the next task",
    ),
    "RUNNER_ERROR": Code(
        "hkrunner itself could not do its part: the process could not be started, its guard was killed, or "
        "the worker's message could not be read. The message says which.",
        "Check `--python` and `hkrunner doctor`. If nothing there explains it, it is a bug of hkrunner's.",
        "Crashed",
        "1",
        _NEW,
    ),
}


#: Exit statuses that no code leads to, or not alone.
STATUSES: dict[int, str] = {
    0: "every task has a result, or was stopped before it had one",
    1: "the algorithm raised, or ended before it answered",
    2: "bad usage: an option or a value that hkrunner does not take",
    3: "there is no such code",
    4: "the code cannot be loaded",
    5: "no worker answered in time",
    6: "the board that was asked for has failed",
    124: "a time limit",
    130: "ended by Ctrl-C, in order",
    137: "a memory limit, or SIGKILL by somebody else",
    141: "the reader of the results has gone",
    143: "ended by SIGTERM, in order",
}


def meaning_of_status(status: int) -> str | None:
    """Return what this exit status of hkrunner means; None when it never ends with it."""
    known = STATUSES.get(status)
    if known is None and status > 128:
        with contextlib.suppress(ValueError):
            return f"the algorithm was ended by {signal.Signals(status - 128).name}"
    return known


def codes_about(word: str) -> list[str]:
    """Return the codes that the word is in, or that it is short for: `oom`, `memory`, `137`."""
    if word.isdigit():
        found = [name for name, one in CODES.items() if word in re.findall(r"\d+", one.exit_status)]
        if int(word) > 128 and not found:
            found = ["KILLED_BY_SIGNAL"]
        return found
    wanted = word.strip(":").upper().replace("-", "_")
    return [
        name for name in CODES if wanted in name or wanted == "".join(part[0] for part in name.split("_"))
    ]
