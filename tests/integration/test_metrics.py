"""What an algorithm writes to ALGO_METRICS_DIR belongs to its task, however it finds the folder."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hkrunner.boards.runs.event_files import read_scalars
from support.local import Run, run_tasks
from support.programs import Program, run_hkrunner, serving
from support.scripted_client import Client
from support.served import serving_worker
from support.waiting import wait_until
from support.worker_wire import TASK

TROUBLE = "metrics_and_trouble.py"
AFTER_FAILURE = "metrics_after_its_failure.py"
RESOURCES = {f"~resources/{name}" for name in ("cpu_cores", "memory_mib", "processes")}


def curves(task: str, *, cwd: Path) -> dict[str, int]:
    """How many points each tag of a task has, as `runs metrics` tells it."""
    ended = run_hkrunner("runs", "metrics", task, "--json", cwd=cwd)
    assert ended.status == 0, ended.stderr
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    return {one["tag"]: len(one["points"]) for one in found}


def losses(*tasks: str, cwd: Path) -> list[int]:
    """How many points the curve "loss" has in each task."""
    return [curves(task, cwd=cwd).get("loss", 0) for task in tasks]


# ---- how user code finds its folder (three tasks with 3, 4 and 5 points in one hot process)


def three_tasks(algorithm: str, *, cwd: Path) -> Run:
    run = run_tasks(algorithm, [3], [4], [5], cwd=cwd)
    assert [task["status"] for task in run.tasks] == ["succeed"] * 3, run
    return run


@pytest.mark.parametrize(
    "algorithm",
    [
        "metrics_names_its_folder.py",
        "metrics_read_at_import.py",
        "metrics_resolved_at_import.py",
        "metrics_one_writer.py",
        "metrics_from_a_subprocess.py",
    ],
)
def test_each_task_has_its_own_curve(algorithm: str, tmp_path: Path) -> None:
    run = three_tasks(algorithm, cwd=tmp_path)
    assert losses("t1", "t2", "t3", cwd=tmp_path) == [3, 4, 5]
    assert "metrics of this task went" not in run.stderr


def test_a_file_that_stays_open_across_tasks_is_reported_once(tmp_path: Path) -> None:
    run = three_tasks("metrics_one_open_file.py", cwd=tmp_path)
    # No path can lead an open file elsewhere: nothing is lost, and the place is reported.
    assert losses("t1", "t2", "t3", cwd=tmp_path) == [12, 0, 0]
    sentence = "metrics of this task went to task t1: the writer is created once; create it inside start()"
    assert run.stderr.count(sentence) == 1, run.stderr


def test_a_task_gets_the_path_of_its_own_folder_too(tmp_path: Path) -> None:
    run = run_tasks("metrics_names_its_folder.py", [1], [1], cwd=tmp_path)
    assert run.outputs == [task["metricsDir"] for task in run.tasks]
    assert len(set(run.outputs)) == 2


@pytest.mark.parametrize(
    "algorithm", ["metrics_names_its_folder.py", "metrics_read_at_import.py", "metrics_one_writer.py"]
)
def test_metrics_go_where_the_user_wants_them_and_nothing_there_is_touched(
    algorithm: str, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    (mine / "t2").mkdir(parents=True)
    (mine / "t2" / "events.of.mine").write_text("kept")
    run = run_tasks(algorithm, [3], [4], args=("--metrics-dir", str(mine)), cwd=tmp_path)
    folders = [Path(task["metricsDir"]) for task in run.tasks]
    assert folders == [mine / "t1", mine / "t2.2"], "one with files is not used again"
    assert all(any("tfevents" in path.name for path in folder.iterdir()) for folder in folders)
    assert losses("t1", "t2", cwd=tmp_path) == [3, 4], "boards and runs find them too"
    assert run_hkrunner("runs", "rm", "t1", cwd=tmp_path).status == 0
    assert any(folders[0].iterdir()) and (mine / "t2" / "events.of.mine").read_text() == "kept"


# ---- how tasks end


def test_a_folder_for_metrics_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def start(args):\n    return 1\n")
    ended = run_hkrunner("-e", "a.py", "-i", "1", "--metrics-dir", "a.py", cwd=tmp_path)
    assert (ended.status, ended.stdout) == (0, "1\n"), ended.stderr
    assert f"metrics cannot be kept in {tmp_path}/a.py" in ended.stderr, ended.stderr
    assert "--metrics-dir DIR keeps them elsewhere" in ended.stderr


def test_a_failed_task_keeps_its_metrics(tmp_path: Path) -> None:
    run = run_tasks(TROUBLE, ["raise"], cwd=tmp_path)
    assert run.tasks[0]["status"] == "failed"
    assert losses("t1", cwd=tmp_path) == [5]


def test_a_task_that_fails_at_once_shows_its_usage_and_one_that_succeeds_needs_no_file(
    tmp_path: Path,
) -> None:
    run = run_tasks("raises.py", ["misbehave"], *[["behave"]] * 5, cwd=tmp_path)
    assert [task["status"] for task in run.tasks] == ["failed"] + ["succeed"] * 5
    assert {"~resources/cpu_cores", "~resources/memory_mib"} <= set(curves("t1", cwd=tmp_path))
    # On a busy machine one may have lasted long enough to be measured.
    quickest = min(range(1, 6), key=lambda number: run.tasks[number]["durationMs"])
    assert curves(f"t{quickest + 1}", cwd=tmp_path) == {}


def test_a_task_killed_for_its_memory_keeps_its_metrics_and_its_curve(tmp_path: Path) -> None:
    run = run_tasks(TROUBLE, ["take memory"], args=("--mem", "160Mi"), cwd=tmp_path)
    assert run.status == 137, run.stderr
    found = curves("t1", cwd=tmp_path)
    assert found["loss"] == 5
    assert {*RESOURCES, "~resources/memory_limit_mib", "~resources/progress"} <= set(found)


def test_a_stopped_task_keeps_its_metrics(tmp_path: Path) -> None:
    with serving_worker(tmp_path, "--grace", "0.3", entry=TROUBLE) as (client, _):
        client.initialize(["sleep"])
        client.expect("initialized")
        client.start()
        has_metrics(tmp_path)
        client.stop()
        assert answer(client)["command"] == "stopped"
    assert losses(TASK["taskId"], cwd=tmp_path) == [5]


def test_nothing_is_lost_when_hkrunner_is_killed(tmp_path: Path) -> None:
    with serving(
        "--entry", Path(__file__).parents[1] / "algorithms" / TROUBLE, "-i", '["sleep"]', cwd=tmp_path
    ) as program:
        has_metrics(tmp_path)
        wait_until(lambda: is_measured(tmp_path), what="resource curves")
        os.kill(program.pid, signal.SIGKILL)
        program.wait()
    found = curves("t1", cwd=tmp_path)
    assert found["loss"] == 5 and set(found) >= RESOURCES
    listed = json.loads(run_hkrunner("runs", "ls", "--json", cwd=tmp_path).stdout)
    assert listed["status"] == "lost"


def has_metrics(cwd: Path) -> None:
    """The task has written its points, and says so."""
    logs = cwd / ".hkrunner" / "tasks"
    wait_until(lambda: any(path.stat().st_size for path in logs.rglob("stdout.log")), what="its line")


def is_measured(cwd: Path) -> bool:
    """The task's only run has the curves of its resources."""
    found = [*(cwd / ".hkrunner" / "runs").rglob("resources")]
    return bool(found) and set(read_scalars(found[0]).get(".", {})) >= RESOURCES


def answer(client: Client) -> dict[str, Any]:
    """The task's answer; its progress messages do not matter here."""
    while (message := client.receive())["command"] == "progress":
        pass
    return message


def run_task(client: Client, input: list[Any], task: str) -> dict[str, Any]:
    client.initialize(input, taskId=task)
    client.expect("initialized")
    client.start()
    return answer(client)


# ---- written between a task that failed at once, with no more than its usage to show, and the next one


@pytest.fixture(params=["its folder", "a cluster's volume"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """What hkrunner's own environment says of metrics."""
    return {} if request.param == "its folder" else {"ALGO_METRICS_DIR": str(tmp_path / "volume")}


def goes_on_with_metrics(client: Client) -> None:
    for number, what in enumerate(["write", "nothing", "write"], 1):
        assert run_task(client, [what], f"next{number}")["command"] == "done"


def check_metrics(first: str, program: Program, cwd: Path) -> None:
    """The failed task has this tag and its usage, later tasks their own, and nothing else is said or left."""
    assert tags("first", "next1", "next3", cwd=cwd) == [{first}, {"own"}, {"own"}]
    assert "~resources/memory_mib" in curves("first", cwd=cwd)
    assert not any("metrics cannot" in line or "metrics of this" in line for line in program.stderr)
    assert not (cwd / ".hkrunner/runs/earlier").exists()


def tags(*tasks: str, cwd: Path) -> list[set[str]]:
    """The user's tags of each task; one without any has nothing else either, or its usage."""
    return [{tag for tag in curves(task, cwd=cwd) if tag[0] != "~"} for task in tasks]


def test_what_a_thread_of_a_failed_task_writes_is_its_own_and_later_tasks_keep_theirs(
    tmp_path: Path, place: dict[str, str]
) -> None:
    gate = tmp_path / "gate"
    with serving_worker(tmp_path, entry=AFTER_FAILURE, env=place) as (client, program):
        assert run_task(client, ["fail", str(gate)], "first")["command"] == "errorMessage"
        gate.touch()
        wait_until((tmp_path / "gate.written").exists, what="its late metrics")
        goes_on_with_metrics(client)
    check_metrics("late", program, tmp_path)


def test_what_the_process_after_a_crash_writes_at_import_goes_there_and_later_tasks_keep_theirs(
    tmp_path: Path, place: dict[str, str]
) -> None:
    mark = tmp_path / "mark"
    with serving_worker(tmp_path, entry=AFTER_FAILURE, env={**place, "MARK": str(mark)}) as (client, program):
        program.wait_for_line("loaded")
        client.initialize(["crash"], taskId="first")
        client.expect("initialized")
        mark.touch()
        client.start()
        assert answer(client)["command"] == "errorMessage"
        wait_until((tmp_path / "mark.written").exists, what="the metrics of the import")
        goes_on_with_metrics(client)
    check_metrics("imported", program, tmp_path)


# ---- a cluster's volume


def test_a_clusters_folder_has_the_files_of_one_task_and_loses_none(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "events.of.a.task.before.us").write_text("unread")
    env = {"ALGO_METRICS_DIR": str(volume)}
    with serving_worker(tmp_path, entry=TROUBLE, env=env) as (client, _):
        for task in ("first", "second", "third"):
            # One file of TensorBoard's writer: the earlier tasks' are not uploaded again.
            assert run_task(client, ["leave it"], task) == {"command": "done", "data": 1}
            assert len(list(volume.iterdir())) == 1
    assert losses("first", "second", "third", cwd=tmp_path) == [5, 5, 5]
    (found,) = (tmp_path / ".hkrunner" / "runs" / "earlier").rglob("events.of.a.task.before.us")
    assert found.read_text() == "unread"


def test_a_failed_task_in_the_cluster_keeps_its_metrics_too(tmp_path: Path) -> None:
    env = {"ALGO_METRICS_DIR": str(tmp_path / "volume")}
    with serving_worker(tmp_path, entry=TROUBLE, env=env) as (client, _):
        assert run_task(client, ["raise"], "first")["command"] == "errorMessage"
        assert run_task(client, ["leave it"], "second") == {"command": "done", "data": 1}
    assert losses("first", "second", cwd=tmp_path) == [5, 5]


# ---- our own series


def test_resources_are_curves_beside_the_users_own(tmp_path: Path) -> None:
    until = tmp_path / "enough"
    with serving_worker(tmp_path, "--mem", "1Gi", entry=TROUBLE) as (client, _):
        client.initialize(["wait", str(until)])
        client.expect("initialized")
        client.start()
        wait_until(lambda: is_measured(tmp_path), what="resource curves")
        until.touch()
        assert answer(client)["command"] == "done"
    found = curves(TASK["taskId"], cwd=tmp_path)
    assert set(found) == {"loss", "~resources/memory_limit_mib", "~resources/progress", *RESOURCES}
