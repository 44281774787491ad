"""The options of `hkrunner run` that make it a local run: inputs, output, other algorithms."""

from __future__ import annotations

from .option import Option, flag

LOCAL_RUN_OPTIONS = (
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
        in_cluster=True,
    ),
    Option(
        "tasks",
        ("--tasks",),
        "Run locally with one input per line of a JSON Lines file; - for stdin.",
        metavar="FILE.jsonl",
        in_worker=True,
        worker_help="Hand out one input per line of a JSON Lines file; - for lines of stdin as they come.",
        in_cluster=True,
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
        in_cluster=True,
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
        in_cluster=True,
    ),
    Option(
        "output_file",
        ("-o", "--output-file"),
        "Write the results to FILE when the run ends, atomically.",
        metavar="FILE",
        in_cluster=True,
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
        "Another algorithm that the code may start by this name through the code API (`api`), or an algorithm"
        " of --pipeline FILE; repeatable. Its own algorithm.yml sets its limits and variables. With --on, the"
        " NAME alone: the algorithm to run.",
        kind="many",
        metavar="NAME=FILE",
        python="str | Sequence[str] | None",
        python_help="With `on`: the name of the algorithm to run, if not that of the algorithm.yml. Else"
        " NAME=FILE, another algorithm that the code may start through the code API.",
        in_worker=True,
        worker_help="An algorithm that tasks may start by this name through the code API (`api`); repeatable."
        " Its own algorithm.yml sets its limits and variables.",
        is_recorded=True,
        in_cluster=True,
    ),
    Option(
        "pipeline",
        ("--pipeline",),
        "FILE alone: run this stream pipeline, in JSON or YAML; --input gives its flowInput. NAME=FILE: a"
        " stored pipeline that the code may start by this name through the code API; repeatable.",
        kind="many",
        metavar="[NAME=]FILE",
        in_worker=True,
        worker_help="A stored pipeline, in JSON or YAML, that tasks may start by this name, as NAME=FILE;"
        " repeatable.",
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
