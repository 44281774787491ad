"""Which folder a board shows, by the ids that HKube gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hkrunner.boards.errors import NotFound
from hkrunner.boards.runs.store import Store
from hkrunner.boards.runs.task_ids import TaskIds
from hkrunner.boards.targets import (
    all_target,
    batch_target,
    find_target,
    node_target,
    nodes_of_job,
    pick_target,
    task_depth,
    task_target,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    store = Store(tmp_path)
    for ids in (
        TaskIds("t1", "j1", "train", "mnist"),
        TaskIds("t2", "j1", "train", "mnist"),
        TaskIds("t3", "j2", "train", "mnist"),
        TaskIds("t4", "j2", "test", "mnist"),
        TaskIds("a/b", "j/3", "no/de", "pipe/line"),
    ):
        store.open(ids, entry="a.py", started_at=1.0).finish({})
    store.close()
    return tmp_path


def test_a_task_board_shows_the_task(root: Path) -> None:
    target = task_target(root, "t1", job="j1")
    assert (target.id, target.type) == ("t1", "task")
    assert target.log_dir == root / "runs" / "mnist" / "train" / "j1" / "t1"
    assert (target.pipeline, target.node, target.job, target.task) == ("mnist", "train", "j1", "t1")
    assert task_target(root, "t1") == target


@pytest.mark.parametrize("place", ["/", "runs/../..", "tasks"])
def test_no_board_shows_a_folder_outside_runs_that_a_record_names(root: Path, place: str) -> None:
    file = root / "tasks" / "t1" / "task.json"
    file.write_text(json.dumps({**json.loads(file.read_bytes()), "metricsDir": place}))
    with pytest.raises(NotFound, match="the record of task t1 names a metrics folder outside"):
        task_target(root, "t1")


def test_a_batch_board_shows_all_tasks_of_the_jobs_node(root: Path) -> None:
    target = batch_target(root, "j1", "train")
    assert (target.id, target.type, target.pipeline) == ("j1:train", "batch", "mnist")
    assert target.log_dir == root / "runs" / "mnist" / "train" / "j1"


def test_a_node_board_shows_all_runs_of_the_node_and_may_be_empty(root: Path) -> None:
    assert node_target(root, "mnist", "train").log_dir == root / "runs" / "mnist" / "train"
    assert node_target(root, "mnist", "train").id == "mnist:train"
    assert node_target(root, "not", "there").log_dir == root / "runs" / "not" / "there"


def test_everything_is_one_board(root: Path) -> None:
    assert (all_target(root).id, all_target(root).log_dir) == ("all", root / "runs")


def test_names_that_cannot_be_paths_lead_to_their_tasks(root: Path) -> None:
    target = task_target(root, "a/b", job="j/3")
    assert target.log_dir.is_dir() and target.pipeline == "pipe/line" and target.node == "no/de"
    assert batch_target(root, "j/3", "no/de").id == "j/3:no/de"


def test_a_pick_names_tasks_as_shortly_as_it_can(root: Path) -> None:
    assert [name for name, _ in pick_target(root, ["t1", "t3"]).links] == ["t1", "t3"]
    store = Store(root)
    store.open(TaskIds("t1", "j9", "train", "mnist"), entry="a.py", started_at=1.0).finish({})
    store.close()
    (root / "runs" / "mnist" / "train" / "j9" / "t1.2").rename(
        root / "runs" / "mnist" / "train" / "j9" / "t1"
    )
    record = root / "tasks" / "t1.2" / "task.json"
    record.write_text(record.read_text().replace("j9/t1.2", "j9/t1"))
    assert [name for name, _ in pick_target(root, ["t1", "t1.2"]).links] == ["j1/t1", "j9/t1"]


def test_a_pick_is_the_same_board_in_any_order(root: Path) -> None:
    assert pick_target(root, ["t1", "t3"]) == pick_target(root, ["t3", "t1", "t1"])
    assert pick_target(root, ["t1", "t3"]).id != pick_target(root, ["t1", "t2"]).id


@pytest.mark.parametrize("names", [["t1", "t3"], ["j1/t1", "j9/t1"]])
def test_the_tasks_of_a_pick_are_its_links(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(tmp_path)
    assert task_depth("pick", tmp_path) == 1 + names[0].count("/")


def test_a_word_that_is_a_node_of_local_runs_is_told_how_it_is_shown(root: Path) -> None:
    store = Store(root)
    store.open(TaskIds("t5", "j5", "sums", "local"), entry="a.py", started_at=1.0).finish({})
    store.close()
    with pytest.raises(NotFound, match=r"neither a task nor a job sums in .*: --node sums"):
        find_target(root, "sums")


def test_a_task_without_metrics_is_there_and_has_none(root: Path) -> None:
    record = root / "tasks" / "t1" / "task.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "metricsDir": None}))
    with pytest.raises(NotFound, match="task t1 has no metrics folder"):
        find_target(root, "t1")


@pytest.mark.parametrize(("word", "id"), [("t1", "t1"), ("j1", "j1:train"), ("all", "all")])
def test_one_word_is_enough(root: Path, word: str, id: str) -> None:
    assert find_target(root, word).id == id


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda root: task_target(root, "t1", job="x"), "pipeline x Not Found"),
        (lambda root: task_target(root, "x", job="j1"), "No task x in job j1 undefined Not Found"),
        (lambda root: batch_target(root, "x", "train"), "pipeline x Not Found"),
        (lambda root: batch_target(root, "j1", "x"), "node x for job j1 Not Found"),
        (lambda root: task_target(root, "x"), "there is no task x in "),
        (lambda root: find_target(root, "x"), "there is neither a task nor a job x in "),
        (
            lambda root: find_target(root, "j2"),
            "job j2 ran more than one node: test, train; choose one with --node",
        ),
        (lambda root: pick_target(root, ["t1", "x"]), "there is no task x in "),
    ],
)
def test_what_is_not_there_is_named(root: Path, ask: Callable[[Path], object], message: str) -> None:
    with pytest.raises(NotFound) as caught:
        ask(root)
    assert str(caught.value).startswith(message)


def test_an_empty_state_folder_has_no_jobs(tmp_path: Path) -> None:
    assert nodes_of_job(tmp_path / "none", "j1") == []
