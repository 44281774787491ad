"""However hkrunner was started, it works the same, or says in one sentence why it cannot."""

from __future__ import annotations

import json
import resource
import signal
import sys
import tarfile
from pathlib import Path

import pytest
from support.local import ALGORITHMS
from support.programs import HKRUNNER, Program, run, run_hkrunner, serving
from support.surroundings import one_sentence, run_in
from support.users import bounded_command, give_to_bounded
from support.waiting import wait_until

ADDS = ALGORITHMS / "adds.py"
ENDS = ALGORITHMS / "ends_in_many_ways.py"
INHERIT = Path(__file__).parents[1] / "support" / "inherited_signals.py"
MANY = "INT,TERM,HUP,QUIT,CHLD,USR1,USR2,ALRM,PIPE"


@pytest.mark.parametrize("how", ["block", "ignore"])
@pytest.mark.parametrize("names", ["CHLD", MANY])
def test_signals_blocked_or_ignored_by_the_parent_make_no_difference(
    how: str, names: str, tmp_path: Path
) -> None:
    inputs = [word for what in ("exit", "segfault", "subprocess") for word in ("-i", f'["{what}"]')]
    args = ["-e", ENDS, *inputs, "--no-state"]
    ended = run([sys.executable, INHERIT, how, names, HKRUNNER, *args], cwd=tmp_path)
    assert (ended.status, ended.stdout) == (139, "3\n"), ended.stderr
    assert "EXITED: the algorithm ended its process with code 7" in ended.stderr
    assert "ended by SIGSEGV" in ended.stderr and "t3 done in" in ended.stderr


def test_a_signal_that_was_blocked_stops_in_order(tmp_path: Path) -> None:
    entry = ALGORITHMS / "stops_when_asked.py"
    with Program(
        [sys.executable, INHERIT, "block", MANY, HKRUNNER, "-e", entry, "-i", "[1]"], cwd=tmp_path
    ) as program:
        program.wait_for_line("at work")
        program.send_signal(signal.SIGTERM)
        assert program.wait() == 143


def test_nohup_is_respected(tmp_path: Path) -> None:
    entry = ALGORITHMS / "handles_user_signals.py"
    with Program(
        [sys.executable, INHERIT, "ignore", "HUP", HKRUNNER, "-e", entry, "-i", "1"], cwd=tmp_path
    ) as (program):
        program.wait_for_line("at work")
        program.send_signal(signal.SIGHUP)
        program.send_signal(signal.SIGUSR1)
        program.send_signal(signal.SIGUSR2)
        assert program.wait() == 0, program.report()


def test_user_signals_reach_an_algorithm_that_handles_them(tmp_path: Path) -> None:
    with serving("-e", ALGORITHMS / "handles_user_signals.py", "-i", "1", cwd=tmp_path) as program:
        program.wait_for_line("at work")
        (warden,) = (one for one in program.family() if "warden" in one.cmdline())
        for number in (signal.SIGUSR1, signal.SIGXCPU, signal.SIGALRM):  # to all processes of a job
            warden.send_signal(number)
        program.send_signal(signal.SIGUSR1)
        program.send_signal(signal.SIGUSR2)
        assert program.wait() == 0, program.report()
    assert sorted(eval(program.stdout[0])) == [signal.SIGUSR1, signal.SIGUSR2]


@pytest.mark.parametrize("args", [(), ("--in-process",)], ids=["run", "in-process"])
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGXCPU, signal.SIGQUIT])
def test_a_signal_that_the_algorithm_does_not_handle_stops_in_order(
    number: signal.Signals, args: tuple[str, ...], tmp_path: Path
) -> None:
    entry = ALGORITHMS / "stops_when_asked.py"
    with serving("-e", entry, "-i", "[1]", "--no-state", *args, cwd=tmp_path) as program:
        program.wait_for_line("at work")
        program.send_signal(number)
        assert program.wait() == 128 + number
    said = "\n".join(program.stderr)
    assert 0 <= said.find("stop called") < said.find("work has ended") < said.find("exit called"), said


@pytest.mark.parametrize(
    "command", ["-e /nowhere.py -i 1", "validate /nowhere.py", "doctor", "runs ls", "init new"]
)
def test_a_missing_working_folder_is_reported_in_one_sentence(command: str, tmp_path: Path) -> None:
    prelude = "mkdir gone; cd gone; rmdir ../gone;"
    one_sentence(run_in(tmp_path, prelude, *command.split()), "the working folder does not exist any more")


def test_a_user_without_a_name_or_a_home_makes_no_difference(tmp_path: Path) -> None:
    give_to_bounded(tmp_path)
    command = bounded_command([HKRUNNER, "-e", ADDS, "-i", "1"], tasks=200)
    ended = run(command, cwd=tmp_path, env={"HOME": None, "USER": None, "LOGNAME": None})
    assert (ended.status, ended.stdout) == (0, "1\n"), ended.stderr


def test_a_large_environment_makes_no_difference(tmp_path: Path) -> None:
    env = {f"LARGE_{number}": "x" * 100_000 for number in range(2)}
    ended = run_hkrunner("-e", ADDS, "-i", "1", cwd=tmp_path, env=env)
    assert (ended.status, ended.stdout) == (0, "1\n"), ended.stderr


def test_pythoninspect_makes_no_difference(tmp_path: Path) -> None:
    ended = run_hkrunner("-e", ADDS, "-i", "1", cwd=tmp_path, env={"PYTHONINSPECT": "1"})
    assert (ended.status, ended.stdout) == (0, "1\n"), ended.stderr
    assert "Traceback" not in ended.stderr


def write_archive(folder: Path) -> None:
    with tarfile.open(folder / "code.tgz", "w:gz") as archive:
        archive.add(ALGORITHMS / "sleeps.py", "sleeps.py")
    code = "code: {path: code.tgz, entryPoint: sleeps.py}"
    (folder / "algorithm.yml").write_text(f"name: alg\nenv: python\n{code}\n")


@pytest.mark.parametrize(
    "args",
    [
        ("-e", str(ALGORITHMS / "sleeps.py")),
        ("-e", str(ALGORITHMS / "sleeps.py"), "--in-process"),
        ("-e", str(ALGORITHMS / "sleeps.py"), "-o", "results.json"),
        ("-f", "algorithm.yml"),
    ],
    ids=["run", "in-process", "output file", "archive"],
)
def test_sigkill_leaves_no_temporary_folder_and_no_part_of_a_file(
    args: tuple[str, ...], tmp_path: Path
) -> None:
    temporary, work = tmp_path / "temporary", tmp_path / "work"
    temporary.mkdir()
    work.mkdir()
    write_archive(work)
    before = sorted(work.iterdir())
    env = {"TMPDIR": str(temporary)}
    with serving(*args, "-i", "[60]", "--no-state", cwd=work, env=env) as program:
        program.wait_for_line("asleep")
        assert list(temporary.iterdir())
        program.send_signal(signal.SIGKILL)
        assert program.wait() == -signal.SIGKILL
    wait_until(lambda: not list(temporary.iterdir()), what="the folders are removed")
    assert [one for one in sorted(work.iterdir()) if one.name != "__pycache__"] == before


#: Is killed when the folder for metrics is there, and the warden does not know of it yet.
KILLED_AT_THE_START = """
import os, signal, sys
from hkrunner.runner.prepare import prepare
prepare._gpus = lambda settings, environ: os.kill(os.getpid(), signal.SIGKILL)
from hkrunner.runner.entry_point import main
main()
"""


def test_a_folder_left_by_a_sigkill_at_the_very_start_is_removed_by_the_next_run(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    args, env = ("-e", ADDS, "-i", "1", "--no-state"), {"TMPDIR": str(temporary)}
    ended = run([sys.executable, "-c", KILLED_AT_THE_START, *args], cwd=tmp_path, env=env)
    (left,) = temporary.iterdir()
    assert ended.status == -signal.SIGKILL and left.name.startswith("hkrunner-metrics-")
    (temporary / "hkrunner-metrics-kept-by-hand").mkdir()
    ended = run_hkrunner(*args, cwd=tmp_path, env=env)
    assert (ended.status, ended.stdout) == (0, "1\n"), ended.stderr
    assert [one.name for one in temporary.iterdir()] == ["hkrunner-metrics-kept-by-hand"]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_make_no_difference(closed: str, tmp_path: Path) -> None:
    ended = run(["sh", "-c", f'exec "$0" "$@" {closed}', HKRUNNER, "-e", ADDS, "-i", "1"], cwd=tmp_path)
    assert ended.status in (0, 141)
    assert (tmp_path / ".hkrunner" / "tasks" / "t1" / "output.json").read_text() == "1"
    if ">&-" not in closed.split():
        assert (ended.status, ended.stdout) == (0, "1\n")


@pytest.mark.parametrize(
    "command",
    [
        "doctor",
        "explain",
        "runs ls",
        "runs logs t1",
        "report t1 -o -",
        "-e a.py -i 1 --dry-run",
        "validate a.py",
    ],
)
def test_commands_whose_output_is_closed_do_what_they_do(command: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def start(args):\n    print('printed')\n")
    assert run_hkrunner("-e", "a.py", "-i", "1", cwd=tmp_path).status == 0
    for closed in (">&-", ">&- 2>&-"):
        ended = run(["sh", "-c", f'exec "$0" "$@" {closed}', HKRUNNER, *command.split()], cwd=tmp_path)
        assert (ended.status, ended.stdout) == (0, "") and "Traceback" not in ended.stderr, ended


def test_a_variable_that_is_too_large_for_the_kernel_is_told_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "large.env").write_text(f"LARGE={'x' * 200_000}\n")
    ended = run_hkrunner("-e", ADDS, "-i", "1", "--env-file", "large.env", cwd=tmp_path)
    one_sentence(ended, "a variable (--env, --env-file, algorithmEnv) may have 128 KiB at most")
    assert ended.status == 4


#: The interpreter, without the script of the command, which imports re before any line of hkrunner's.
AS_MODULE = "import sys; sys.path[:] = filter(None, sys.path); from hkrunner.__main__ import main; main()"


@pytest.mark.parametrize(
    ("args", "module"),
    # In one process with hkrunner, a module of the standard library is there already.
    [((), "random"), (("--in-process",), "its_own")],
    ids=["run", "in-process"],
)
def test_modules_in_pythonpath_are_visible_to_the_algorithm_only(
    args: tuple[str, ...], module: str, tmp_path: Path
) -> None:
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    (hostile / f"{module}.py").write_text("WHOSE = 'the algorithm'\n")
    for name in ("socket", "selectors", "tempfile"):
        (hostile / f"{name}.py").write_text("raise SystemExit('a module of the algorithm was imported')\n")
    entry = tmp_path / "alg.py"
    entry.write_text(f"import {module}\ndef start(args):\n    return {module}.WHOSE\n")
    command = [sys.executable, "-c", AS_MODULE, "-e", entry, "-i", "1", "--no-state", *args]
    ended = run(command, cwd=tmp_path, env={"PYTHONPATH": str(hostile)})
    assert (ended.status, ended.stdout) == (0, '"the algorithm"\n'), ended.stderr


#: Takes a large value, logs in a process that it forks, and returns who has written the record.
FORKS = """
import logging, os, threading
logging.basicConfig(format="%(message)s")
def start(args):
    pid = os.fork()
    if pid == 0:
        try:
            logging.warning("%d characters", len(args["input"][0]))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    return "hkrunner-records" in [one.name for one in threading.enumerate()]
"""
#: Modules that hkrunner uses in the algorithm's process and `logging` does not.
OURS = [
    *("array", "binascii", "contextvars", "copy", "fcntl", "heapq", "math", "mmap", "multiprocessing"),
    *("pickle", "queue", "resource", "select", "selectors", "signal", "socket", "struct", "subprocess"),
    *("tempfile", "termios"),
]


@pytest.mark.parametrize("place", ["beside the entry", "in PYTHONPATH"])
def test_hkrunner_imports_no_file_of_the_users_into_its_process(place: str, tmp_path: Path) -> None:
    folder = tmp_path / place
    folder.mkdir()
    entry = (folder if place == "beside the entry" else tmp_path) / "alg.py"
    entry.write_text(FORKS)
    for name in OURS:
        (folder / f"{name}.py").write_text(f"import os\nos.write(2, b'{name} of the user was imported\\n')\n")
    (tmp_path / "input.json").write_text(json.dumps(["x" * 3_000_000]))
    env = {} if place == "beside the entry" else {"PYTHONPATH": str(folder)}
    args = ["-e", str(entry), "-i", f"@{tmp_path / 'input.json'}", "--no-state", "-q"]
    ended = run([sys.executable, "-c", AS_MODULE, *args], cwd=tmp_path, env=env)
    assert (ended.status, ended.stdout, ended.stderr) == (0, "true\n", "3000000 characters\n")


#: What a recent pip writes as the script of the command; that of an older one imports re first.
SCRIPT = (
    "import sys; sys.path[:] = filter(None, sys.path); from hkrunner.runner.entry_point import main; main()"
)


def test_a_module_in_python_path_replaces_none_that_the_command_begins_with(tmp_path: Path) -> None:
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    for name in ("re", "enum", "signal", "typing", "functools", "collections", "types"):
        (hostile / f"{name}.py").write_text(f"raise SystemExit('{name} of the algorithm was imported')\n")
    entry = tmp_path / "alg.py"
    entry.write_text("def start(args):\n    return 'served'\n")
    command = [sys.executable, "-c", SCRIPT, "-e", entry, "-i", "1", "--no-state"]
    ended = run(command, cwd=tmp_path, env={"PYTHONPATH": str(hostile)})
    assert (ended.status, ended.stdout) == (0, '"served"\n'), ended.stderr


def test_a_module_that_was_imported_before_the_first_line_of_the_command_is_imported_again(
    tmp_path: Path,
) -> None:
    """As by the script that an older pip writes."""
    (tmp_path / "re.py").write_text("def sub(*args):\n    return args[-1]\n")
    entry = tmp_path / "alg.py"
    entry.write_text("def start(args):\n    import re\n    return re.sub('a', 'b', 'a')\n")
    command = [sys.executable, "-c", f"import re; {SCRIPT}", "-e", entry, "-i", "1", "--no-state"]
    ended = run(command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert (ended.status, ended.stdout) == (0, '"a"\n'), ended.stderr


#: Variables of Python that one run can be given together.
VARIABLES = [
    {
        "PYTHONSTARTUP": "/nowhere.py",
        "PYTHONOPTIMIZE": "2",
        "PYTHONMALLOC": "debug",
        "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "ascii",
        "PYTHONPYCACHEPREFIX": "/nowhere",
    },
    {"PYTHONWARNINGS": "error"},
    {"PYTHONDEVMODE": "1"},
]


@pytest.mark.parametrize("variables", VARIABLES, ids=["many", "warnings", "development mode"])
def test_a_python_variable_affects_the_algorithm_only(variables: dict[str, str], tmp_path: Path) -> None:
    entry = tmp_path / "alg.py"
    entry.write_text("import os\ndef start(args):\n    return [os.environ[one] for one in args['input']]\n")
    ended = run_hkrunner(
        "-e", entry, "-i", json.dumps([*variables]), "--no-state", cwd=tmp_path, env=variables
    )
    assert (ended.status, json.loads(ended.stdout)) == (0, [*variables.values()]), ended.stderr
    one_sentence(ended, "t1 done in")


def test_a_crash_leaves_no_core_file_unless_the_algorithm_asks_for_one(tmp_path: Path) -> None:
    (tmp_path / "alg.py").write_text(
        "import ctypes, resource\n"
        "def start(args, api):\n"
        "    if args['input'][0] == 'limit':\n"
        "        resource.setrlimit(resource.RLIMIT_CORE, resource.getrlimit(resource.RLIMIT_CORE))\n"
        "        return list(resource.getrlimit(resource.RLIMIT_CORE))\n"
        "    ctypes.string_at(0)\n"
    )
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    raised = "ulimit -Sc $(ulimit -Hc);"
    crashed = run_in(tmp_path, raised, "-e", "alg.py", "-i", '["crash"]', "--no-state")
    assert crashed.status == 139, crashed.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("core")] == []
    least = 1 if hard == resource.RLIM_INFINITY else min(1, hard)
    for args, soft in (((), least), (("--no-limits",), hard)):
        asked = run_in(tmp_path, raised, "-e", "alg.py", "-i", '["limit"]', "--no-state", *args)
        assert json.loads(asked.stdout) == [soft, hard], asked.stderr


@pytest.mark.parametrize(
    "args", [(), ("--in-process",), ("--sandbox", "strict", "--sandbox-level", "landlock")]
)
def test_the_login_to_a_cluster_does_not_reach_the_algorithm(args: tuple[str, ...], tmp_path: Path) -> None:
    names = ["HKRUNNER_CLUSTER_PASSWORD", "HKRUNNER_CLUSTER_TOKEN", "HKRUNNER_CLUSTER_USERNAME"]
    entry = ALGORITHMS / "limits_says_its_variables.py"
    env = dict.fromkeys(names, "known")
    ended = run_hkrunner("-e", entry, "-i", json.dumps(names), "--no-state", *args, cwd=tmp_path, env=env)
    assert json.loads(ended.stdout) == [None, None, None if "strict" in args else "known"], ended.stderr
