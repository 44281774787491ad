"""hkrunner.run(): the command's guarantees, in the caller's own program."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import errno
import inspect
import io
import os
import signal
import sys
import tempfile
import threading
import uuid
from pathlib import Path

import hkrunner
import numpy
import pytest
from hkrunner.runner.python_api.keywords import KEYWORDS, RunOptions
from hkrunner.runner.settings.options import OPTIONS
from support.local import ALGORITHMS
from support.processes import runs
from support.programs import Program, run
from support.waiting import wait_until

STOPS = ALGORITHMS / "stops_when_asked.py"
SUM = ALGORITHMS / "adds.py"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def algorithm(text: str, name: str = "alg.py") -> Path:
    path = Path(name).absolute()
    path.write_text(text)
    return path


# ---- results


def test_each_input_is_a_task_and_its_result_is_typed(tmp_path: Path) -> None:
    entry = algorithm("def start(args):\n    print('at work')\n    return sum(args['input'])\n")
    first, second = hkrunner.run(entry, [[1, 2, 3], [4, 5]], mem="512Mi", timeout=60)
    assert (first.task_id, first.status, first.reason, first.output) == ("t1", "succeed", None, 6)
    assert second.output == 9
    assert first.ok and first.error is None and first.raise_for_status() is first
    assert first.limit_bytes == 512 * 1024**2
    assert first.peak_bytes is not None and 0 < first.peak_bytes < first.limit_bytes
    assert first.cpu_s is not None and first.cpu_s >= 0 and 0 < first.duration_s < 60
    assert first.logs is not None and first.logs.stdout.read_text() == "at work\n"
    assert first.metrics_dir is not None and first.metrics_dir.is_relative_to(tmp_path / ".hkrunner")
    with pytest.raises(AttributeError):
        first.status = "failed"  # type: ignore[misc]


def test_a_program_in_another_language_is_an_algorithm_too(tmp_path: Path) -> None:
    command = [sys.executable, ALGORITHMS / "any_program.py"]
    given, failed = hkrunner.run(None, [["give", "a b"], ["exit", 3]], command=command, timeout=60)
    assert given.output == "a b"
    assert failed.error is not None and failed.error.code == "EXITED"
    for entry, command, said in (
        ("main.py", "node app.js", "give None as the entry"),
        (None, [], "command wants a text"),
        (None, ["node", 7], "command wants a text"),
        (None, 7, "command wants a text"),
        (None, "no-such-program x", "no program no-such-program"),
    ):
        with pytest.raises(hkrunner.HkrunnerError, match=said):
            hkrunner.run(entry, [[1]], command=command)  # type: ignore[arg-type]


def test_a_value_that_is_no_list_is_wrapped_in_one() -> None:
    entry = algorithm("def start(args):\n    return args['input']\n")
    results = hkrunner.run(entry, ({"x": value} for value in (1, 2)))
    assert [result.output for result in results] == [[{"x": 1}], [{"x": 2}]]


def test_no_inputs_are_no_results() -> None:
    assert hkrunner.run(algorithm("def start(args): ...\n"), []) == []


def test_a_failed_task_is_a_result_and_the_next_one_runs() -> None:
    entry = algorithm("def start(args):\n    return 10 / args['input'][0]\n")
    failed, good = hkrunner.run(entry, [0, 5])
    assert (failed.status, failed.reason, failed.output) == ("failed", "AlgorithmError", None)
    assert failed.error is not None and failed.error.code == "ALGORITHM_ERROR"
    assert failed.message.startswith("ALGORITHM_ERROR: ZeroDivisionError: ")
    assert good.output == 2
    with pytest.raises(
        hkrunner.HkrunnerError, match=r"^task t1 failed \(AlgorithmError\): .*alg\.py:2"
    ) as told:
        failed.raise_for_status()
    assert isinstance(told.value, hkrunner.TaskFailed) and told.value.result is failed


def test_limits_hold_as_they_do_for_the_command() -> None:
    entry = algorithm(
        "import time\ndef start(args):\n"
        "    if args['input'][0] == 'sleep':\n        time.sleep(60)\n"
        "    return len(bytearray(1 << 30))\n"
    )
    (slow,) = hkrunner.run(entry, ["sleep"], timeout=0.5, grace=0.2)
    (big,) = hkrunner.run(entry, ["grow"], mem="100Mi")
    assert (slow.status, slow.reason) == ("failed", "Timeout")
    assert (big.status, big.reason) == ("failed", "MemoryLimit")


def test_variables_records_and_interpreter_are_the_callers_choice(tmp_path: Path) -> None:
    entry = algorithm("import os, sys\ndef start(args):\n    return [os.environ['MODEL'], sys.executable]\n")
    kept = tmp_path / "kept here"
    (result,) = hkrunner.run(entry, [1], env={"MODEL": "a=b c"}, state_dir=kept, python=sys.executable)
    assert result.output == ["a=b c", sys.executable]
    assert (kept / "tasks" / result.task_id / "task.json").exists()
    assert not (tmp_path / ".hkrunner").exists()


def test_values_of_variables_are_nowhere_that_others_can_read(tmp_path: Path) -> None:
    entry = algorithm(
        "import os, pathlib\ndef words(pid):\n"
        "    try:\n        return pathlib.Path(f'/proc/{pid}/cmdline').read_bytes()\n"
        "    except OSError:\n        return b''\n"
        "def start(args):\n"
        "    lines = [words(pid) for pid in os.listdir('/proc') if pid.isdecimal()]\n"
        "    secret = os.environ['A'].split()[0].encode()\n"
        "    return [os.environ['A'], sum(secret in line for line in lines)]\n"
    )
    # Another test beside this one may have any word in its command lines.
    value = f"{uuid.uuid4().hex} \"quoted\" \\ back\nslash # and = all 'that'"
    (result,) = hkrunner.run(entry, [1], env={"A": value})
    assert result.output == [value, 0]
    with pytest.raises(hkrunner.SettingsError, match="env: 'A B' is no name of a variable"):
        hkrunner.run(entry, [1], env={"A B": "1"})


def test_a_module_of_the_callers_folder_does_not_stand_in_for_the_standard_librarys() -> None:
    algorithm("raise SystemExit('this is not the random you want')\n", "random.py")
    algorithm("def start(args):\n    return 1\n")
    (result,) = hkrunner.run("alg.py", [1])
    assert result.output == 1


def test_every_keyword_is_an_option_of_the_command_with_its_type() -> None:
    parameters = inspect.signature(hkrunner.run).parameters
    assert set(parameters) - {"entry", "inputs", "on_event"} == set(KEYWORDS)
    flags = {flag for option in OPTIONS for flag in option.flags}
    assert {f"--{name.replace('_', '-')}" for name in KEYWORDS} <= flags
    for name, option in KEYWORDS.items():
        assert parameters[name].annotation == option.python
        assert (option.python_help or option.help).split()[0] in (hkrunner.run.__doc__ or "")


def test_type_checkers_know_the_keywords() -> None:
    declared = {name: hint.__forward_arg__ for name, hint in RunOptions.__annotations__.items()}
    wanted = {name: option.python for name, option in KEYWORDS.items()}
    lines = "\n".join(f"    {name}: {kind}" for name, kind in wanted.items())
    assert declared == wanted, f"RunOptions in runner/python_api/keywords.py is to have:\n{lines}"


def test_an_unknown_keyword_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^run\(\) got an unexpected keyword argument 'color'$"):
        hkrunner.run(SUM, [1], color="red")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"keyword argument 'men', did you mean 'mem'\?$"):
        hkrunner.run(SUM, [1], men="1Gi")  # type: ignore[call-arg]


@pytest.mark.parametrize("inputs", [5, "abc", b"abc", {"a": 1}, None])
def test_inputs_that_are_no_list_are_refused(inputs: object) -> None:
    kind = type(inputs).__name__
    with pytest.raises(hkrunner.SettingsError, match=rf"^inputs wants a list .* got {kind}:"):
        hkrunner.run(SUM, inputs)  # type: ignore[arg-type]


def test_a_function_is_no_entry() -> None:
    with pytest.raises(hkrunner.SettingsError, match=r"hkrunner\.Pool\(function\)"):
        hkrunner.run(sum, [1])  # type: ignore[arg-type]
    with pytest.raises(hkrunner.SettingsError, match=r"^entry wants the path of a file, not 5$"):
        hkrunner.run(5, [1])  # type: ignore[arg-type]


def test_the_memory_mode_is_the_callers_choice() -> None:
    entry = algorithm(
        "import mmap\ndef start(args):\n"
        "    return len(mmap.mmap(-1, 300 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)[:1])\n"
    )
    (sparse,) = hkrunner.run(entry, [1], mem="200Mi", mem_mode="rss")
    assert sparse.output == 1
    with pytest.raises(hkrunner.SettingsError, match="--mem-mode wants auto, brake or rss, not 'hope'"):
        hkrunner.run(entry, [1], mem="200Mi", mem_mode="hope")


def test_memory_may_be_a_number_of_bytes() -> None:
    for size in (256 << 20, (256 << 20) + 1):
        (result,) = hkrunner.run(SUM, [[1, 2]], mem=size)
        assert (result.output, result.limit_bytes) == (3, size)


# ---- what goes wrong before a task


def test_an_entry_that_is_not_there_is_reported_in_one_sentence() -> None:
    algorithm("def start(args): ...\n", "other.py")
    with pytest.raises(hkrunner.EntryNotFound, match=r"^ENTRY_NOT_FOUND: no file nope\.py in .*other\.py"):
        hkrunner.run("nope.py", [1])


@pytest.mark.parametrize(
    "how", ["", "import atexit, functools\nprint = functools.partial(atexit.register, print)\n"]
)
def test_an_entry_that_cannot_be_loaded_is_reported_with_its_line(how: str) -> None:
    """Its prints, before the failure and after it, look like messages of hkrunner, and are not."""
    entry = algorithm(f"{how}print('✘ hkrunner: loading')\nimport no_such_module\n")
    with pytest.raises(hkrunner.EntryUnusable, match=r"^IMPORT_FAILED: .*no_such_module.*alg\.py:\d"):
        hkrunner.run(entry, [1])


def test_a_wrong_limit_and_an_input_that_is_no_json_are_settings_errors() -> None:
    entry = algorithm("def start(args): ...\n")
    with pytest.raises(hkrunner.SettingsError, match=r"^--mem 12Q: Q is not a valid unit"):
        hkrunner.run(entry, [1], mem="12Q")
    with pytest.raises(hkrunner.SettingsError, match=r"^mem=300 is 300 bytes, .*: did you mean '300Mi'\?$"):
        hkrunner.run(entry, [1], mem=300)
    with pytest.raises(hkrunner.SettingsError, match=r"^mem wants a size, such as '512Mi', not \["):
        hkrunner.run(entry, [1], mem=["300Mi"])  # type: ignore[arg-type]
    with pytest.raises(hkrunner.SettingsError, match=r"^inputs\[1\]\['a'\]\[2\]: object cannot be sent; "):
        hkrunner.run(entry, [1, {"a": [1, 2, object()]}])


def test_inputs_are_converted_as_results_are() -> None:
    entry = algorithm("def start(args):\n    return args['input']\n")
    inputs = [
        numpy.arange(3),
        [numpy.float32(0.5), {"at": datetime.date(2024, 2, 29), "path": Path("/a")}, float("nan")],
        ({1}, decimal.Decimal("1.10"), b"\x00\xff"),
        [numpy.datetime64("2024-01-01T00:00:00", "ns"), [0] * 2000, {2}],
    ]
    with pytest.warns(UserWarning, match=r"^inputs\[1\]\[2\] is NaN or Infinity; JSON has") as told:
        results = hkrunner.run(entry, inputs)
    assert [one.filename for one in told] == [__file__]
    assert [result.output for result in results] == [
        [0, 1, 2],
        [0.5, {"at": "2024-02-29", "path": "/a"}, None],
        [[1], "1.10", "AP8="],
        ["2024-01-01T00:00:00", [0] * 2000, [2]],
    ]


def test_a_caller_deep_in_calls_gets_deep_results() -> None:
    entry = algorithm(
        "def start(args):\n"
        "    deep = []\n"
        "    for _ in range(args['input'][0]):\n"
        "        deep = [deep]\n"
        "    return deep\n"
    )

    def after(calls: int) -> hkrunner.TaskResults:
        return after(calls - 1) if calls else hkrunner.run(entry, [[890], [5]])

    assert [result.status for result in after(300)] == ["succeed", "succeed"]


def test_an_input_without_a_json_form_is_refused_with_the_call_that_converts_it() -> None:
    entry = algorithm("def start(args): ...\n")
    with pytest.raises(
        hkrunner.SettingsError, match=r"^inputs\[0\]\[1\]: _io.BytesIO .* its \.getvalue\(\)$"
    ):
        hkrunner.run(entry, [[1, io.BytesIO(b"x")]])


def test_an_hkrunner_that_is_killed_returns_the_results_it_has() -> None:
    entry = algorithm(
        "import os, signal\ndef start(args):\n    signal.alarm(60)\n"
        "    if args['input'][0]:\n        print('pid', os.getppid(), flush=True)\n        signal.pause()\n"
    )

    def end_it(event: object) -> None:
        if isinstance(event, hkrunner.Printed) and event.line.startswith("pid "):
            warden = int(event.line.split()[1])
            with open(f"/proc/{warden}/stat", encoding="ascii") as file:
                os.kill(int(file.read().rpartition(")")[2].split()[1]), signal.SIGTERM)

    with pytest.raises(
        hkrunner.HkrunnerError, match=r"^hkrunner ended with status 143 after 2 of 3 "
    ) as told:
        hkrunner.run(entry, [0, 1, 2], on_event=end_it, grace=0.2)
    assert isinstance(told.value, hkrunner.Incomplete)
    assert [result.status for result in told.value.results] == ["succeed", "stopped"]


# ---- what is printed


def test_what_the_algorithm_prints_goes_to_the_callers_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    entry = algorithm(
        "import sys\ndef start(args):\n    print('to out ✔')\n    print('to err', file=sys.stderr)\n"
    )
    hkrunner.run(entry, [1])
    out, err = capsys.readouterr()
    assert out == ""
    assert sorted(err.splitlines()) == ["to err", "to out ✔"]


class Unwritable(io.StringIO):
    """As sys.stderr is on a full disk, or with a reader that has ended."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("how", ["unwritable", "closed", "none"])
def test_no_result_is_lost_because_stderr_cannot_be_written(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = None if how == "none" else Unwritable()
    if stream is not None and how == "closed":
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    entry = algorithm("def start(args):\n    print('to out')\n    return args['input'][0]\n")
    assert [one.output for one in hkrunner.run(entry, [1, 2])] == [1, 2]


@pytest.mark.parametrize("path", ["", None, "/nowhere/python"])
def test_a_python_that_does_not_know_its_own_path_is_reported_in_one_sentence(
    path: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", path)
    said = r"the path of this Python is (not known|no longer /nowhere/python), as in"
    with pytest.raises(hkrunner.HkrunnerError, match=said):
        hkrunner.run(SUM, [[1, 2]])
    with pytest.raises(hkrunner.HkrunnerError, match=said):
        hkrunner.Pool(abs, workers=1)


def test_a_caller_without_a_folder_for_temporary_files_runs_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    assert [result.output for result in hkrunner.run(SUM, [[1, 2]])] == [3]


# ---- how it ends early


CALLS = """
import sys, threading, hkrunner
def call():
    hkrunner.run({entry!r}, [1], grace={grace})
{how}
"""
IN_MAIN_THREAD = "call()"
IN_ANOTHER_THREAD = "import asyncio\nasyncio.run(asyncio.to_thread(call))"


def calling(how: str, entry: Path = STOPS, grace: float = 5) -> Program:
    return Program([sys.executable, "-c", CALLS.format(entry=str(entry), how=how, grace=grace)])


def test_ctrl_c_stops_the_algorithm_and_is_raised_as_keyboard_interrupt() -> None:
    with calling(IN_MAIN_THREAD) as program:
        program.wait_for_line("at work")
        program.send_signal(signal.SIGINT)
        assert program.wait() == -signal.SIGINT
        said = "\n".join(program.stderr)
        assert 0 <= said.find("stop called") < said.find("work has ended") < said.find("KeyboardInterrupt")
        assert not [process for process in program.family() if runs(process)]


def test_a_terminals_ctrl_c_ends_it_once_and_in_order() -> None:
    with calling(IN_MAIN_THREAD) as program:
        program.wait_for_line("at work")
        os.killpg(program.pid, signal.SIGINT)
        assert program.wait() == -signal.SIGINT
        assert "exit called" in "\n".join(program.stderr)


def test_a_terminals_ctrl_c_reaches_a_call_in_another_thread() -> None:
    with calling(IN_ANOTHER_THREAD) as program:
        program.wait_for_line("at work")
        os.killpg(program.pid, signal.SIGINT)
        program.wait()
        assert "exit called" in "\n".join(program.stderr)


def test_a_second_ctrl_c_kills() -> None:
    with calling(IN_MAIN_THREAD, ALGORITHMS / "ignores_stop.py", grace=60) as program:
        program.wait_for_line("at work")
        program.send_signal(signal.SIGINT)
        program.wait_for_line("not now")
        program.send_signal(signal.SIGINT)
        assert program.wait() == -signal.SIGINT


@pytest.mark.parametrize("how", [IN_MAIN_THREAD, IN_ANOTHER_THREAD])
def test_a_caller_that_is_killed_leaves_nothing(how: str) -> None:
    with calling(how) as program:
        program.wait_for_line("at work")
        family = program.family()
        assert len(family) >= 4, "the caller, hkrunner, the warden, the algorithm"
        program.send_signal(signal.SIGKILL)
        wait_until(lambda: not any(map(runs, family)), what="the end of all it had started")


# ---- where it is called


def test_a_running_event_loop_and_threads_are_left_alone() -> None:
    async def in_a_notebook() -> list[object]:
        here = hkrunner.run(SUM, [[1, 2]])
        beside = await asyncio.gather(
            *(asyncio.to_thread(hkrunner.run, SUM, [[n, 1]], state_dir=f"state{n}") for n in (5, 6))
        )
        return [result.output for results in (here, *beside) for result in results]

    handlers = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
    }
    threads = threading.active_count()
    assert asyncio.run(in_a_notebook()) == [3, 6, 7]
    assert threads == threading.active_count()
    assert handlers == {number: signal.getsignal(number) for number in handlers}


def test_importing_hkrunner_imports_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import hkrunner; print(sorted(set(sys.modules) - before))"
    assert run([sys.executable, "-c", code]).stdout == "['hkrunner']\n"


def test_the_names_of_the_package_are_there_when_they_are_used() -> None:
    assert {name: getattr(hkrunner, name) for name in hkrunner.__all__}
    assert set(hkrunner.__all__) <= set(dir(hkrunner))
    with pytest.raises(AttributeError, match="module 'hkrunner' has no attribute 'runn'"):
        hkrunner.runn  # type: ignore[attr-defined]  # noqa: B018


# ---- in pytest

A_TEST = """
def test_it_fits(run_algorithm):
    result = run_algorithm("alg.py", [1, 2, 3], mem="256Mi", timeout=30)
    assert result.output == 6

def test_it_does_not(run_algorithm, tmp_path):
    result = run_algorithm("alg.py", ["grow"], mem="64Mi")
    assert result.reason == "MemoryLimit"
    assert result.logs.stdout.is_relative_to(tmp_path)
"""


def test_the_fixture_runs_an_algorithm_beside_the_test(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    algorithm(
        "def start(args):\n    if args['input'] == ['grow']:\n        bytearray(1 << 29)\n"
        "    return sum(args['input'])\n",
        "tests/alg.py",
    )
    (tmp_path / "tests" / "test_alg.py").write_text(A_TEST)
    pytest_here = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
    ended = run([*pytest_here, f"--basetemp={tmp_path / 'base'}", "tests"], cwd=tmp_path)
    assert (ended.status, "2 passed" in ended.stdout) == (0, True), ended.stdout + ended.stderr


def test_a_failure_in_pytest_shows_the_lines_of_the_test_only(tmp_path: Path) -> None:
    algorithm("def start(args):\n    return sum(args['input'])\n")
    (tmp_path / "test_alg.py").write_text(
        "def test_text(run_algorithm):\n    run_algorithm('alg.py', ['a']).raise_for_status()\n"
        "def test_place(run_algorithm):\n    run_algorithm('no.py', [1])\n"
    )
    ended = run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=tmp_path)
    assert "2 failed" in ended.stdout and "TaskFailed: task t1 failed (AlgorithmError)" in ended.stdout
    assert "test_alg.py:2: TaskFailed" in ended.stdout and "test_alg.py:4: EntryNotFound" in ended.stdout
    assert "python_api/run.py" not in ended.stdout and "python_api/results.py" not in ended.stdout


def test_pytests_start_imports_nothing_that_runs_algorithms() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import hkrunner.runner.pytest_plugin;"
        "print(sorted(set(sys.modules) - before))"
    )
    loaded = run([sys.executable, "-c", code]).stdout
    assert loaded == "['hkrunner', 'hkrunner.runner', 'hkrunner.runner.pytest_plugin']\n"
