"""hkrunner.run(on=): the tasks of a Python program as one job in a cluster, as those of `run --on`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hkrunner
import msgspec
import pytest
from support.hkube_api import Failed, HkubeApi, Stored
from support.programs import Program, run_hkrunner
from support.waiting import wait_until

HEADER = bytes((1, 8, 2, 3, 0, 0)) + b"HK"
CALL = "import hkrunner, sys; hkrunner.run(None, [3], on=sys.argv[1])"


def algorithm(row: list[Any]) -> Any:
    if row == ["fail"]:
        raise Failed("OUT_OF_MEMORY: memory limit. 514 MiB used, 512 MiB allowed\n  sq.py:4 in start")
    if row == ["large"]:
        return Stored(HEADER + msgspec.msgpack.encode("x" * 200_000))
    return row


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "algorithm.yml").write_text("name: sq\nenv: python\ncode: {path: ./, entryPoint: sq.py}\n")
    (tmp_path / "sq.py").write_text("def start(args, api):\n    raise SystemExit('it runs here')\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cluster() -> Iterator[HkubeApi]:
    fake = HkubeApi(algorithm, encoding="msgpack")
    with fake.running():
        yield fake


def test_a_job_gives_typed_results_and_the_events_of_the_command(cluster: HkubeApi, folder: Path) -> None:
    events: list[Any] = []
    results = hkrunner.run(
        "sq.py", [3, "fail", "large", [1, {"a": None}]], on=cluster.url, on_event=events.append
    )
    assert [one.output for one in results] == [[3], None, "x" * 200_000, [1, {"a": None}]]
    assert [one.input_index for one in results] == [0, 1, 2, 3]
    assert {(one.job_id, one.duration_s) for one in results} == {("job000000001", 0.007)}
    failed = results[1]
    assert (failed.status, failed.reason) == ("failed", "MemoryLimit")
    assert failed.error is not None and failed.error.code == "OUT_OF_MEMORY"
    assert (failed.peak_bytes, failed.cpu_s, failed.logs, failed.metrics_dir) == (None, None, None, None)
    with pytest.raises(hkrunner.TaskFailed, match="memory limit"):
        failed.raise_for_status()
    assert "OUT_OF_MEMORY" in results._repr_html_()

    printed = run_hkrunner(
        *("run", "--on", cluster.url, "--output", "jsonl"),
        *("-i", "3", "-i", '"fail"', "-i", '"large"', "-i", '[1, {"a": null}]'),
        cwd=folder,
    )
    assert printed.status == 137
    named = [one.name for one in events if isinstance(one, hkrunner.RunEvent)]
    assert named[:2] == ["submitted", "progress"]
    for name in {*named, '"taskId":"task0002"'}:
        assert name in printed.stdout
    assert [one for one in events if isinstance(one, hkrunner.TaskResult)] == results
    # The descriptor names the algorithm also without a file.
    assert [one.output for one in hkrunner.run(None, [3], on=cluster.url)] == [[3]]


def test_another_algorithm_of_the_cluster_needs_no_file(cluster: HkubeApi, folder: Path) -> None:
    (folder / "algorithm.yml").unlink()
    (folder / "sq.py").unlink()
    (result,) = hkrunner.run(None, [5], on=cluster.url, algorithm="sq")
    assert result.output == [5]
    with pytest.raises(hkrunner.EntryNotFound, match="has no algorithm other"):
        hkrunner.run(None, [5], on=cluster.url, algorithm="other")
    with pytest.raises(hkrunner.SettingsError, match=r"which algorithm of the cluster"):
        hkrunner.run(None, [5], on=cluster.url)


def test_what_cannot_be_run_there_is_raised_in_one_sentence(cluster: HkubeApi) -> None:
    with pytest.raises(hkrunner.ClusterError, match=r"^http://127.0.0.1:9 cannot be reached: connection re"):
        hkrunner.run("sq.py", [3], on="http://127.0.0.1:9")
    with pytest.raises(hkrunner.SettingsError, match=r"^--mem is for tasks on this machine"):
        hkrunner.run("sq.py", [3], on=cluster.url, mem="1Gi")
    with pytest.raises(hkrunner.SettingsError, match=r"^env sets variables on this machine"):
        hkrunner.run("sq.py", [3], on=cluster.url, env={"A": "1"})
    assert hkrunner.run("sq.py", [], on="local") == []
    assert not cluster.jobs


def test_an_exception_in_on_event_stops_the_job(cluster: HkubeApi) -> None:
    cluster.active_polls = 1_000_000

    def leave(event: object) -> None:
        if isinstance(event, hkrunner.RunEvent) and event.name == "progress":
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        hkrunner.run("sq.py", [3], on=cluster.url, on_event=leave)
    assert cluster.jobs["job000000001"].status == "stopped"


def test_ctrl_c_stops_the_job_and_is_raised_as_keyboard_interrupt(cluster: HkubeApi) -> None:
    cluster.active_polls = 1_000_000
    with Program([sys.executable, "-c", CALL, cluster.url]) as program:
        wait_until(lambda: any("exec/status" in one for one in cluster.requests), what="the job runs")
        program.send_signal(signal.SIGINT)
        program.wait()
    assert cluster.jobs["job000000001"].status == "stopped"
    assert "KeyboardInterrupt" in program.stderr[-1], program.report()
