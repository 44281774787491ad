"""Every option of `hkrunner run`, declared once; the command line, hkrunner.run() and the docs use it."""

from __future__ import annotations

from .algorithm_options import ALGORITHM_OPTIONS
from .cluster_options import CLUSTER_OPTIONS
from .limit_options import LIMIT_OPTIONS
from .local_run_options import LOCAL_RUN_OPTIONS
from .option import Option, flag, in_group
from .sandbox_options import SANDBOX_OPTIONS
from .serving_options import SERVING_OPTIONS

_PATH = "str | os.PathLike[str] | None"

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
        "Show the runs of this algorithm in TensorBoard while they run. With --on, the cluster shows the"
        " job in a board of its own once it has ended.",
        ("HKRUNNER_BOARD",),
        in_cluster=True,
    ),
    flag("open", ("--open",), "Open the board in the browser.", in_cluster=True),
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
        in_cluster=True,
    ),
    flag("no_state", ("--no-state",), "Keep no records.", in_worker=True, in_cluster=True),
    flag(
        "full_trace",
        ("--full-trace",),
        "Show the whole traceback of an exception instead of the lines of your own code.",
        in_worker=True,
        in_cluster=True,
    ),
    Option(
        "color",
        ("--color",),
        "Whether to color stderr. auto: on a terminal, unless NO_COLOR is set.",
        default="auto",
        kind="choice",
        choices=("auto", "always", "never"),
        in_worker=True,
        in_cluster=True,
    ),
    flag(
        "quiet",
        ("-q", "--quiet"),
        "Print only errors.",
        default_text="as HKUBE_LOG_LEVEL says, else off",
        in_worker=True,
        in_cluster=True,
    ),
    flag(
        "verbose",
        ("-v", "--verbose"),
        "Print every message and every change of state.",
        in_worker=True,
        in_cluster=True,
    ),
)
#: In the order in which help texts show them.
OPTIONS: tuple[Option, ...] = (
    *ALGORITHM_OPTIONS,
    *LIMIT_OPTIONS,
    *in_group("Limits", _GPUS),
    *in_group("Sandbox", SANDBOX_OPTIONS),
    *in_group("Local run", LOCAL_RUN_OPTIONS),
    *in_group("Cluster", CLUSTER_OPTIONS),
    *in_group("Serving a worker", SERVING_OPTIONS),
    *in_group("Metrics", _METRICS),
    *in_group("Records and messages", _RECORDS_AND_MESSAGES),
)
BY_NAME = {option.name: option for option in OPTIONS}
