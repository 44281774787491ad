"""How a task, or all of hkrunner, ends before the algorithm has finished: stop, exit, signals."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from support.local import ALGORITHMS
from support.processes import runs
from support.programs import serving
from support.scripted_worker import ScriptedWorker
from support.served import OBEYS, has_record, serving_worker
from support.waiting import wait_until

#: The grace given where the algorithm is to be killed.
SHORT = ("--grace", "0.3")


# ---- stop, in every state


def test_stop_is_answered_with_one_stopped_by_a_cooperative_algorithm(tmp_path: Path) -> None:
    with serving_worker(tmp_path, "--grace", "60") as (client, program):
        client.initialize(["wait for stop"])
        client.expect("initialized")
        client.start()
        program.wait_for_line("start", stream="stdout")
        client.stop()
        client.expect("stopped")
        program.wait_for_line("stop {'forceStop': True}", stream="stdout")
        client.nothing_more()
        assert client.run(["who"])["data"]["served"] == ["wait for stop", "who"]


@pytest.mark.parametrize("what", ["sleep", "hold the GIL"])
def test_stop_kills_an_algorithm_that_does_not_react(tmp_path: Path, what: str) -> None:
    with serving_worker(tmp_path, *SHORT) as (client, program):
        old = client.run(["who"])["data"]["pid"]
        client.initialize([what])
        client.expect("initialized")
        client.start()
        wait_until(lambda: program.stdout.count("start") == 2, what="the start of the task")
        began = time.monotonic()
        client.stop()
        client.expect("stopped")
        assert time.monotonic() - began >= 0.3
        answer = client.run(["who"])["data"]
        assert answer["pid"] != old
        assert answer["served"] == ["who"]
        client.nothing_more()


def test_stop_during_init_that_hangs(tmp_path: Path) -> None:
    with serving_worker(tmp_path, *SHORT) as (client, program):
        client.initialize(["give", 1], init="sleep")
        program.wait_for_line("init sleep", stream="stdout")
        client.stop()
        client.expect("stopped")
        assert client.run(["give", 2])["data"] == 2
        client.nothing_more()


def test_stop_during_an_import_that_hangs(tmp_path: Path) -> None:
    entry = tmp_path / "alg.py"
    entry.write_text((ALGORITHMS / "hangs_at_import.py").read_text())
    with serving_worker(tmp_path, *SHORT, entry=entry) as (client, program):
        program.wait_for_line("importing", stream="stdout")
        client.initialize(["x"])
        client.stop()
        client.expect("stopped")
        entry.write_text("def start(args, api):\n    return 'repaired'\n")
        assert client.run(["x"])["data"] == "repaired"
        client.nothing_more()


def test_stop_between_initialized_and_start(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, program):
        client.initialize(["give", 1])
        client.expect("initialized")
        client.stop()
        client.expect("stopped")
        assert client.run(["give", 2])["data"] == 2
        # What it prints takes another way than its answer, and may come after it.
        wait_until(lambda: "start" in program.stdout, what="the second task's own word")
        assert program.stdout.count("start") == 1
        client.nothing_more()


def test_stop_and_start_that_crossed_run_nothing(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, _):
        client.initialize(["sleep"])
        client.expect("initialized")
        client.stop()
        client.start()
        client.expect("stopped")
        assert client.run(["give", 2])["data"] == 2


def test_stop_that_crosses_the_answer_still_gets_its_stopped(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, program):
        client.initialize(["give", 1])
        client.expect("initialized")
        client.stop_reading()  # the answer is under way, the worker has not seen it
        client.start()
        program.wait_for_line("start", stream="stdout")
        client.stop()
        client.go_on_reading()
        message = client.receive()
        if message["command"] == "done":
            message = client.receive()
        assert message["command"] == "stopped"
        client.nothing_more()


def test_a_stop_of_the_next_task_does_not_stop_the_earlier_one(tmp_path: Path) -> None:
    with serving_worker(tmp_path, *SHORT) as (client, _):
        for _ in range(5):
            client.initialize(["sleep"])
            client.expect("initialized")
            client.start()
            client.stop()
            client.expect("stopped")
            assert client.run(["give", "new"])["data"] == "new"
        client.nothing_more()


def test_an_initialize_during_a_task_begins_a_new_task_and_drops_the_messages_of_the_old_one(
    tmp_path: Path,
) -> None:
    flag = tmp_path / "flag"
    with serving_worker(tmp_path) as (client, program):
        client.initialize(["wait for file", str(flag)], taskId="old")
        client.expect("initialized")
        client.start()
        program.wait_for_line("start", stream="stdout")
        client.initialize(["give", "new"], taskId="new")
        client.expect("initialized")
        flag.touch()  # the old one would be done now
        client.start()
        assert client.answer()["data"] == "new"
        client.nothing_more()


# ---- exit


def test_exit_ends_with_the_code_the_worker_asks_for_and_calls_exit(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, program):
        client.run(["give", 1])
        client.exit({"command": "exit", "data": {"exitCode": 5}})
        assert program.wait() == 5
        assert "exit {'exitCode': 5}" in program.stdout
        client.wait_for_end()
        assert client.close_code == 1000


def test_exit_during_a_task_that_does_not_react(tmp_path: Path) -> None:
    with serving_worker(tmp_path, *SHORT) as (client, program):
        client.initialize(["hold the GIL"])
        client.expect("initialized")
        client.start()
        program.wait_for_line("start", stream="stdout")
        family = program.family()
        client.exit()
        assert program.wait() == 0
        assert not [process for process in family if runs(process)]


def test_exit_during_an_import_that_hangs(tmp_path: Path) -> None:
    with serving_worker(tmp_path, *SHORT, entry="hangs_at_import.py") as (client, program):
        program.wait_for_line("importing", stream="stdout")
        client.exit()
        assert program.wait() == 0


def test_exit_before_any_task(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, program):
        client.exit({"command": "exit"})
        assert program.wait() == 0


# ---- signals


def test_sigterm_ends_with_143_and_says_so_in_the_close_frame_without_an_answer(tmp_path: Path) -> None:
    with serving_worker(tmp_path, *SHORT) as (client, program):
        client.initialize(["sleep"])
        client.expect("initialized")
        client.start()
        program.wait_for_line("start", stream="stdout")
        family = program.family()
        program.send_signal(signal.SIGTERM)
        assert program.wait() == 143
        client.wait_for_end()
        with pytest.raises(AssertionError, match="the connection ended"):
            client.receive()
        assert (client.close_code, client.close_reason) == (
            1001,
            "hkrunner was asked to end during task b6thsibs",
        )
        assert not [process for process in family if runs(process)]
        assert "Traceback" not in "\n".join(program.stderr)


def test_sigterm_cuts_no_answer_that_is_being_sent(tmp_path: Path) -> None:
    """The task was recorded as done, and its worker got half of the answer."""
    entry = tmp_path / "alg.py"
    entry.write_text("def start(args, api):\n    return 'x' * 30_000_000\n")
    with serving_worker(tmp_path, "--grace", "60", entry=entry) as (client, program):
        client.initialize()
        client.expect("initialized")
        client.stop_reading()
        client.start()
        wait_until(lambda: has_record(tmp_path, "succeed"), what="the end of the task")
        family = {process for process in program.family() if process.pid != program.pid}
        program.send_signal(signal.SIGTERM)
        wait_until(lambda: not any(runs(process) for process in family), what="the end of its processes")
        client.go_on_reading()
        assert len(client.answer()["data"]) == 30_000_000
        assert program.wait() == 143
        client.wait_for_end()
        assert client.close_code == 1000


def test_sigterm_while_no_worker_is_there(tmp_path: Path) -> None:
    with (
        ScriptedWorker(listens=False) as worker,
        serving("--entry", OBEYS, "--url", worker.url, cwd=tmp_path) as program,
    ):
        program.wait_for_line("waiting for an HKube worker")
        program.send_signal(signal.SIGTERM)
        assert program.wait() == 143


def test_the_second_ctrl_c_kills_at_once(tmp_path: Path) -> None:
    with serving_worker(tmp_path, "--grace", "60") as (client, program):
        client.initialize(["hold the GIL"])
        client.expect("initialized")
        client.start()
        program.wait_for_line("start", stream="stdout")
        program.send_signal(signal.SIGINT)
        program.wait_for_line("stopping")
        program.send_signal(signal.SIGINT)
        assert program.wait() == 130
