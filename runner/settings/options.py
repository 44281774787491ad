"""Every option of `hkrunner run`, declared once; the command line, hkrunner.run() and the docs use it."""

from __future__ import annotations

from .limit_options import LIMIT_OPTIONS
from .option import Option, flag, in_group
from .worker_url import DEFAULT_URL

ENCODINGS = ("json", "bson", "msgpack")
_PATH = "str | os.PathLike[str] | None"

_ALGORITHM = (
    Option(
        "entry",
        ("-e", "--entry"),
        "The algorithm's code: a file, file.py:function, a folder, or a dotted module.",
        ("HKRUNNER_ENTRY", "ALGORITHM_ENTRY_POINT"),
        default_text="the descriptor's entry point, else main.py",
        metavar="FILE",
        in_validate=True,
    ),
    Option(
        "path",
        ("--path",),
        "Folder of the code: the first one on sys.path, and the working folder.",
        ("ALGORITHM_PATH",),
        default_text="the folder of the entry",
        metavar="DIR",
        python=_PATH,
        in_validate=True,
    ),
    Option(
        "file",
        ("-f", "--file"),
        "The algorithm's descriptor, as hkubectl reads it: code, entry point, limits, variables.",
        ("HKRUNNER_FILE",),
        default_text="algorithm.yml, .yaml or .json next to the code",
        metavar="FILE",
        python=_PATH,
        in_validate=True,
    ),
    Option(
        "python",
        ("--python",),
        "Python interpreter for the code, 3.8 or newer: a path, the folder of a virtual environment, or a"
        " name on PATH. hkrunner need not be installed in it.",
        ("HKRUNNER_PYTHON",),
        default_text="the one that runs hkrunner",
        metavar="PYTHON",
        python=_PATH,
        in_validate=True,
        is_recorded=True,
        needs_process=True,
    ),
    Option(
        "env",
        ("-E", "--env"),
        "Environment variable for the algorithm; repeatable.",
        kind="many",
        metavar="NAME=VALUE",
        python="Mapping[str, str] | None",
        python_help="Environment variables for the algorithm.",
        in_validate=True,
        in_worker=True,
        is_recorded=True,
    ),
    Option(
        "env_file",
        ("--env-file",),
        "File with environment variables for the algorithm, one NAME=VALUE per line; repeatable. --env"
        " overrides it, and it overrides the descriptor.",
        kind="many",
        metavar="FILE",
        in_validate=True,
        in_worker=True,
        is_recorded=True,
    ),
    Option(
        "grace_s",
        ("--grace",),
        "Seconds between asking the algorithm to stop and killing it. HKube's worker waits 10 s.",
        ("HKRUNNER_GRACE",),
        default=5.0,
        kind="seconds",
        python="float | None",
        in_worker=True,
        is_recorded=True,
    ),
    flag(
        "spare",
        ("--spare",),
        "Keep a second process with the code loaded, which takes over when the first one ends.",
        ("HKRUNNER_SPARE",),
        is_recorded=True,
        needs_process=True,
    ),
    Option(
        "recycle_after",
        ("--recycle-after",),
        "Start a new process for the code after this many tasks.",
        ("HKRUNNER_RECYCLE_AFTER",),
        metavar="N",
        is_recorded=True,
        needs_process=True,
    ),
    flag(
        "end_children",
        ("--end-children",),
        "Kill the processes that a task left running when it ends.",
        is_recorded=True,
        needs_process=True,
    ),
    flag(
        "in_process",
        ("--in-process",),
        "Run the code in the process of this command, so that breakpoint(), input() and an editor's debugger"
        " work. No limit is enforced.",
    ),
    flag(
        "pdb",
        ("--pdb",),
        "Open the debugger where the code raises. Implies --in-process.",
    ),
)
_GPUS = (
    Option(
        "gpu",
        ("--gpu",),
        "Number of free NVIDIA GPUs to expose, by CUDA_VISIBLE_DEVICES.",
        ("HKRUNNER_GPU",),
        metavar="N",
        python="int | None",
        in_validate=True,
        is_recorded=True,
    ),
    flag(
        "no_gpu",
        ("--no-gpu",),
        "Expose no GPU, whatever --gpu or the descriptor says.",
        in_validate=True,
        is_recorded=True,
    ),
)
_LOCAL_RUN = (
    Option(
        "input",
        ("-i", "--input"),
        "Run the algorithm locally with this input, then end; repeatable, one task per input. JSON, @FILE, or"
        " - for stdin. A value that is not a list becomes a list of one.",
        kind="many",
        metavar="JSON|@FILE|-",
        in_worker=True,
        worker_help="Hand out this input; repeatable, one task per input. JSON, @FILE, or - for stdin. A"
        " value that is not a list becomes a list of one.",
    ),
    Option(
        "tasks",
        ("--tasks",),
        "Run locally with one input per line of a JSON Lines file; - for stdin.",
        metavar="FILE.jsonl",
        in_worker=True,
        worker_help="Hand out one input per line of a JSON Lines file; - for lines of stdin as they come.",
    ),
    Option(
        "again",
        ("--again",),
        "Repeat a recorded task with the same code, input and limits; options given now override the recorded"
        " ones.",
        metavar="TASK",
    ),
    Option(
        "parallel",
        ("--parallel",),
        "Run the tasks in up to N processes at once, each under its own limits. Results come in the order of"
        " the inputs.",
        default_text="one process",
        metavar="N",
        python="int | None",
        needs_process=True,
    ),
    flag(
        "unordered",
        ("--unordered",),
        "With --parallel, print the results as the tasks end.",
    ),
    flag(
        "json",
        ("-j", "--json"),
        "Print one JSON object per task: status, output, error, times, folders. Same as --output json.",
        in_validate=True,
        in_worker=True,
        worker_help="Print one JSON object per task: status, output, error, times, folders.",
    ),
    Option(
        "output",
        ("--output",),
        "What to print to stdout. human: the results; json: one object per task; jsonl: every event as it"
        " happens.",
        ("HKRUNNER_OUTPUT",),
        default="human",
        kind="choice",
        choices=("human", "json", "jsonl"),
    ),
    Option(
        "output_file",
        ("-o", "--output-file"),
        "Write the results to FILE when the run ends, atomically.",
        metavar="FILE",
    ),
    flag(
        "watch",
        ("--watch",),
        "Run the inputs again, in a new process, whenever the code changes; end with Ctrl-C.",
        needs_process=True,
    ),
    flag(
        "dry_run",
        ("--dry-run",),
        "Show what the run would do, and start nothing. With --json, as one object.",
    ),
    Option(
        "algorithm",
        ("--algorithm",),
        "Another algorithm that the code may start by this name through the code API (`api`); repeatable. Its"
        " own algorithm.yml sets its limits and variables.",
        kind="many",
        metavar="NAME=FILE",
        in_worker=True,
        is_recorded=True,
    ),
    Option(
        "pipeline",
        ("--pipeline",),
        "A stored pipeline, in JSON or YAML, that the code may start by this name through the code API;"
        " repeatable.",
        kind="many",
        metavar="NAME=FILE",
        in_worker=True,
        is_recorded=True,
    ),
    Option(
        "datasource",
        ("--datasource",),
        "A folder that the code API returns as the data source with this dataSourceId; repeatable.",
        kind="many",
        metavar="NAME=DIR",
        in_worker=True,
        is_recorded=True,
    ),
)
_SERVING = (
    Option(
        "url",
        ("--url",),
        "The worker's WebSocket.",
        ("WORKER_SOCKET_URL",),
        default_text=f"WORKER_SOCKET_PROTOCOL/HOST/PORT, else {DEFAULT_URL}",
        metavar="ws://HOST:PORT",
    ),
    Option(
        "encoding",
        ("--encoding",),
        "Encoding of the messages on the WebSocket.",
        ("WORKER_ALGORITHM_ENCODING",),
        default="json",
        kind="choice",
        choices=ENCODINGS,
        in_validate=True,
        is_recorded=True,
    ),
    Option(
        "connect_timeout_s",
        ("--connect-timeout",),
        "Give up, with exit status 5, after this many seconds without a worker.",
        ("HKRUNNER_CONNECT_TIMEOUT",),
        default_text="never",
        kind="seconds",
    ),
    Option(
        "api_errors",
        ("--api-errors",),
        "What a failed call of the code API does: raise an exception, or return the error's text as HKube's"
        " own wrapper does.",
        ("HKRUNNER_API_ERRORS",),
        default="raise",
        kind="choice",
        choices=("raise", "return"),
        in_worker=True,
        is_recorded=True,
    ),
    flag(
        "redirect_logs",
        ("--redirect-logs",),
        "Send what the algorithm prints to the worker too; HKube's debug server shows it.",
        ("REDIRECT_LOGS",),
        needs_process=True,
    ),
)
_METRICS = (
    Option(
        "metrics_dir",
        ("--metrics-dir",),
        "Folder for metrics. A local run makes a subfolder for each task. A run that serves a worker uses the"
        " folder itself, as in the cluster, and moves its content to the records before the next task.",
        ("ALGO_METRICS_DIR",),
        default_text="a folder for each task in the state folder",
        metavar="DIR",
    ),
    flag(
        "board",
        ("--board/--no-board",),
        "Show the runs of this algorithm in TensorBoard while they run.",
        ("HKRUNNER_BOARD",),
    ),
    flag("open", ("--open",), "Open the board in the browser."),
    Option(
        "board_port",
        ("--board-port",),
        "Port of the board on 127.0.0.1.",
        ("HKRUNNER_BOARD_PORT",),
        default_text="a free one",
        metavar="PORT",
    ),
    Option(
        "api_port",
        ("--api-port",),
        "Serve HKube's board routes on this port of 127.0.0.1; 0 for a free one.",
        ("HKRUNNER_API_PORT",),
        metavar="PORT",
    ),
)
_RECORDS_AND_MESSAGES = (
    Option(
        "keep",
        ("--keep",),
        "Number of latest tasks whose records are kept, or all.",
        ("HKRUNNER_KEEP",),
        default_text="all in a local run, 1000 of its own tasks when serving",
        metavar="N",
    ),
    Option(
        "keep_values",
        ("--keep-values",),
        "Size up to which a record contains the task's input and result, or all.",
        ("HKRUNNER_KEEP_VALUES",),
        default_text="all in a local run, 256Ki when serving",
        metavar="SIZE",
    ),
    Option(
        "state_dir",
        ("--state-dir",),
        "Folder for the records of tasks.",
        ("HKRUNNER_STATE_DIR",),
        default="./.hkrunner",
        metavar="DIR",
        python=_PATH,
        in_validate=True,
        in_worker=True,
    ),
    flag("no_state", ("--no-state",), "Keep no records.", in_worker=True),
    flag(
        "full_trace",
        ("--full-trace",),
        "Show the whole traceback of an exception instead of the lines of your own code.",
        in_worker=True,
    ),
    Option(
        "color",
        ("--color",),
        "Whether to color stderr. auto: on a terminal, unless NO_COLOR is set.",
        default="auto",
        kind="choice",
        choices=("auto", "always", "never"),
        in_worker=True,
    ),
    flag(
        "quiet",
        ("-q", "--quiet"),
        "Print only errors.",
        default_text="as HKUBE_LOG_LEVEL says, else off",
        in_worker=True,
    ),
    flag(
        "verbose",
        ("-v", "--verbose"),
        "Print every message and every change of state.",
        in_worker=True,
    ),
)
#: In the order in which help texts show them.
OPTIONS: tuple[Option, ...] = (
    *_ALGORITHM,
    *LIMIT_OPTIONS,
    *in_group("Limits", _GPUS),
    *in_group("Local run", _LOCAL_RUN),
    *in_group("Serving a worker", _SERVING),
    *in_group("Metrics", _METRICS),
    *in_group("Records and messages", _RECORDS_AND_MESSAGES),
)
BY_NAME = {option.name: option for option in OPTIONS}
