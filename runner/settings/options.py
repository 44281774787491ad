"""Every option with its variable, default and unit, declared once; the command line is made from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

DEFAULT_URL = "ws://localhost:3000"
ENCODINGS = ("json", "bson", "msgpack")


@dataclass(frozen=True)
class Option:
    """One option of `hkrunner run`. `kind`: text, many (repeatable text), seconds, flag, or choice."""

    name: str
    flags: tuple[str, ...]
    help: str
    env: tuple[str, ...] = ()
    default: Any = None
    kind: str = "text"
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    group: str = "Algorithm"


OPTIONS: tuple[Option, ...] = (
    Option(
        "entry",
        ("-e", "--entry"),
        "The code: a file, file.py:function, a folder, or a dotted module.  [default: the descriptor's entry"
        " point, else main.py]",
        ("HKRUNNER_ENTRY", "ALGORITHM_ENTRY_POINT"),
        metavar="FILE",
    ),
    Option(
        "path",
        ("--path",),
        "Folder of the code: first on sys.path, and its working folder.  [default: the folder of the entry]",
        ("ALGORITHM_PATH",),
        metavar="DIR",
    ),
    Option(
        "file",
        ("-f", "--file"),
        "The algorithm's descriptor, as hkubectl reads it: code, entry point, limits, variables.  [default:"
        " algorithm.yml, .yaml or .json beside the code]",
        ("HKRUNNER_FILE",),
        metavar="FILE",
    ),
    Option(
        "python",
        ("--python",),
        "The Python that the code runs in, 3.8 or newer: a path, a virtual environment's folder, or a name on"
        " PATH; nothing of hkrunner need be installed there.  [default: hkrunner's own]",
        ("HKRUNNER_PYTHON",),
        metavar="PYTHON",
    ),
    Option(
        "env",
        ("-E", "--env"),
        "Variable for the algorithm; repeatable.",
        kind="many",
        metavar="NAME=VALUE",
    ),
    Option(
        "env_file",
        ("--env-file",),
        "Variables for the algorithm, NAME=VALUE a line; repeatable. --env goes before it, and it before the"
        " descriptor.",
        kind="many",
        metavar="FILE",
    ),
    Option(
        "grace_s",
        ("--grace",),
        "Seconds between asking the algorithm to stop and killing it; HKube's worker waits 10.",
        ("HKRUNNER_GRACE",),
        default=5.0,
        kind="seconds",
    ),
    Option(
        "cpu",
        ("--cpu",),
        "CPU cores the algorithm may use on average: 0.5, 2, 500m.",
        ("HKRUNNER_CPU",),
        metavar="CORES",
        group="Limits",
    ),
    Option(
        "mem",
        ("--mem",),
        "Memory of the algorithm with all its processes: 512Mi, 2Gi (Ki, M, Mi, Gi, K, G, T, Ti).",
        ("HKRUNNER_MEM",),
        metavar="SIZE",
        group="Limits",
    ),
    Option(
        "mem_mode",
        ("--mem-mode",),
        "brake: an allocation beyond the limit fails as MemoryError in your code; rss: only memory that is"
        " touched counts, for large sparse arrays.",
        ("HKRUNNER_MEM_MODE",),
        default="brake",
        kind="choice",
        choices=("brake", "rss"),
        group="Limits",
    ),
    Option(
        "gpu",
        ("--gpu",),
        "GPUs of NVIDIA's that the algorithm gets to see, free ones: CUDA_VISIBLE_DEVICES.",
        ("HKRUNNER_GPU",),
        metavar="N",
        group="Limits",
    ),
    Option(
        "no_gpu",
        ("--no-gpu",),
        "Show it none, whatever is asked for.",
        kind="flag",
        default=False,
        group="Limits",
    ),
    Option(
        "pids",
        ("--pids",),
        "Processes at a time.",
        ("HKRUNNER_PIDS",),
        metavar="N",
        group="Limits",
    ),
    Option(
        "timeout_s",
        ("--timeout",),
        "Seconds a task may take.",
        ("HKRUNNER_TIMEOUT",),
        kind="seconds",
        group="Limits",
    ),
    Option(
        "start_timeout_s",
        ("--start-timeout",),
        "Seconds that loading the code may take.",
        ("HKRUNNER_START_TIMEOUT",),
        kind="seconds",
        group="Limits",
    ),
    Option(
        "cpu_time_s",
        ("--cpu-time",),
        "Seconds of CPU time that one process of the algorithm's, with all it starts, may use in its life.",
        ("HKRUNNER_CPU_TIME",),
        kind="seconds",
        group="Limits",
    ),
    Option(
        "files",
        ("--files",),
        "Open files, for each process.",
        ("HKRUNNER_FILES",),
        metavar="N",
        group="Limits",
    ),
    Option(
        "disk",
        ("--disk",),
        "Growth of the working folder and the records: 2Gi.",
        ("HKRUNNER_DISK",),
        metavar="SIZE",
        group="Limits",
    ),
    Option(
        "no_limits",
        ("--no-limits",),
        "Measure only: enforce none of these.",
        kind="flag",
        default=False,
        group="Limits",
    ),
    Option(
        "spare",
        ("--spare",),
        "Keep a second process ready, code loaded, that takes over when the first one is ended.",
        ("HKRUNNER_SPARE",),
        kind="flag",
        default=False,
        group="Algorithm",
    ),
    Option(
        "recycle_after",
        ("--recycle-after",),
        "Begin with a new process after this many tasks.",
        ("HKRUNNER_RECYCLE_AFTER",),
        metavar="N",
        group="Algorithm",
    ),
    Option(
        "end_children",
        ("--end-children",),
        "End processes that a task has left running when it is done.",
        kind="flag",
        default=False,
        group="Algorithm",
    ),
    Option(
        "input",
        ("-i", "--input"),
        "Run locally with this input and end; repeatable, one task each. JSON, @FILE, or - for stdin."
        " What is not a list is wrapped in one.",
        kind="many",
        metavar="JSON|@FILE|-",
        group="Local run",
    ),
    Option(
        "tasks",
        ("--tasks",),
        "Run locally with one input a line, from a file of JSON lines (- for stdin).",
        metavar="FILE.jsonl",
        group="Local run",
    ),
    Option(
        "again",
        ("--again",),
        "Run a task that is kept once more: same code, input and limits, but for what is given here.",
        metavar="TASK",
        group="Local run",
    ),
    Option(
        "json",
        ("-j", "--json"),
        "Print one JSON object a task: status, output, error, times, folders. Short for --output json.",
        kind="flag",
        default=False,
        group="Local run",
    ),
    Option(
        "output",
        ("--output",),
        "What goes to stdout: results (human), an object a task (json), every event as it comes (jsonl).",
        ("HKRUNNER_OUTPUT",),
        default="human",
        kind="choice",
        choices=("human", "json", "jsonl"),
        group="Local run",
    ),
    Option(
        "output_file",
        ("-o", "--output-file"),
        "Write that to a file instead: put there whole when the run ends, as it was until then.",
        metavar="FILE",
        group="Local run",
    ),
    Option(
        "watch",
        ("--watch",),
        "Run the inputs again, in a new process, whenever the code has changed; Ctrl-C ends.",
        kind="flag",
        default=False,
        group="Local run",
    ),
    Option(
        "in_process",
        ("--in-process",),
        "Run the code in this very process, for breakpoint(), input() and an editor's debugger; no limit"
        " holds then.",
        kind="flag",
        default=False,
    ),
    Option(
        "pdb",
        ("--pdb",),
        "Open the debugger where the code raises, then go on; with --in-process.",
        kind="flag",
        default=False,
    ),
    Option(
        "dry_run",
        ("--dry-run",),
        "Tell what would be done, with --json as one object, and start nothing.",
        kind="flag",
        default=False,
        group="Local run",
    ),
    Option(
        "algorithm",
        ("--algorithm",),
        "Another algorithm that the code API may start, by the name it is asked for with; repeatable. Its own"
        " algorithm.yml gives its limits and variables.",
        kind="many",
        metavar="NAME=FILE",
        group="Local run",
    ),
    Option(
        "pipeline",
        ("--pipeline",),
        "A stored pipeline that the code API may start: a file of JSON or YAML; repeatable.",
        kind="many",
        metavar="NAME=FILE",
        group="Local run",
    ),
    Option(
        "datasource",
        ("--datasource",),
        "A data source that the code API may ask for: a folder, its name is the dataSourceId; repeatable.",
        kind="many",
        metavar="NAME=DIR",
        group="Local run",
    ),
    Option(
        "url",
        ("--url",),
        f"The worker.  [default: WORKER_SOCKET_PROTOCOL/HOST/PORT, else {DEFAULT_URL}]",
        ("WORKER_SOCKET_URL",),
        metavar="ws://HOST:PORT",
        group="Serving a worker",
    ),
    Option(
        "encoding",
        ("--encoding",),
        "How messages are encoded on the socket.",
        ("WORKER_ALGORITHM_ENCODING",),
        default="json",
        kind="choice",
        choices=ENCODINGS,
        group="Serving a worker",
    ),
    Option(
        "connect_timeout_s",
        ("--connect-timeout",),
        "Give up after this many seconds without a worker (exit status 5).  [default: never]",
        ("HKRUNNER_CONNECT_TIMEOUT",),
        kind="seconds",
        group="Serving a worker",
    ),
    Option(
        "api_errors",
        ("--api-errors",),
        "What a failed call of the code API does: raise, or return its text as HKube's own wrapper does.",
        ("HKRUNNER_API_ERRORS",),
        default="raise",
        kind="choice",
        choices=("raise", "return"),
        group="Serving a worker",
    ),
    Option(
        "redirect_logs",
        ("--redirect-logs",),
        "Send what the algorithm prints to the worker as well; HKube's debug server shows it.",
        ("REDIRECT_LOGS",),
        kind="flag",
        default=False,
        group="Serving a worker",
    ),
    Option(
        "metrics_dir",
        ("--metrics-dir",),
        "Where metrics go: in a local run to a folder for each task below this one; when serving, as in the"
        " cluster, all to this one, which is emptied into the records before each task.  [default: each"
        " task's own, below the state folder]",
        ("ALGO_METRICS_DIR",),
        metavar="DIR",
        group="Metrics",
    ),
    Option(
        "board",
        ("--board/--no-board",),
        "Show the runs of this algorithm in TensorBoard while they run.",
        ("HKRUNNER_BOARD",),
        kind="flag",
        default=False,
        group="Metrics",
    ),
    Option(
        "open",
        ("--open",),
        "Open the board in the browser.",
        kind="flag",
        default=False,
        group="Metrics",
    ),
    Option(
        "board_port",
        ("--board-port",),
        "Port of the board, on 127.0.0.1.  [default: a free one]",
        ("HKRUNNER_BOARD_PORT",),
        metavar="PORT",
        group="Metrics",
    ),
    Option(
        "api_port",
        ("--api-port",),
        "Answer HKube's board routes on this port of 127.0.0.1 (0: a free one).",
        ("HKRUNNER_API_PORT",),
        metavar="PORT",
        group="Metrics",
    ),
    Option(
        "keep",
        ("--keep",),
        "Keep the records of the latest N tasks, or all.  [default: all in a local run; when serving, 1000 of"
        " those it has served]",
        ("HKRUNNER_KEEP",),
        metavar="N",
        group="Records and messages",
    ),
    Option(
        "keep_values",
        ("--keep-values",),
        "Keep a task's input and result in its record up to this size, or all.  [default: all in a local run,"
        " 256Ki when serving]",
        ("HKRUNNER_KEEP_VALUES",),
        metavar="SIZE",
        group="Records and messages",
    ),
    Option(
        "state_dir",
        ("--state-dir",),
        "Where the record of each task is kept.",
        ("HKRUNNER_STATE_DIR",),
        default="./.hkrunner",
        metavar="DIR",
        group="Records and messages",
    ),
    Option(
        "no_state",
        ("--no-state",),
        "Keep no record of tasks.",
        kind="flag",
        default=False,
        group="Records and messages",
    ),
    Option(
        "full_trace",
        ("--full-trace",),
        "Show the whole traceback of what the algorithm raised, not its own lines only.",
        kind="flag",
        default=False,
        group="Records and messages",
    ),
    Option(
        "color",
        ("--color",),
        "Colors on stderr: on a terminal unless NO_COLOR is set (auto), or by this.",
        default="auto",
        kind="choice",
        choices=("auto", "always", "never"),
        group="Records and messages",
    ),
    Option(
        "quiet",
        ("-q", "--quiet"),
        "Say nothing but errors.  [default: HKUBE_LOG_LEVEL]",
        kind="flag",
        default=False,
        group="Records and messages",
    ),
    Option(
        "verbose",
        ("-v", "--verbose"),
        "Tell every message and change of state.",
        kind="flag",
        default=False,
        group="Records and messages",
    ),
)


#: Those of OPTIONS that `hkrunner worker` has too: they hold for the algorithms it runs for others.
_FOR_WORKER = [
    "input",
    "tasks",
    "json",
    "algorithm",
    "pipeline",
    "datasource",
    "env",
    "env_file",
    "grace_s",
    "cpu",
    "mem",
    "mem_mode",
    "pids",
    "timeout_s",
    "start_timeout_s",
    "cpu_time_s",
    "files",
    "disk",
    "no_limits",
    "api_errors",
    "state_dir",
    "no_state",
    "full_trace",
    "color",
    "quiet",
    "verbose",
]
_WORKER_HELP = {
    "input": "Hand out this input; repeatable, one task each. JSON, @FILE, or - for stdin. What is not a list"
    " is wrapped in one.",
    "tasks": "Hand out one input a line, from a file of JSON lines; with - as they come on stdin.",
}

#: The options of `hkrunner worker`.
WORKER_OPTIONS: tuple[Option, ...] = (
    Option(
        "port",
        ("--port",),
        "Port to listen on; 0 for any free one.",
        ("WORKER_SOCKET_PORT",),
        default="3000",
        metavar="N",
        group="Worker",
    ),
    Option(
        "host",
        ("--host",),
        "Address to listen on. Anybody who reaches it is served.",
        default="127.0.0.1",
        metavar="ADDRESS",
        group="Worker",
    ),
    Option(
        "once",
        ("--once",),
        "Serve one wrapper, and end when it disconnects.",
        kind="flag",
        default=False,
        group="Worker",
    ),
    *(
        replace(
            option,
            help=_WORKER_HELP.get(option.name, option.help),
            group={"Local run": "Worker"}.get(option.group, option.group),
        )
        for option in OPTIONS
        if option.name in _FOR_WORKER
    ),
)
