"""`hkrunner run --on --board`: a job that has ended in a board of the cluster, opened in the browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hkrunner.runner.cluster import boards
from hkrunner.runner.cluster.address import Cluster
from hkrunner.runner.cluster.api import ClusterApi
from hkrunner.runner.errors import ClusterError
from support.boards import recording_browser, visited
from support.clock import Clock
from support.hkube_api import at_any_rate
from support.hkube_metrics import HkubeWithMetrics
from support.local import ALGORITHMS
from support.programs import run_hkrunner
from support.waiting import wait_until

BOARD = "job000000001:sq"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "algorithm.yml").write_text("name: sq\ncode: {path: ./, entryPoint: sq.py}\n")
    (tmp_path / "sq.py").write_text((ALGORITHMS / "gives_its_input_back.py").read_text())
    return tmp_path


@pytest.fixture
def cluster() -> Iterator[HkubeWithMetrics]:
    fake = HkubeWithMetrics(lambda row: row, prefix="/hkube/api-server", active_polls=0, per_second=1_000)
    with fake.running():
        yield fake


def test_the_board_of_the_cluster_is_told_and_opened(cluster: HkubeWithMetrics, folder: Path) -> None:
    address = f"{cluster.url}/hkube/board/ref0/"
    words = ("--on", cluster.url, "-i", "3", "-i", "5", "--board", "--open")
    env = at_any_rate(folder.parent)
    ended = run_hkrunner(*words, cwd=folder, env={**env, **recording_browser(folder)})
    assert (ended.status, ended.stdout) == (0, "[3]\n[5]\n"), ended
    assert f"◌ {cluster.url} starts the board {BOARD}\n● board {BOARD}  {address}\n" in ended.stderr
    wait_until(lambda: visited(folder) == [address], what="a visit")  # after a second it is not waited for
    left = run_hkrunner("--on", cluster.url, "-i", "3", "--detach", "-q", cwd=folder, env=env)
    followed = run_hkrunner("runs", "follow", left.stdout.strip(), "--board", cwd=folder, env=env)
    assert f"● board job000000002:sq  {cluster.url}/hkube/board/ref1/" in followed.stderr, followed
    again = run_hkrunner("runs", "follow", left.stdout.strip(), "--board", cwd=folder, env=env)
    assert "hkube/board/ref1/" in again.stderr and again.status == 0, "one that runs is taken"


def test_a_job_with_several_nodes_has_a_board_for_each(
    cluster: HkubeWithMetrics, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HkubeWithMetrics, "board_states", [{"status": "running"}])
    words = ("-i", "[]", "-i", "[1]", "-i", "[1, 2]", "--board", "--output", "jsonl")
    ended = run_hkrunner("--on", cluster.url, *words, cwd=folder)
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    found = [one for one in events if one["event"] == "board"]
    assert [one["id"] for one in found] == list(cluster.boards), ended
    assert len(found) == len({one["url"] for one in found}) > 1


def test_a_board_that_does_not_start_leaves_the_results_and_has_a_status_of_its_own(
    cluster: HkubeWithMetrics, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = [{"status": "pending", "error": "pods are forbidden: exceeded quota"}]
    monkeypatch.setattr(HkubeWithMetrics, "board_states", states)
    ended = run_hkrunner("--on", cluster.url, "-i", "3", "--board", cwd=folder)
    assert (ended.status, ended.stdout) == (6, "[3]\n"), ended
    assert f"✘ no board: {cluster.url} does not start the board {BOARD}: pods are forbidden" in ended.stderr


def test_a_board_cannot_be_asked_for_when_the_job_is_left(cluster: HkubeWithMetrics, folder: Path) -> None:
    ended = run_hkrunner("--on", cluster.url, "-i", "3", "--board", "--detach", cwd=folder)
    assert ended.status == 2 and "give it to `hkrunner runs follow`" in ended.stderr, ended
    assert not cluster.jobs


class Records:
    """An API that has this record of each board."""

    def __init__(self, record: Any, base_url: str = "https://lab/x/hkube/api-server") -> None:
        self.record, self.base_url = record, base_url
        self.cluster = Cluster("lab", "https://lab")

    def post(self, *_: object, **__: object) -> object:
        return {}

    def get(self, _: str) -> Any:
        return self.record


def start(api: Any) -> boards.ClusterBoard:
    clock = Clock()

    def pause(seconds: float) -> None:
        clock.now += seconds

    return boards.start_board(api, "job1", "sq", pause=pause, clock=clock)


def test_the_address_of_a_board_is_beside_the_api_at_the_ingress() -> None:
    record = {"status": "running", "boardLink": "hkube/board/ab12/"}
    assert start(Records(record)).url == "https://lab/x/hkube/board/ab12/"
    with pytest.raises(ClusterError, match="/hkube/board/ab12/ of the ingress of lab, whose address is not"):
        start(Records(record, "http://10.0.0.1:3000"))
    assert ClusterApi(Cluster("lab", "https://lab/x/hkube/api-server")).base_url.startswith("https://lab/x/")


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"status": "creating"}, "has not started the board job1:sq within 180 s: it is creating"),
        ({"status": "stopped"}, "does not start the board job1:sq: stopped"),
        ({"status": "running", "boardLink": "//evil.example/x"}, "without a usable address"),
        ({"status": "running", "boardLink": "hkube/board/../../x"}, "without a usable address"),
        ({"status": "running", "boardLink": 7}, "without a usable address"),
        ({"status": ["\x1b[2J"]}, "has not started the board"),
        ([], "has not started the board"),
        ("text", "has not started the board"),
    ],
)
def test_whatever_the_cluster_says_of_a_board_is_one_sentence(record: Any, sentence: str) -> None:
    with pytest.raises(ClusterError, match=sentence) as caught:
        start(Records(record))
    assert str(caught.value).isprintable()
