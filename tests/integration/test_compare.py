"""`hkrunner compare`: a job in a cluster beside tasks that ran here. What `apply` says of their memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hkrunner.runner.app.local_peaks import LocalPeak
from support.boards import runs_of
from support.hkube_api import Failed, at_any_rate
from support.hkube_metrics import HkubeWithMetrics
from support.hkube_store import HkubeStore
from support.programs import Result, run_hkrunner
from support.waiting import wait_until

DESCRIPTOR = "name: sq\nenv: python\ncode: {path: ./, entryPoint: sq.py}\n"
USES_100_MIB = "def start(args):\n    return len(b'x' * (100 << 20))\n"


def algorithm(row: list[Any]) -> Any:
    if row[0] == "oom":
        raise Failed("OUT_OF_MEMORY: memory limit. 70 MiB used, 64 MiB allowed")
    return row[0]


@pytest.fixture
def cluster() -> Iterator[HkubeWithMetrics]:
    fake = HkubeWithMetrics(algorithm, prefix="/hkube/api-server", active_polls=0, per_second=1_000)
    with fake.running():
        yield fake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the algorithm sq, of which one task ran here."""
    (tmp_path / "algorithm.yml").write_text(DESCRIPTOR)
    (tmp_path / "sq.py").write_text(USES_100_MIB)
    assert run_hkrunner("sq.py", "-i", "1", "--mem", "600Mi", cwd=tmp_path).status == 0
    return tmp_path


def command(folder: Path, *words: str, status: int = 0) -> Result:
    ended = run_hkrunner(*words, cwd=folder, env=at_any_rate(folder.parent))
    assert ended.status == status, ended
    return ended


def test_a_job_stands_beside_local_tasks_in_a_table_in_json_and_in_one_board(
    cluster: HkubeWithMetrics, folder: Path, tmp_path: Path
) -> None:
    command(folder, "--on", cluster.url, *("-i", "3", "-i", '"oom"', "-i", "5"), status=137)
    cluster.add_metrics(tmp_path / "made")

    words = ("compare", "job000000001", "t1", "--board")
    facts = json.loads(command(folder, *words, "--json").stdout)
    try:
        assert (facts["status"], facts["tasks"], facts["failed"], facts["mem"]) == ("completed", 3, 1, "64Mi")
        there, here = facts["compared"][0], facts["compared"][3]
        assert there["durationMs"] == 7 and there["peakMemBytes"] is None and there["cpuSeconds"] is None
        assert here["peakMemBytes"] > 100 << 20 and here["memLimitBytes"] == 600 << 20
        fetched = sorted((folder / ".hkrunner" / "runs").rglob("events.out.tfevents.1"))
        assert [file.parent.name for file in fetched] == ["task0001", "task0003"]
        # The board is told when it answers, and loads the runs of the job one after the other.
        wait_until(lambda: len(runs_of(facts["board"])) >= 3, what="the runs of the job, and the one here")
        asked = len(cluster.requests)
        shown = command(folder, *words)
    finally:
        run_hkrunner("board", "stop", "--all", cwd=folder)
    assert not any("storage/stream" in one for one in cluster.requests[asked:]), "they are here already"
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert lines[1] == [
        "task0001",
        cluster.url,
        *["sq", "1", "0.01", "s", "?", "of", "64", "MiB", "?", "succeed"],
    ]
    assert lines[2][-2:] == ["failed", "(OUT_OF_MEMORY)"]
    assert lines[4][:3] == ["t1", "here", "sq"] and lines[4][-1] == "succeed"
    assert "of 600 MiB" in " ".join(lines[4])
    assert lines[5] == ["●", "board", facts["board"]]
    told = f"job job000000001 on {cluster.url}: completed in 0.50 s, 3 tasks, 1 failed; a task took"
    assert told in shown.stderr
    assert "neither the memory nor the CPU that a task used" in shown.stderr
    assert "MiB here, and sq has 64 MiB on" in shown.stderr
    command(folder, "runs", "rm", "job000000001")
    assert not list((folder / ".hkrunner" / "runs").rglob("events.out.tfevents.1"))

    (job,) = cluster.jobs
    named = json.loads(command(folder, "compare", job, "--on", cluster.url, "--json").stdout)
    assert named["algorithm"] == "sq" and len(named["compared"]) == 3, "a job that is not recorded here"


def test_what_cannot_be_compared_is_one_sentence(cluster: HkubeWithMetrics, folder: Path) -> None:
    for words, status, sentence in (
        (("nope",), 2, "no job nope is recorded in ./.hkrunner: name the cluster that has it with --on"),
        (("nope", "--on", cluster.url), 8, "does not know the job nope any more"),
        (("nope", "t7", "--on", cluster.url), 2, "there is no task t7"),
    ):
        ended = command(folder, "compare", *words, status=status)
        assert sentence in ended.stderr and len(ended.stderr.splitlines()) == 1, ended


def test_a_limit_that_a_local_run_shows_to_be_too_small_is_said_before_an_apply(folder: Path) -> None:
    for mem, is_too_small in (("64Mi", True), ("600Mi", False)):
        told = command(folder, "apply", "--dry-run", "--mem", mem).stderr
        assert (f"the memory limit {mem} is too small: task t1 used 1" in told) is is_too_small
    peak = LocalPeak("t2", 300 << 20)
    own = "the memory limit 256Mi, which HKube gives an algorithm without mem, is too small"
    assert peak.exceeds(None) == f"{own}: task t2 used 300 MiB here"
    assert peak.exceeds("300Mi") is None and peak.exceeds("lots") is None
    with HkubeStore().running() as store:
        for words in (("--mem", "90Mi"), ("--mem", "80Mi", "--dry-run")):
            told = command(folder, "apply", "--no-wait", "--on", store.url, *words).stderr
            assert f"the memory limit {words[1]} is too small: task t1 used 1" in told
        assert store.algorithms["sq"]["mem"] == "90Mi", "it was sent nevertheless"
