"""Memory with real libraries: what fits is let through, and whatever fails for the limit names the limit."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from support.local import ALGORITHMS, Run, error_of, run_tasks
from support.programs import run_hkrunner

MI = 1 << 20
PROGRAM = "limits_in_libraries.py"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("built") / "libgrow.so"
    subprocess.run(["g++", "-shared", "-fPIC", "-o", path, ALGORITHMS / "limits_grow.cpp"], check=True)
    return str(path)


def assert_names_the_limit(run: Run, limit: int) -> None:
    """Each task but the last one failed with its limit, and the last one was served."""
    for task in run.tasks[:-1]:
        _, message = error_of(task)
        assert (task["reason"], task["memLimitBytes"], run.status) == ("MemoryLimit", limit, 137), message
        first = message.splitlines()[0]
        assert "(--mem)" in first and "Try --mem " in first and re.search(r"used [\d.]+ MiB", first), message
    assert run.tasks[-1]["output"] == "served"


@pytest.mark.parametrize("mode", ["auto", "brake", "rss"])
def test_a_library_that_ends_the_process_when_it_is_refused_memory_is_reported_as_the_limit(
    mode: str, library: str, tmp_path: Path
) -> None:
    args = ("--mem", "192Mi", "--mem-mode", mode)
    inputs = (["grow_in_cpp", library], ["grow_in_c", library], ["behave"])
    assert_names_the_limit(run_tasks(PROGRAM, *inputs, cwd=tmp_path, args=args), 192 * MI)


@pytest.mark.parametrize("mode", ["auto", "brake", "rss"])
def test_an_error_that_comes_of_refused_memory_is_reported_as_the_limit(mode: str, tmp_path: Path) -> None:
    args = ("--mem", "192Mi", "--mem-mode", mode)
    inputs = (["wrap", 0], ["give_up", 0], ["subprocess_fails", 0], ["behave"])
    assert_names_the_limit(run_tasks(PROGRAM, *inputs, cwd=tmp_path, args=args), 192 * MI)


@pytest.mark.parametrize("mode", ["auto", "brake", "rss"])
def test_a_library_that_waits_for_its_own_lock_after_refused_memory_is_ended(
    mode: str, tmp_path: Path
) -> None:
    args = ("--mem", "192Mi", "--mem-mode", mode)
    run = run_tasks(PROGRAM, ["wait_for_itself", 0], ["behave"], cwd=tmp_path, args=args)
    assert_names_the_limit(run, 192 * MI)


@pytest.mark.alone
def test_a_library_that_ends_the_process_when_refused_far_from_the_limit_is_a_matter_of_the_limit(
    tmp_path: Path,
) -> None:
    args = ("--mem", "96Mi", "--mem-mode", "brake")
    program = "limits_exits_when_refused.py"
    run = run_tasks(program, ["misbehave"], ["behave"], cwd=tmp_path, args=args)
    assert_names_the_limit(run, 96 * MI)
    message = error_of(run.tasks[0])[1]
    assert "more was refused, and it ended with code 1" in message and "OpenBLAS error" in message
    run = run_tasks(program, ["behave"], cwd=tmp_path, args=args, env={"AT_IMPORT": "1"})
    assert run.status == 137
    assert "of 96 MiB allowed (--mem); more was refused, and it ended with code 1" in run.stderr


@pytest.mark.parametrize(("way", "mode"), [("event", "auto"), ("feed", "brake")])
def test_what_waits_for_a_thread_that_had_no_memory_is_ended_at_the_limit(
    way: str, mode: str, tmp_path: Path
) -> None:
    given = ("--entry", ALGORITHMS / "limits_loses_a_thread.py", "--json", "--input", f'["{way}"]')
    given += ("--input", '["behave"]', "--mem", "96Mi", "--mem-mode", mode)
    ended = run_hkrunner(*given, cwd=tmp_path)  # not run_tasks(): Python shows the thread's own traceback
    run = Run(ended.status, [json.loads(line) for line in ended.stdout.splitlines()], ended.stderr)
    assert_names_the_limit(run, 96 * MI)
    message = error_of(run.tasks[0])[1]
    assert "limits_loses_a_thread.py" in message.splitlines()[0]
    assert "thread works ended with MemoryError; what waits for it may wait for ever" in message


def test_what_waits_for_a_thread_that_could_start_no_other_is_ended_at_the_limit(tmp_path: Path) -> None:
    given = ("-e", ALGORITHMS / "limits_loses_a_thread.py", "--json", "-i", '["starts"]', "-i", '["behave"]')
    given += ("--mem", "192Mi", "--mem-mode", "brake")
    ended = run_hkrunner(*given, cwd=tmp_path)  # not run_tasks(), as above
    run = Run(ended.status, [json.loads(line) for line in ended.stdout.splitlines()], ended.stderr)
    assert_names_the_limit(run, 192 * MI)
    message = error_of(run.tasks[0])[1]
    told = "thread works ended with RuntimeError: can't start new thread; what waits for it may wait for ever"
    assert told in message


def test_a_thread_that_had_no_memory_is_told_though_its_task_goes_on(tmp_path: Path) -> None:
    given = ("--entry", ALGORITHMS / "limits_loses_a_thread.py", "--input", '["timed"]', "--mem", "96Mi")
    ended = run_hkrunner(*given, cwd=tmp_path)
    assert (ended.status, ended.stdout) == (0, '"went on"\n'), ended.stderr
    assert "thread works ended with MemoryError" in ended.stderr


def test_a_pool_whose_results_are_too_large_ends_at_the_limit(tmp_path: Path) -> None:
    given = ("-e", ALGORITHMS / "limits_loses_a_thread.py", "--json", "-i", '["pool"]', "-i", '["behave"]')
    ended = run_hkrunner(*given, "--mem", "96Mi", cwd=tmp_path)  # not run_tasks(), as above
    run = Run(ended.status, [json.loads(line) for line in ended.stdout.splitlines()], ended.stderr)
    assert_names_the_limit(run, 96 * MI)


@pytest.mark.parametrize(("way", "mode"), [("send", "brake"), ("lock", "auto"), ("program", "auto")])
def test_a_tree_that_waits_only_for_itself_after_refused_memory_is_ended_at_the_limit(
    way: str, mode: str, tmp_path: Path
) -> None:
    args = ("--mem", "96Mi", "--mem-mode", mode)
    run = run_tasks("limits_waits_for_itself.py", [way], ["behave"], cwd=tmp_path, args=args)
    assert_names_the_limit(run, 96 * MI)
    assert "limits_waits_for_itself.py" in error_of(run.tasks[0])[1].splitlines()[0]


@pytest.mark.parametrize("way", ["sleeps", "waits", "calls", "awaits"])
def test_a_tree_that_was_refused_memory_and_waits_for_what_comes_is_left_alone(
    way: str, tmp_path: Path
) -> None:
    program = "limits_waits_for_itself.py"
    args = ("--mem", "96Mi", "--mem-mode", "brake", "--algorithm", f"other={ALGORITHMS / program}")
    run = run_tasks(program, [way], cwd=tmp_path, args=args)
    assert (run.status, run.outputs) == (0, ["went on"]), run.stderr


def test_a_manager_that_has_no_memory_for_a_thread_serves_its_clients_later(tmp_path: Path) -> None:
    given = ("-e", ALGORITHMS / "limits_waits_for_itself.py", "--json", "-i", '["pool"]', "-i", '["behave"]')
    # Not run_tasks(): Python shows the thread's own traceback.
    ended = run_hkrunner(*given, "--mem", "72Mi", "--mem-mode", "brake", cwd=tmp_path)
    run = Run(ended.status, [json.loads(line) for line in ended.stdout.splitlines()], ended.stderr)
    assert_names_the_limit(run, 72 * MI)


def test_a_message_without_memory_is_lost_alone_in_each_process_of_multiprocessing(tmp_path: Path) -> None:
    run = run_tasks("limits_receives_without_memory.py", 1, cwd=tmp_path)
    told = {way: ["no memory", 5] for way in ("fork", "spawn", "forkserver")}
    assert run.outputs == [told], run.stderr


def test_an_exit_far_from_the_limit_is_not_reported_as_a_memory_limit(tmp_path: Path) -> None:
    run = run_tasks("exits_at_once.py", ["misbehave"], cwd=tmp_path, args=("--mem", "192Mi"))
    assert run.tasks[0]["reason"] == "Crashed"


def test_code_that_ends_close_to_the_limit_by_its_own_decision_is_not_reported_as_a_memory_limit(
    tmp_path: Path,
) -> None:
    ways = [[how, 128 * MI - 13 * MI // 2] for how in ("raise", "sys.exit", "os._exit")]
    run = run_tasks("limits_decides_near_its_limit.py", *ways, cwd=tmp_path, args=("--mem", "128Mi"))
    assert [task["reason"] for task in run.tasks] == ["AlgorithmError", "Crashed", "Crashed"], run.stderr


@pytest.mark.parametrize("mode", ["auto", "rss"])
def test_a_process_between_vfork_and_exec_counts_nothing(mode: str, tmp_path: Path) -> None:
    args = ("--mem", "192Mi", "--mem-mode", mode)
    run = run_tasks(PROGRAM, ["start_slowly", 120], cwd=tmp_path, args=args)
    assert (run.status, run.outputs) == (0, [True]), run.stderr
    assert run.tasks[0]["peakMemBytes"] < 192 * MI


@pytest.mark.parametrize(
    ("mode", "what", "argument"),
    [
        ("auto", "threads", 4),
        ("auto", "threads", 64),
        ("auto", "one_after_another", 60),
        ("auto", "dot", 20),
        ("auto", "solve", 20),
        ("rss", "threads", 16),
        ("rss", "solve", 20),
        ("brake", "threads", 64),
        ("brake", "one_after_another", 60),
        ("brake", "solve", 20),
    ],
)
def test_the_limit_that_is_suggested_is_enough(mode: str, what: str, argument: int, tmp_path: Path) -> None:
    given = ("--entry", ALGORITHMS / PROGRAM, "--no-state", "--input", f'["{what}", {argument}]')
    given += ("--mem-mode", mode)
    free = run_hkrunner(*given, cwd=tmp_path)
    found = re.search(r"--mem (\w+) would do", free.stderr)
    assert found is not None, free.stderr
    for _ in range(2):
        limited = run_hkrunner(*given, "--mem", found[1], cwd=tmp_path)
        assert (limited.status, limited.stdout) == (0, free.stdout), (found[1], limited.stderr)


@pytest.mark.parametrize("mib", [70, 80, 90])
def test_openblas_near_the_limit_is_let_through_or_ended_but_never_hangs(mib: int, tmp_path: Path) -> None:
    run = run_tasks(PROGRAM, ["solve", mib], ["behave"], cwd=tmp_path, args=("--mem", "128Mi"))
    if run.status == 0:
        assert run.outputs == [True, "served"]
    else:
        assert_names_the_limit(run, 128 * MI)


@pytest.mark.parametrize("mode", ["auto", "brake"])
def test_a_task_that_ends_well_although_it_was_refused_memory_says_so(mode: str, tmp_path: Path) -> None:
    args = ("--mem", "128Mi", "--mem-mode", mode)
    given = ("--entry", ALGORITHMS / PROGRAM, "--input", '["swallow", 0]')
    ended = run_hkrunner(*given, *args, "--json", cwd=tmp_path)
    told = json.loads(ended.stdout)
    assert (ended.status, told["output"]) == (0, "as much as there was"), ended.stderr
    (problem,) = told["problems"]
    assert re.match(r"at 1\d\d MiB of 128 MiB \(--mem\), \S+ \(pid \d+\) may have been refused", problem)
    assert problem in ended.stderr


@pytest.mark.parametrize("mode", ["auto", "brake"])
def test_memory_that_the_import_was_refused_and_did_without_is_told_with_the_task(
    mode: str, tmp_path: Path
) -> None:
    given = ("--entry", ALGORITHMS / "limits_swallows_at_import.py", "--input", "1", "--input", "2")
    ended = run_hkrunner(*given, "--mem", "96Mi", "--mem-mode", mode, cwd=tmp_path)
    assert (ended.status, ended.stdout) == (0, '"served"\n"served"\n'), ended.stderr
    told = r"while the code was loaded, at [5-9]\d(\.\d)? MiB of 96 MiB \(--mem\), \S+ \(pid \d+\) may have"
    assert len(re.findall(told, ended.stderr)) == 1, ended.stderr


def test_a_process_that_repeats_what_is_refused_near_the_limit_is_ended_at_the_limit(tmp_path: Path) -> None:
    given = ["take_again", 110], ["behave"]
    run = run_tasks(PROGRAM, *given, cwd=tmp_path, args=("--mem", "128Mi"))
    assert_names_the_limit(run, 128 * MI)
