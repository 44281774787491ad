"""Time limits: of a task, of loading the code, of CPU time; with the stack and the option to raise."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.local import ALGORITHMS, error_of, run_tasks
from support.programs import run_hkrunner

#: Long enough for the next task on a busy machine.
SHORT = ("--timeout", "1")


@pytest.mark.parametrize("algorithm", ["sleeps", "holds_the_gil", "stops_itself"])
def test_a_task_that_takes_too_long_is_ended_whatever_it_does(algorithm: str, tmp_path: Path) -> None:
    run = run_tasks(f"{algorithm}.py", ["misbehave"], ["behave"], cwd=tmp_path, args=SHORT)
    code, message = error_of(run.tasks[0])
    assert code == "TASK_TIMEOUT"
    assert "TASK_TIMEOUT: the task took longer than 1 s (--timeout) and was killed; raise it" in message
    # holds_the_gil sleeps in C code, which faulthandler's signal interrupts all the same.
    assert f'{algorithm}.py", line' in message, "the stack says where it was"
    assert (run.status, run.tasks[0]["reason"], run.outputs[1]) == (124, "Timeout", "served")
    assert 1000 <= run.tasks[0]["durationMs"] < 10_000


@pytest.mark.parametrize("whose", ["start", "run"])
def test_the_lines_at_which_coroutines_wait_are_told(whose: str, tmp_path: Path) -> None:
    """Those of the loop of hkrunner, and those of one that start() runs itself."""
    run = run_tasks("async_waits_for_ever.py", [whose], cwd=tmp_path, args=("--timeout", "1"))
    code, message = error_of(run.tasks[0])
    assert code == "TASK_TIMEOUT"
    lines = (ALGORITHMS / "async_waits_for_ever.py").read_text().splitlines()
    for name in ("fetch", "beat"):
        number = next(at for at, line in enumerate(lines, 1) if line.endswith(f"# of {name}"))
        assert f'async_waits_for_ever.py", line {number} in {name}' in message, message
    assert "Task beat (most recent call first):" in message


def test_a_task_in_time_is_no_error(tmp_path: Path) -> None:
    run = run_tasks("sleeps.py", *[["behave"]] * 5, cwd=tmp_path, args=("--timeout", "2"))
    assert (run.status, run.outputs) == (0, ["served"] * 5)
    assert run.tasks[0]["protection"]["line"] == "limits: task 2 s"


def test_loading_that_takes_too_long_is_ended_with_its_stack(tmp_path: Path) -> None:
    arguments = ["-e", ALGORITHMS / "hangs_at_import.py", "--start-timeout", "1.5", "-i", "1", "-j"]
    ended = run_hkrunner(*arguments, cwd=tmp_path)
    assert (ended.status, ended.stdout) == (4, "")
    assert "✘ START_TIMEOUT: loading the code took longer than 1.5 s (--start-timeout); raise" in ended.stderr
    assert 'hangs_at_import.py", line' in ended.stderr


def test_cpu_time_is_counted_not_wall_time(tmp_path: Path) -> None:
    args = ("--cpu-time", "1")
    run = run_tasks(
        "limits_spins.py", ["light", 1.5], ["threads", 20], ["behave", 0], cwd=tmp_path, args=args
    )
    assert run.tasks[0]["status"] == "succeed", "it slept most of the time"
    code, message = error_of(run.tasks[1])
    assert code == "CPU_TIME_LIMIT"
    found = re.search(
        r"used ([\d.]+) of 1 s CPU time allowed \(--cpu-time\) after [\d.]+ s; compute less", message
    )
    assert found is not None and 1.0 <= float(found[1]) < 5
    assert (run.status, run.tasks[1]["reason"], run.outputs[2]) == (124, "CpuLimit", "served")
    assert 1.0 <= run.tasks[1]["cpuSeconds"] < 5


def test_a_process_that_has_ended_still_counts(tmp_path: Path) -> None:
    args = ("--cpu-time", "0.6")
    run = run_tasks("limits_spins.py", ["forks", 20], ["behave", 0], cwd=tmp_path, args=args)
    assert error_of(run.tasks[0])[0] == "CPU_TIME_LIMIT"
    assert run.outputs[1] == "served"


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--mem", "512", "memory unit must be one of Ki,M,Mi,Gi,m,K,G,T,Ti"),
        ("--mem", "12Xi", "Xi is not a valid unit"),
        ("--mem", "1Mi", "memory must be at least 4 Mi"),
        ("--cpu", "many", "cpu should be number of cores"),
        ("--pids", "0", "--pids wants a whole number from 1 on"),
        ("--pids", "99999999999", "--pids wants a whole number up to 2147483647, not '99999999999'"),
        ("--timeout", "-1", "--timeout wants a number of seconds"),
        ("--timeout", "nan", "--timeout wants a number of seconds from 0.001 on, not 'nan'"),
        ("--timeout", "1e10", "--timeout wants a number of seconds up to 1000000000, not '1e10'"),
        ("--disk", "1", "--disk 1: disk unit must be one of"),
        ("--disk", "1Ki", "--disk 1Ki: disk must be at least 4 Mi"),
        ("--disk", "Mi", "disk needs a number before its unit"),
    ],
)
def test_an_invalid_limit_is_refused_before_anything_starts(
    option: str, value: str, sentence: str, tmp_path: Path
) -> None:
    ended = run_hkrunner("-e", ALGORITHMS / "adds.py", option, value, "-i", "[1]", cwd=tmp_path)
    assert (ended.status, ended.stdout) == (2, "")
    assert sentence in ended.stderr and option in ended.stderr
    assert not (tmp_path / ".hkrunner").exists()


def test_the_option_overrides_the_variable(tmp_path: Path) -> None:
    for args, expected in ((("--mem", "128Mi"), 128), ((), 64)):
        arguments = ["-e", ALGORITHMS / "adds.py", "-i", "[1, 2]", "-j", *args]
        ended = run_hkrunner(*arguments, cwd=tmp_path, env={"HKRUNNER_MEM": "64Mi"})
        assert json.loads(ended.stdout)["memLimitBytes"] == expected << 20, ended
