"""`hkrunner run --dry-run`: what would be done, and nothing is."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from support.programs import run_hkrunner

CODE = "open('was_run', 'w')\ndef start(args): ...\n"
CLEAN: dict[str, str | None] = {"ALGO_METRICS_DIR": None, "WORKER_SOCKET_URL": None}


def plan(cwd: Path, *args: str | Path, env: dict[str, str | None] | None = None) -> dict[str, Any]:
    """Return the object of --json."""
    ended = run_hkrunner("--dry-run", "--json", *args, cwd=cwd, env={**CLEAN, **(env or {})})
    assert (ended.status, ended.stderr) == (0, ""), ended
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


def test_a_local_run_is_reported_and_nothing_is_started_or_written(tmp_path: Path) -> None:
    (tmp_path / "my_alg.py").write_text(CODE)
    args = ("run", "my_alg.py:start", "-i", "1", "-i", "[2]", "--timeout", "3", "--dry-run")
    ended = run_hkrunner(*args, cwd=tmp_path, env=CLEAN)
    assert (ended.status, ended.stderr) == (0, "")
    first, *rows = ended.stdout.splitlines()
    assert first == "would run 2 tasks locally, and end"
    assert "  limit      task 3 s (--timeout)" in rows
    assert f"  folder     {tmp_path}" in rows
    assert f"  state      {tmp_path}/.hkrunner" in rows
    assert [one.name for one in tmp_path.iterdir()] == ["my_alg.py"]
    assert f"  variable   ALGO_METRICS_DIR={tmp_path}/.hkrunner/…" in rows


def test_serving_is_reported_with_the_url_of_the_worker(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(CODE)
    told = plan(tmp_path, "--encoding", "bson", env={"WORKER_SOCKET_URL": "ws://10.0.0.7:3001"})
    assert (told["local"], told["tasks"]) == (False, None)
    assert told["url"] == "ws://10.0.0.7:3001?storage=v1&encoding=bson"
    assert told["limits"] == []


def test_each_limit_tells_where_it_comes_from(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(CODE)
    (tmp_path / "algorithm.yml").write_text("name: my-alg\nmem: 512Mi\nalgorithmEnv: {MODEL: small}\n")
    env: dict[str, str | None] = {
        "HKRUNNER_CPU": "1.5",
        "HKRUNNER_PIDS": None,
        "HKRUNNER_MEM": None,
        "MKL_NUM_THREADS": None,
        "OMP_NUM_THREADS": None,
    }
    told = plan(tmp_path, "--files", "100", "-E", "SIZE=3", env=env)
    limits = {one["name"]: (one["shown"], one["from"]) for one in told["limits"]}
    assert limits == {
        "cpu": ("1.5 cores", "HKRUNNER_CPU"),
        "memory": ("512 MiB", "mem: in algorithm.yml"),
        "open files": ("100", "--files"),
    }
    assert told["descriptor"] == str(tmp_path / "algorithm.yml")
    assert (told["env"]["MODEL"], told["env"]["SIZE"]) == ("small", "3")
    assert told["env"]["MKL_NUM_THREADS"] == "2"


def test_packed_code_is_looked_at_and_not_unpacked_here(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
        archive.writestr("go.py", CODE)
    (tmp_path / "algorithm.yml").write_text("name: my-alg\ncode: {path: code.zip, entryPoint: go.py}\n")
    told = plan(tmp_path)
    assert (told["entry"], told["folder"]) == ("go.py", str(tmp_path / "code.zip"))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["algorithm.yml", "code.zip"]


def test_inputs_from_stdin_are_left_to_be_read(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(CODE)
    ended = run_hkrunner("--dry-run", "-i", "-", cwd=tmp_path, input="[1]")
    assert ended.stdout.startswith("would run the tasks from stdin locally")


def test_a_dry_run_refuses_what_the_run_would_refuse(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(CODE)
    assert run_hkrunner("--dry-run", "nope.py", cwd=tmp_path).status == 3
    assert run_hkrunner("--dry-run", "-i", "hello", cwd=tmp_path).status == 2
    assert run_hkrunner("--dry-run", "--mem", "12", cwd=tmp_path).status == 2


def test_a_stream_pipeline_is_reported_with_each_node_and_algorithm(tmp_path: Path) -> None:
    for name in ("source", "sink"):
        (tmp_path / f"{name}.py").write_text(CODE)
    (tmp_path / "sink.yml").write_text(
        "name: sink\nmem: 128Mi\nstateType: stateful\ncode: {path: sink.zip}\n"
    )
    with zipfile.ZipFile(tmp_path / "sink.zip", "w") as archive:
        archive.writestr("main.py", CODE)
    nodes = [
        {"nodeName": "a", "algorithmName": "source", "stateType": "stateful", "input": ["@flowInput.n"]},
        {"nodeName": "b", "algorithmName": "source", "stateType": "stateless", "minStatelessCount": 2},
        {"nodeName": "sink", "algorithmName": "sink"},
    ]
    flow = {"name": "three", "kind": "stream", "nodes": nodes, "flowInput": {"n": 1}}
    flow["streaming"] = {"flows": {"all": "a >> b >> sink"}}
    (tmp_path / "flow.json").write_text(json.dumps(flow))
    before = sorted(one.name for one in tmp_path.iterdir())
    args = ("--pipeline", "flow.json", "--algorithm", "sink=sink.yml", "-i", '{"n": 5}', "--mem", "1Gi")
    told = plan(tmp_path, *args)
    assert [(one["nodeName"], one["stateType"], one["replicas"]) for one in told["nodes"]] == [
        ("a", "stateful", 1),
        ("b", "stateless", 2),
        ("sink", "stateful", 1),
    ]
    assert told["nodes"][0]["input"] == [5]
    limits = {name: one["limits"][0]["shown"] for name, one in told["algorithms"].items()}
    assert limits == {"source": "1 GiB", "sink": "128 MiB"}
    assert told["algorithms"]["sink"]["folder"] == str(tmp_path / "sink.zip")
    ended = run_hkrunner("--dry-run", *args, cwd=tmp_path, env=CLEAN)
    lines = ended.stdout.splitlines()
    assert lines[0] == "would run the stream pipeline three, and end when its sources have ended"
    assert "  node       b (source): stateless, 2 replicas, sends to sink" in lines
    assert "each replica of sink:" in lines
    assert sorted(one.name for one in tmp_path.iterdir()) == before
    assert run_hkrunner("--dry-run", "--pipeline", "none.json", cwd=tmp_path).status == 2
