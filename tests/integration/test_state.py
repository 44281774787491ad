"""What is kept of each task below .hkrunner, whatever becomes of the task."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from hkrunner.boards.runs.history import list_tasks
from hkrunner.boards.runs.task_output import read_log
from support.local import ALGORITHMS, run_tasks
from support.programs import run_hkrunner, serving
from support.served import serving_worker
from support.waiting import wait_until

# There for tasks that last long enough for one.
KEPT = {"task.json", "input.json", "stdout.log", "stderr.log", "metrics"}
SAMPLES = {"samples.jsonl"}


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_task_that_succeeded_is_kept(tmp_path: Path) -> None:
    run = run_tasks("adds.py", [1, 2], cwd=tmp_path)
    folder = tmp_path / ".hkrunner" / "tasks" / "t1"
    assert files(folder) - SAMPLES == KEPT | {"output.json"}
    assert (read(folder, "input.json"), read(folder, "output.json")) == ([1, 2], 3)
    record, told = read(folder, "task.json"), run.tasks[0]
    for name in ("taskId", "jobId", "nodeName", "pipelineName", "status", "startTime", "endTime"):
        assert record[name] == told[name]
    assert record["entry"] == "adds.py"
    # Below the state folder, which may be moved as a whole.
    assert (tmp_path / ".hkrunner" / record["metricsDir"]).is_dir()
    assert Path(record["metricsDir"]).is_relative_to("runs/local/adds")


@pytest.mark.parametrize(
    ("algorithm", "code"),
    [
        ("raises", "ALGORITHM_ERROR"),
        ("crashes_by_segfault", "KILLED_BY_SIGNAL"),
        ("exits_at_once", "EXITED"),
        ("closes_all_descriptors", "CHANNEL_BROKEN"),
    ],
)
def test_a_task_that_failed_is_kept(algorithm: str, code: str, tmp_path: Path) -> None:
    run_tasks(f"{algorithm}.py", ["misbehave"], cwd=tmp_path)
    folder = tmp_path / ".hkrunner" / "tasks" / "t1"
    assert files(folder) - SAMPLES == KEPT | {"error.json"}
    assert read(folder, "input.json") == ["misbehave"]
    assert read(folder, "error.json")["code"] == code
    assert read(folder, "task.json")["status"] == "failed"
    assert read(folder, "task.json")["error"] == read(folder, "error.json")


def test_a_task_that_was_stopped_is_kept(tmp_path: Path) -> None:
    with serving("-e", ALGORITHMS / "watches_for_a_stop.py", "-i", "[1]", cwd=tmp_path) as program:
        program.wait_for_line("at work")
        program.send_signal(signal.SIGTERM)
        assert program.wait() == 143
    folder = tmp_path / ".hkrunner" / "tasks" / "t1"
    assert read(folder, "task.json")["status"] == "stopped"
    assert (folder / "stdout.log").read_text() == "at work\nsaw the stop\n"


def test_a_run_that_is_killed_leaves_files_that_can_be_read(tmp_path: Path) -> None:
    with serving("-e", ALGORITHMS / "sleeps.py", "-i", '["behave"]', "-i", "[1]", cwd=tmp_path) as program:
        # What is shown is in the record.
        wait_until(lambda: program.stderr.count("asleep") == 2, what="the second task")
        folder = tmp_path / ".hkrunner" / "tasks" / "t2"
        program.send_signal(signal.SIGKILL)
        program.wait()
    assert read(folder, "input.json") == [1]
    assert read(folder, "task.json")["taskId"] == "t2"
    assert read(folder.parent / "t1", "task.json")["status"] == "succeed"
    # The next run works next to it.
    assert run_tasks("adds.py", [1], cwd=tmp_path).tasks[0]["taskId"] == "t3"


@pytest.mark.parametrize("encoding", ["json", "bson", "msgpack"])
def test_served_tasks_make_no_files_without_output(tmp_path: Path, encoding: str) -> None:
    with serving_worker(tmp_path, "--encoding", encoding, entry="counts_its_tasks.py") as (client, _):
        client.run(["first"])
        for number in range(20):
            client.run(["go", number], taskId=f"silent{number}")
        # On a busy machine some may last long enough for a curve, and get a folder.
        with_folder = {path.name for path in (tmp_path / ".hkrunner" / "tasks").iterdir()}
        silent = next(name for name in (f"silent{number}" for number in range(20)) if name not in with_folder)
        assert {path.name for path in (tmp_path / ".hkrunner" / "runs").glob("*/*/*/*")} == with_folder
        assert len(list((tmp_path / ".hkrunner" / "journal").iterdir())) == 1
    shown = run_hkrunner("runs", "logs", silent, cwd=tmp_path)
    assert (shown.status, shown.stdout) == (0, "")
    told = json.loads(run_hkrunner("runs", "show", silent, "--json", cwd=tmp_path).stdout)
    assert (told["status"], told["input"][0], told["files"]) == ("succeed", "go", {})
    assert told["output"][0] == told["input"][1] + 2 and told["durationMs"] > 0


@pytest.mark.parametrize("killed", ["hkrunner", "warden", "algorithm"])
def test_a_kill_loses_no_task_that_was_answered(tmp_path: Path, killed: str) -> None:
    with serving_worker(tmp_path, entry="sleeps.py") as (client, program):
        for number in range(3):
            client.run(["behave"], taskId=f"t{number}")
        client.initialize(["misbehave"], taskId="running")
        client.expect("initialized")
        client.start()
        wait_until(lambda: program.stdout.count("asleep") == 4, what="the fourth task")
        hkrunner = psutil.Process(program.pid)
        victims = [hkrunner, *hkrunner.children(recursive=True)]
        victims[("hkrunner", "warden", "algorithm").index(killed)].kill()
        if killed == "hkrunner":
            program.wait()
        else:
            client.expect("errorMessage")
            client.run(["behave"], taskId="next")
    listed = run_hkrunner("runs", "ls", "--json", cwd=tmp_path).stdout.splitlines()
    found = {one["name"]: one["status"] for one in map(json.loads, listed)}
    expected = {f"t{number}": "succeed" for number in range(3)}
    expected |= {"running": "lost"} if killed == "hkrunner" else {"running": "failed", "next": "succeed"}
    assert found == expected


def test_what_a_served_task_prints_is_recorded_at_once(tmp_path: Path) -> None:
    with serving_worker(tmp_path, entry="stops_when_asked.py") as (client, _):
        client.initialize([], taskId="loud")
        client.expect("initialized")
        client.start()
        # Two threads that print at once may mix their lines.
        root = tmp_path / ".hkrunner"
        wait_until(
            lambda: list_tasks(root) != [] and read_log(root, "loud", "stdout").data == b"at work\n",
            what="the first line",
        )
        client.stop()
        client.expect("stopped")
    shown = run_hkrunner("runs", "logs", "loud", cwd=tmp_path)
    assert shown.stdout.startswith("at work\nstop called"), shown


def test_task_numbers_continue_from_run_to_run(tmp_path: Path) -> None:
    names = [task["taskId"] for _ in range(2) for task in run_tasks("adds.py", [1], [2], cwd=tmp_path).tasks]
    assert names == ["t1", "t2", "t3", "t4"]


def test_two_runs_at_once_do_not_share_a_folder(tmp_path: Path) -> None:
    arguments = ["-e", ALGORITHMS / "sleeps.py", "-i", "[1]", "--grace", "0"]
    with serving(*arguments, cwd=tmp_path) as one, serving(*arguments, cwd=tmp_path) as two:
        one.wait_for_line("asleep")
        two.wait_for_line("asleep")
        assert files(tmp_path / ".hkrunner" / "tasks") == {"t1", "t2"}


def test_no_state_keeps_nothing(tmp_path: Path) -> None:
    run = run_tasks("adds.py", [1, 2], args=("--no-state",), cwd=tmp_path)
    assert run.outputs == [3]
    assert (run.tasks[0]["logs"], run.tasks[0]["metricsDir"]) == (None, None)
    assert not list(tmp_path.iterdir())


def test_without_records_there_is_a_folder_for_metrics_that_goes_with_the_run(tmp_path: Path) -> None:
    run = run_tasks("writes_its_metrics.py", 1, 2, args=("--no-state",), cwd=tmp_path)
    assert run.status == 0
    first, second = map(Path, run.outputs)
    assert first == second and not first.exists()


def test_the_folder_may_be_another(tmp_path: Path) -> None:
    run_tasks("adds.py", [1], args=("--state-dir", "one/two"), cwd=tmp_path)
    assert (tmp_path / "one" / "two" / "tasks" / "t1" / "task.json").is_file()
    run_tasks("adds.py", [1], cwd=tmp_path, env={"HKRUNNER_STATE_DIR": str(tmp_path / "three")})
    assert (tmp_path / "three" / "tasks" / "t1" / "task.json").is_file()
    assert files(tmp_path) == {"one", "three"}


@pytest.mark.parametrize("there", ["file", "below a file"])
def test_a_state_folder_that_cannot_be_made_does_not_fail_the_task(there: str, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    state = "taken" if there == "file" else "taken/state"
    ended = run_hkrunner("-e", ALGORITHMS / "adds.py", "-i", "[1, 2]", "--state-dir", state, cwd=tmp_path)
    assert (ended.status, ended.stdout) == (0, "3\n")
    assert "taken" in ended.stderr and "Traceback" not in ended.stderr


def test_a_state_folder_that_cannot_be_made_is_reported_in_one_true_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    args = ("--state-dir", str(tmp_path / "file" / "state"))
    run = run_tasks("writes_its_metrics.py", 1, args=args, cwd=tmp_path)
    done, kept, metrics = run.stderr.splitlines()
    assert "✔ t1 done" in done and "tasks/t1" not in done
    assert "the task cannot be kept" in kept and "Not a directory" in kept and "--state-dir DIR" in kept
    assert f"metrics of this task are in {run.outputs[0]}" in metrics
    assert Path(run.outputs[0], "metrics.txt").read_text() == "loss 1"
    shutil.rmtree(run.outputs[0])


WRITES_AND_SLEEPS = """
import os, time
def start(args):
    writes, sleeps = args["input"]
    if writes:
        open(os.environ["ALGO_METRICS_DIR"] + "/metrics.txt", "w").close()
    print("about to sleep", flush=True)
    time.sleep(sleeps)
"""


@pytest.mark.parametrize("writes", [True, False])
def test_the_temporary_folder_of_a_killed_run_is_removed_by_the_next_unless_it_has_metrics(
    writes: bool, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "alg.py").write_text(WRITES_AND_SLEEPS)
    folder = tmp_path / "temporary"
    folder.mkdir()
    args, env = ("-e", "alg.py", "--state-dir", "file/state"), {"TMPDIR": str(folder)}
    with serving(*args, "-i", f"[{int(writes)}, 60]", cwd=tmp_path, env=env) as program:
        program.wait_for_line("about to sleep")
        program.send_signal(signal.SIGKILL)
        assert program.wait() == -signal.SIGKILL
    (left,) = folder.iterdir()
    if not writes:  # a task that has lasted for a quarter of a second has curves
        for curves in left.iterdir():
            shutil.rmtree(curves)
    ended = run_hkrunner(*args, "-i", "[0, 0]", cwd=tmp_path, env=env)
    assert ended.status == 0, ended.stderr
    assert list(folder.iterdir()) == ([left] if writes else [])


def test_a_state_folder_that_vanishes_does_not_fail_the_task(tmp_path: Path) -> None:
    (tmp_path / "alg.py").write_text(
        "import os, shutil\n\ndef start(args):\n"
        "    while os.path.exists('.hkrunner'):  # it is written to, or made, meanwhile\n"
        "        shutil.rmtree('.hkrunner', ignore_errors=True)\n"
        "    return 'done'\n"
    )
    ended = run_hkrunner("-e", "alg.py", "-i", "1", "-i", "2", cwd=tmp_path)
    assert (ended.status, ended.stdout) == (0, '"done"\n"done"\n')
    assert "Traceback" not in ended.stderr


def test_metrics_of_each_task_have_a_folder_of_their_own(tmp_path: Path) -> None:
    run = run_tasks("says_who_it_is.py", [1], [2], cwd=tmp_path)
    assert len({task["metricsDir"] for task in run.tasks}) == 2
    assert all(output["metrics"] for output in run.outputs)
