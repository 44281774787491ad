"""--in-process and --pdb at a real terminal: prompts, breakpoints, Ctrl-C, and a worker served meanwhile."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest
from support.local import ALGORITHMS
from support.processes import runs
from support.programs import HKRUNNER, run, run_hkrunner
from support.scripted_worker import ScriptedWorker
from support.terminals import AtTerminal, at_terminal
from support.waiting import wait_until

ENTRY = str(ALGORITHMS / "stands_still.py")


def inputs(*values: str) -> list[str]:
    return [word for value in values for word in ("-i", json.dumps(value))]


def supervisor_of(one: AtTerminal) -> psutil.Process:
    (found,) = psutil.Process(one.process.pid).children()
    return found


def test_breakpoints_and_prompts_are_the_terminals_and_results_alone_go_down_a_pipe(tmp_path: Path) -> None:
    with at_terminal(
        tmp_path, ENTRY, *inputs("breakpoint", "prompt"), "--in-process", "--mem", "1Gi", piped=True
    ) as one:
        one.wait_for("(Pdb) ")
        assert "no limit is enforced, so that a process can wait at a breakpoint" in one.shown
        one.type("p answer\n")
        one.wait_for("\n41\n")
        one.wait_for("(Pdb) ", times=2)
        one.type("\x03")  # at the prompt: as pdb has it
        one.wait_for("--KeyboardInterrupt--")
        one.type("answer = 99\n")
        one.type("r\n")
        one.wait_for("--Return--")
        one.type("n\n")  # past the end of the user's code: no further
        one.wait_for("your name? ")
        one.type("Ada\n")
        status, out = one.end()
    assert (status, out) == (0, '100\n"Ada"\n')
    assert "exit() was called" in one.shown


def test_pdb_opens_where_the_code_has_raised_and_the_task_is_answered_all_the_same(tmp_path: Path) -> None:
    with at_terminal(tmp_path, ENTRY, *inputs("raise", "next"), "--pdb", "-j", piped=True) as one:
        one.wait_for("(Pdb) ")
        assert '-> return record["age"]' in one.shown
        one.type("p record\n")
        one.wait_for("\n{}\n")
        one.type("q\n")
        status, out = one.end()
    first, second = map(json.loads, out.splitlines())
    assert (status, first["reason"], second["output"]) == (1, "AlgorithmError", "next")
    assert first["error"]["message"].startswith(
        "ALGORITHM_ERROR: KeyError: 'age' (stands_still.py:9 in find)"
    )


@pytest.mark.parametrize("keys", ["q\n", "\x04"])
def test_leaving_the_debugger_ends_a_local_run(keys: str, tmp_path: Path) -> None:
    with at_terminal(tmp_path, ENTRY, *inputs("breakpoint", "never"), "--in-process") as one:
        one.wait_for("(Pdb) ")
        one.type(keys)
        status, _ = one.end()
    assert status == 130
    assert "exit() was called" in one.shown and "begins never" not in one.shown


def test_ctrl_c_in_the_users_code_ends_the_run_in_order(tmp_path: Path) -> None:
    with at_terminal(tmp_path, ENTRY, *inputs("work", "never"), "--in-process") as one:
        one.wait_for("begins work")
        one.type("\x03")
        status, _ = one.end()
    assert status == 130
    assert "stop() was called" in one.shown and "exit() was called" in one.shown
    assert "■ task t1 stopped" in one.shown and "begins never" not in one.shown
    assert "Traceback" not in one.shown


def test_ctrl_c_between_two_tasks_of_a_worker_ends_it_in_order(tmp_path: Path) -> None:
    with (
        ScriptedWorker() as worker,
        at_terminal(tmp_path, ENTRY, "--in-process", "--url", worker.url) as one,
    ):
        client = worker.accept()
        client.initialize(["quick"])
        client.expect("initialized")
        client.start()
        client.expect("done")
        one.type("\x03")
        status, _ = one.end()
    assert status == 130 and "exit() was called" in one.shown


def test_a_worker_is_answered_while_the_code_stands_at_a_breakpoint(tmp_path: Path) -> None:
    with (
        ScriptedWorker() as worker,
        at_terminal(tmp_path, ENTRY, "--in-process", "--grace", "0", "--url", worker.url) as one,
    ):
        client = worker.accept()
        client.initialize(["breakpoint"])
        client.expect("initialized")
        client.start()
        one.wait_for("(Pdb) ")
        client.ping()
        client.stop()
        one.wait_for("stop() was called")
        one.wait_for("waiting for it to end")
        client.ping()
        one.type("c\n")
        client.expect("stopped")
        client.initialize(["breakpoint"])
        client.expect("initialized")
        client.start()
        one.wait_for("(Pdb) ", times=2)
        one.type("q\n")
        left = client.expect("errorMessage")["error"]["message"]
        assert left.startswith("ALGORITHM_ERROR: DebuggerQuit: the task was left in the debugger")
        client.initialize(["exit"])
        client.expect("initialized")
        client.start()
        error = client.expect("errorMessage")["error"]["message"]
        status, _ = one.end()
    assert "EXITED: the algorithm ended its process with code 3" in error
    assert status == 3


def test_a_worker_that_begins_a_new_task_or_ends_is_served_when_the_code_returns(tmp_path: Path) -> None:
    with (
        ScriptedWorker() as worker,
        at_terminal(tmp_path, ENTRY, "--in-process", "--grace", "0", "--url", worker.url) as one,
    ):
        client = worker.accept()
        client.initialize(["breakpoint"], taskId="first")
        client.expect("initialized")
        client.start()
        one.wait_for("(Pdb) ")
        client.initialize(["breakpoint"], taskId="second")
        one.wait_for("stop() was called")
        one.type("c\n")
        client.expect("initialized")
        client.start()
        one.wait_for("(Pdb) ", times=2)
        client.exit()
        one.wait_for("stopping: waiting for it to end")
        one.type("c\n")
        status, _ = one.end()
    assert status == 0 and "exit() was called" in one.shown
    tasks = tmp_path / ".hkrunner/tasks"
    kept = [json.loads((tasks / name / "task.json").read_text())["status"] for name in ("first", "second")]
    assert kept == ["stopped", "stopped"]


@pytest.mark.parametrize("what", ["SIGHUP", "SIGTERM"])
def test_a_debugger_without_a_terminal_or_asked_to_end_leaves_no_process(what: str, tmp_path: Path) -> None:
    with at_terminal(tmp_path, ENTRY, *inputs("breakpoint"), "--in-process", "--grace", "0.2") as one:
        one.wait_for("(Pdb) ")
        supervisor = supervisor_of(one)
        if what == "SIGHUP":
            one.hang_up()
        else:
            one.process.send_signal(signal.SIGTERM)
        status, _ = one.end()
        wait_until(lambda: not runs(supervisor), what="the end of the supervisor")
    assert status in (1, 128 + 1, -signal.Signals[what])  # pdb may meet the end of its input first
    assert json.loads((tmp_path / ".hkrunner/tasks/t1/task.json").read_text())["status"] != "running"


def test_without_its_supervisor_the_process_ends(tmp_path: Path) -> None:
    with at_terminal(tmp_path, ENTRY, *inputs("breakpoint"), "--in-process") as one:
        one.wait_for("(Pdb) ")
        supervisor_of(one).kill()
        status, _ = one.end()
    assert status == -signal.SIGKILL
    assert "the supervisor has ended, and the algorithm with it" in one.shown


def test_a_crash_is_answered_with_its_reason(tmp_path: Path) -> None:
    ended = run_hkrunner(ENTRY, *inputs("crash", "next"), "--in-process", "-j", cwd=tmp_path)
    assert ended.status == -signal.SIGSEGV
    first, second = map(json.loads, ended.stdout.splitlines())
    assert "SIGSEGV" in first["error"]["message"] and "stands_still.py" in first["error"]["message"]
    assert "click" not in first["error"]["message"]
    assert second["error"]["code"] == "RUNNER_ERROR"


def test_what_needs_another_process_is_refused_in_one_sentence(tmp_path: Path) -> None:
    for args, sentence in [
        (["--watch"], "--in-process runs the code in this one process: leave --watch out"),
        (["-i", "-"], "--in-process leaves stdin to the code"),
    ]:
        ended = run_hkrunner(ENTRY, *inputs("x"), "--in-process", *args, cwd=tmp_path, input="1")
        assert ended.status == 2
        assert ended.stderr.startswith(f"hkrunner: {sentence}"), ended.stderr


def test_the_debugger_of_a_closed_stdin_ends_as_that_of_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "alg.py").write_text("def start(args):\n    raise ValueError('mine')\n")
    for stdin in ("<&-", "</dev/null"):
        command = f'exec "$0" alg.py -i 1 --pdb {stdin}'
        ended = run(["sh", "-c", command, HKRUNNER], cwd=tmp_path)
        assert ended.status == 1 and "failed: ALGORITHM_ERROR: ValueError: mine (alg.py:2" in ended.stderr, (
            ended
        )


def test_code_that_cannot_be_loaded_opens_the_debugger_too(tmp_path: Path) -> None:
    (tmp_path / "alg.py").write_text("value = {}\nvalue['gone']\n")
    with at_terminal(tmp_path, "alg.py", "-i", "1", "--pdb") as one:
        one.wait_for("(Pdb) ")
        one.type("p value\n")
        one.wait_for("\n{}\n")
        one.type("q\n")
        status, _ = one.end()
    assert status == 4 and "IMPORT_FAILED" in one.shown
    assert not os.path.exists(tmp_path / ".hkrunner/tasks/t1")


@pytest.mark.parametrize("mode", [(), ("--in-process",)])
def test_threads_of_ours_run_where_the_code_has_replaced_threads(
    mode: tuple[str, ...], tmp_path: Path
) -> None:
    entry = ALGORITHMS / "logs_from_a_fork_with_replaced_threads.py"
    other = f"adds={ALGORITHMS / 'adds.py'}"
    ended = run_hkrunner(entry, "-i", "1", "--algorithm", other, *mode, cwd=tmp_path)
    assert (ended.status, ended.stdout) == (0, "5\n"), ended
    assert [one for one in ended.stderr.splitlines() if one.startswith("record ")] == [
        "record 0", "record 1", "record 2",
    ]  # fmt: skip
