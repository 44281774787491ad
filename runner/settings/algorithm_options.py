"""The options of `hkrunner run` that say what the algorithm is and how its process is started."""

from __future__ import annotations

from .option import Option, flag

_PATH = "str | os.PathLike[str] | None"

ALGORITHM_OPTIONS = (
    Option(
        "entry",
        ("-e", "--entry"),
        "The algorithm's code: a file, file.py:function, a folder, or a dotted module.",
        ("HKRUNNER_ENTRY", "ALGORITHM_ENTRY_POINT"),
        default_text="the descriptor's entry point, else main.py",
        metavar="FILE",
        in_validate=True,
        in_cluster=True,
    ),
    Option(
        "command",
        ("--command",),
        "A program in any language that speaks HKube's protocol, as the algorithm instead of Python code:"
        " 'node app.js'.",
        ("HKRUNNER_COMMAND",),
        default_text="what the descriptor's env says, else Python code",
        metavar="COMMAND",
        python="str | Sequence[str] | None",
        python_help="A program in any language that speaks HKube's protocol, as the algorithm: 'node app.js',"
        " or a list of words. The entry is None then.",
        in_validate=True,
        is_recorded=True,
        needs_process=True,
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
        in_cluster=True,
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
        in_cluster=True,
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
    flag(
        "install",
        ("--install",),
        "Run the code in a virtual environment of its own, with what its inline metadata (PEP 723),"
        " requirements.txt or pyproject.toml lists. It is made once, of --python, and kept for later runs.",
        ("HKRUNNER_INSTALL",),
        python="bool",
        in_validate=True,
        is_recorded=True,
        needs_process=True,
    ),
    Option(
        "env",
        ("-E", "--env"),
        "Environment variable for the algorithm; NAME alone passes on the one of your shell. Repeatable.",
        kind="many",
        metavar="NAME[=VALUE]",
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
