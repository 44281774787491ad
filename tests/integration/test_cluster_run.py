"""`hkrunner run --on`: inputs as one job in a cluster, printed as those of a local run; and `runs follow`."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.hkube_api import Failed, Fault, HkubeApi, Stored
from support.local import ALGORITHMS
from support.programs import HKRUNNER, Result, run, run_hkrunner, serving
from support.waiting import wait_until

DESCRIPTOR = "name: sq\nenv: python\ncode: {path: ./, entryPoint: sq.py}\n"
#: What hkrunner and HKube's wrappers store before a value in msgpack, and before bytes.
HEADER, BYTES_HEADER = bytes((1, 8, 2, 3, 0, 0)) + b"HK", bytes((1, 8, 1, 3, 0, 0)) + b"HK"
#: Inputs of which every form is a special case somewhere on the way.
ODD = [
    "[1, 2.50, 1e3]",
    "[]",
    '"@flowInput"',
    '["$$x"]',
    "[[]]",
    "[{}]",
    "[null]",
    '{"ä": "\\u00e4"}',
    "[[1, 2]]",
]


def algorithm(row: list[Any]) -> Any:
    """Do what the first argument says."""
    what = row[0] if row else None
    if what == "fail":
        raise Failed(
            "ALGORITHM_ERROR: ValueError: no such column: age (sq.py:4 in start)\n  sq.py:4 in start"
        )
    if what == "oom":
        raise Failed("OUT_OF_MEMORY: memory limit. 514 MiB used, 512 MiB allowed")
    if what == "foreign":
        raise Failed("no such column: age")
    if what == "large":
        return Stored(HEADER + msgspec.msgpack.encode(["x" * 200_000, 1.5]))
    if what == "large bytes":
        return Stored(BYTES_HEADER + b"\x00" * 150_000)
    if what == "buffer":
        return {"type": "Buffer", "data": [0, 255]}
    return row


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an algorithm, sq."""
    (tmp_path / "algorithm.yml").write_text(DESCRIPTOR)
    for name in ("sq.py", "other.py"):
        (tmp_path / name).write_text((ALGORITHMS / "gives_its_input_back.py").read_text())
    return tmp_path


@pytest.fixture
def cluster() -> Iterator[HkubeApi]:
    """A cluster with the algorithm sq, and HKube's own rate of requests."""
    fake = HkubeApi(algorithm, prefix="/hkube/api-server", encoding="msgpack", active_polls=0)
    with fake.running():
        yield fake
        assert fake.refused_by_rate == 0


def on(cluster: HkubeApi, folder: Path, *args: str, **more: Any) -> Result:
    cluster.expect_another_client()
    ended = run_hkrunner("run", "--on", cluster.url, *args, cwd=folder, **more)
    assert "Traceback" not in ended.stderr, ended
    return ended


def inputs(*values: str) -> list[str]:
    return [word for value in values for word in ("-i", value)]


def test_a_job_prints_what_a_local_run_prints(cluster: HkubeApi, folder: Path) -> None:
    here = run_hkrunner("sq.py", *inputs(*ODD), cwd=folder)
    there = on(cluster, folder, "sq.py", *inputs(*ODD))
    assert there.status == here.status == 0, there
    assert [json.loads(line) for line in there.stdout.splitlines()] == [
        json.loads(line) for line in here.stdout.splitlines()
    ]
    assert len(cluster.jobs) == 1
    assert f"● job job000000001 on {cluster.url}: {len(ODD)} tasks of sq" in there.stderr
    assert "✔ job job000000001 completed in 0.50 s" in there.stderr
    ((_, pipeline),) = cluster.bodies
    assert [node["nodeName"] for node in pipeline["nodes"]] == ["sq-3", "sq-none-1", "sq"]
    assert pipeline["options"] == {"batchTolerance": 100, "ttl": 2_592_000}, "HKube stops it after an hour"


def test_failures_and_large_results_are_told_by_task(cluster: HkubeApi, folder: Path) -> None:
    values = ['"fail"', '"large"', '"large bytes"', '"buffer"', "7", '"oom"', '"foreign"']
    ended = on(cluster, folder, *inputs(*values), "--json")
    assert ended.status == 137, "the highest one, of the memory limit"
    results = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [one["inputIndex"] for one in results] == list(range(7))
    assert [one["status"] for one in results] == ["failed", *["succeed"] * 4, "failed", "failed"]
    assert [one["output"] for one in results[1:5]] == [["x" * 200_000, 1.5], "A" * 200_000, "AP8=", [7]]
    assert [one["error"]["code"] for one in (results[0], *results[5:])] == [
        "ALGORITHM_ERROR",
        "OUT_OF_MEMORY",
        "ALGORITHM_ERROR",
    ]
    assert {(one["jobId"], one["nodeName"], one["durationMs"]) for one in results} == {
        ("job000000001", "sq", 7.0)
    }
    assert results[0]["taskId"] == "task0001"
    assert "✘ task task0001 failed (sq, input 1): ALGORITHM_ERROR: ValueError: no such column" in ended.stderr
    assert "✘ task task0007 failed (sq, input 7): no such column: age" in ended.stderr


def test_a_job_whose_tasks_have_all_failed_still_has_a_result_for_each(
    cluster: HkubeApi, folder: Path
) -> None:
    ended = on(cluster, folder, *inputs('"fail"', '"foreign"'), "--output", "jsonl")
    assert ended.status == 1
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [one["event"] for one in events if one["event"] not in ("progress", "warning")] == [
        "submitted",
        "errorMessage",
        "errorMessage",
    ]
    assert (
        "✘ job job000000001 failed in 0.50 s: 2/2 (100%) failed tasks, batch tolerance is 100%\n"
        in ended.stderr
    )


def test_a_lost_answer_does_not_submit_a_second_job(cluster: HkubeApi, folder: Path) -> None:
    cluster.faults = [Fault("POST .*exec/raw", is_done=True, close="before")]
    ended = on(cluster, folder, *inputs("3"))
    assert (ended.status, ended.stdout) == (0, "[3]\n"), ended
    assert len(cluster.jobs) == 1
    assert sum("exec/raw" in one for one in cluster.requests) == 1
    assert sum("exec/search" in one for one in cluster.requests) == 1


def test_an_outage_while_the_job_runs_is_waited_for(cluster: HkubeApi, folder: Path) -> None:
    cluster.faults = [Fault("GET .*exec/status", 502, b"<html>"), Fault("GET .*exec/results", close="within")]
    ended = on(cluster, folder, *inputs("3"))
    assert (ended.status, ended.stdout) == (0, "[3]\n"), ended
    assert "is not reached" in ended.stderr and "answers again" in ended.stderr


def test_ctrl_c_stops_the_job_and_says_so(cluster: HkubeApi, folder: Path) -> None:
    cluster.active_polls = 1_000_000
    with serving("run", "--on", cluster.url, *inputs("3"), cwd=folder) as program:
        wait_until(lambda: any("exec/status" in one for one in cluster.requests), what="the job runs")
        program.send_signal(signal.SIGINT)
        assert program.wait() == 130, program.report()
    assert program.stderr[-1] == "■ job job000000001 stopped"
    assert cluster.jobs["job000000001"].reason is None, "the API has no field for it"
    assert cluster.jobs["job000000001"].status == "stopped"


@pytest.mark.parametrize("is_done", [False, True])
def test_ctrl_c_stops_the_job_although_the_first_request_fails_in_the_server(
    cluster: HkubeApi, folder: Path, is_done: bool
) -> None:
    cluster.active_polls = 1_000_000
    text = b'{"error": {"code": 500, "message": "A conflict occurred executing the software transaction"}}'
    cluster.faults = [Fault("POST .*exec/stop", 500, text, is_done=is_done)]
    with serving("run", "--on", cluster.url, *inputs("3"), cwd=folder) as program:
        wait_until(lambda: any("exec/status" in one for one in cluster.requests), what="the job runs")
        program.send_signal(signal.SIGINT)
        assert program.wait() == 130, program.report()
    assert program.stderr[-1] == "■ job job000000001 stopped"
    assert cluster.jobs["job000000001"].status == "stopped"


def test_ctrl_c_before_there_is_a_job_ends_at_once(cluster: HkubeApi, folder: Path) -> None:
    with (
        cluster._lock,  # no answer while this is held
        serving("run", "--on", cluster.url, *inputs("3"), cwd=folder) as program,
    ):
        wait_until(lambda: cluster.waiting == 1, what="the first request waits")
        program.send_signal(signal.SIGINT)
        assert program.wait() == 130, program.report()
    assert program.stderr[-2:] == [
        "■ stopping; Ctrl-C again ends at once, and leaves the job as it is",
        "■ nothing was submitted",
    ]
    assert not cluster.jobs and not list((folder / ".hkrunner").rglob("*.json"))


def test_a_job_that_is_left_there_is_listed_and_followed(cluster: HkubeApi, folder: Path) -> None:
    left = on(cluster, folder, *inputs("3", '"fail"'), "--detach")
    assert (left.status, left.stdout) == (0, "job000000001\n"), left
    assert "◌ hkrunner runs follow job000000001" in left.stderr
    listed = run_hkrunner("runs", "ls", cwd=folder)
    assert "active     job on" in listed.stdout and "2 tasks of sq" in listed.stdout
    cluster.expect_another_client()
    followed = run_hkrunner("runs", "follow", "job000000001", cwd=folder)
    assert (followed.status, followed.stdout) == (1, "[3]\n"), followed
    shown = json.loads(run_hkrunner("runs", "show", "job000000001", "--json", cwd=folder).stdout)
    assert {key: shown[key] for key in ("kind", "status", "tasks", "algorithm", "durationMs")} == {
        "kind": "job",
        "status": "completed",
        "tasks": 2,
        "algorithm": "sq",
        "durationMs": 500.0,
    }
    assert run_hkrunner("runs", "rm", "job000000001", cwd=folder).status == 0
    assert run_hkrunner("runs", "ls", cwd=folder).stdout == ""
    unknown = run_hkrunner("runs", "follow", "nope", cwd=folder)
    assert unknown.status == 2 and "there is no job nope" in unknown.stderr


def test_a_job_that_another_user_stops_is_no_success(cluster: HkubeApi, folder: Path) -> None:
    cluster.active_polls = 1_000_000
    with serving("run", "--on", cluster.url, *inputs("3"), cwd=folder) as program:
        wait_until(lambda: any("exec/status" in one for one in cluster.requests), what="the job runs")
        cluster.stop({"jobId": "job000000001"}, "")
        assert program.wait() == 8, program.report()
    assert "✘ job job000000001 stopped in 0.50 s" in program.stderr


@pytest.mark.parametrize(
    ("args", "status", "sentence"),
    [
        (["--algorithm", "nope"], 3, "has no algorithm nope: send it there with `hkrunner apply --on "),
        (["--algorithm", "a/b"], 2, "--algorithm a/b: HKube's names have 2 to 32 of a-z, 0-9, dash"),
        (
            ["other.py"],
            2,
            "runs the algorithm sq, whose code is sq.py as algorithm.yml says, and not other.py: ",
        ),
        (["gone.py"], 3, "ENTRY_NOT_FOUND: no file gone.py in "),
        (["--mem", "1Gi"], 2, "--mem is for tasks on this machine (--on local), and --on runs"),
        (["--algorithm", "a=b.py"], 2, "--algorithm NAME, without a file"),
        (["--on", "lab"], 2, "clusters.yml with clusters by name; give a URL, or make it"),
        (["--on", "http://127.0.0.1:9"], 8, "http://127.0.0.1:9 cannot be reached: connection refused"),
        (["--on", "local", "--detach"], 2, "--detach leaves a job in a cluster: give --on with it"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_run_there_is_one_sentence(
    args: list[str], status: int, sentence: str, cluster: HkubeApi, folder: Path
) -> None:
    env = {"XDG_CONFIG_HOME": str(folder)}
    ended = on(cluster, folder, *inputs("3"), *args, env=env)
    assert ended.status == status, ended
    assert sentence in ended.stderr and ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    assert not list((folder / ".hkrunner").rglob("*.json")), "no record of what was not submitted"


def test_a_variable_names_the_cluster_but_serving_stays_here(cluster: HkubeApi, folder: Path) -> None:
    env = {"HKRUNNER_CLUSTER": cluster.url}
    assert run_hkrunner("sq.py", *inputs("3"), cwd=folder, env=env).stdout == "[3]\n"
    assert len(cluster.jobs) == 1
    here = run_hkrunner("sq.py", *inputs("3"), "--on", "local", cwd=folder, env=env)
    assert "t1 done" in here.stderr and len(cluster.jobs) == 1
    again = run_hkrunner("runs", "again", "t1", "--mem", "256Mi", cwd=folder, env=env)
    assert "t2 done" in again.stderr and len(cluster.jobs) == 1
    library = "import hkrunner; print(hkrunner.run('sq.py', [3])[0].output)"
    called = run([sys.executable, "-c", library], cwd=folder, env=env)
    assert called.stdout == "[3]\n" and len(cluster.jobs) == 1, called
    url = ("--url", "ws://127.0.0.1:9", "--connect-timeout", "0")
    assert run_hkrunner("sq.py", *url, cwd=folder, env=env).status == 5
    (folder / "algorithm.yml").unlink()
    nameless = run_hkrunner("sq.py", *inputs("3"), cwd=folder, env=env)
    assert nameless.status == 2 and "which algorithm of the cluster?" in nameless.stderr


#: Runs a command, and writes its largest resident size to stderr.
MEASURE = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(status)
"""


def test_ten_thousand_inputs_are_one_job_and_little_memory(cluster: HkubeApi, folder: Path) -> None:
    cluster.active_polls = 3
    (folder / "in.jsonl").write_text("".join(f'{{"n": {number}}}\n' for number in range(10_000)))
    command = [
        sys.executable,
        "-c",
        MEASURE,
        HKRUNNER,
        "run",
        "--on",
        cluster.url,
        "--tasks",
        "in.jsonl",
        "--json",
    ]
    ended = run(command, cwd=folder)
    assert ended.status == 0, ended.stderr
    results = [json.loads(line)["output"] for line in ended.stdout.splitlines()]
    assert results == [[{"n": number}] for number in range(10_000)]
    assert len(cluster.jobs) == 1
    assert int(ended.stderr.splitlines()[-1]) < 150_000, "kilobytes"
