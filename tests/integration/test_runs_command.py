"""`hkrunner runs …`: what is kept of tasks, read, repeated and removed as a user types it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.local import ALGORITHMS, run_tasks
from support.programs import Program, Result, run_hkrunner, serving
from support.served import serving_worker
from support.waiting import wait_until
from support.worker_wire import TASK

METRICS = "metrics_names_its_folder.py"
INPUT_BACK = "gives_its_input_back.py"


def runs(folder: Path, *args: str) -> Result:
    return run_hkrunner("runs", *args, cwd=folder)


def listed(folder: Path) -> list[dict[str, Any]]:
    ended = runs(folder, "ls", "--json")
    assert ended.status == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def refused(ended: Result, sentence: str) -> None:
    assert (ended.status, ended.stdout) == (2, ""), ended
    assert ended.stderr.startswith("hkrunner: ") and len(ended.stderr.splitlines()) == 1, ended.stderr
    assert sentence in ended.stderr


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[tuple[Program, Path]]:
    """A task that has printed a line and runs until the file exists."""
    until = tmp_path / "enough"
    given = ("--entry", ALGORITHMS / "obeys.py", "-i", json.dumps(["wait for file", str(until)]))
    with serving(*given, cwd=tmp_path) as program:
        log = tmp_path / ".hkrunner" / "tasks" / "t1" / "stdout.log"
        wait_until(lambda: log.exists() and log.stat().st_size, what="its first line")
        yield program, until
        until.touch()
        assert program.wait() == 0


# ---- ls, show, logs, metrics


def test_tasks_are_listed_with_how_they_ended_and_what_they_take(tmp_path: Path) -> None:
    run_tasks(METRICS, [3], cwd=tmp_path)
    run_tasks("raises.py", ["misbehave"], cwd=tmp_path)
    lines = runs(tmp_path, "ls").stdout.splitlines()
    assert len(lines) == 2
    assert lines[0].split()[0] == "t1" and " succeed " in lines[0] and "local/metrics_names" in lines[0]
    assert lines[0].endswith(" KiB  2 event files")
    assert lines[1].split()[0] == "t2" and " failed (AlgorithmError) " in lines[1]
    first, second = listed(tmp_path)
    assert (first["status"], first["eventFiles"], second["status"]) == ("succeed", 2, "failed")

    def on_disk() -> int:
        places = (Path(first["folder"]), Path(first["metricsDir"]))
        paths = [path for place in places for path in place.rglob("*")]
        return sum(path.lstat().st_blocks * 512 for path in paths if path.is_symlink() or path.is_file())

    # A file system may give a file its blocks later.
    wait_until(lambda: listed(tmp_path)[0]["sizeBytes"] == on_disk(), what="the size")


def test_tasks_are_listed_filtered_and_sorted_by_their_inputs_and_metrics(tmp_path: Path) -> None:
    inputs = [{"rate": 0.5}, {"rate": -1}, {"rate": 0.25}]
    run_tasks("trains_until_the_gate_opens.py", *inputs, cwd=tmp_path)
    lines = runs(tmp_path, "ls").stdout.splitlines()
    names = ["t1 rate=0.5", "t2 rate=-1 ✘", "t3 rate=0.25"]
    assert all(line.startswith(f"{name} ") for name, line in zip(names, lines, strict=True)), lines
    assert "  score=4.5  " in lines[0] and "  score=2.25  " in lines[2]
    first, failed, third = listed(tmp_path)
    assert [one["run"] for one in (first, failed, third)] == names
    assert first["input"] == {"rate": 0.5}
    assert first["output"] == {
        "loss": 0.25,
        "model": "mlp",
        **{f"powers[{n}]": 0.5 ** (n + 1) for n in range(3)},
    }
    assert (third["metrics"], failed["output"]) == ({"score": 2.25}, {})

    def chosen(*options: str) -> list[str]:
        return [line.split()[0] for line in runs(tmp_path, "ls", *options).stdout.splitlines()]

    assert chosen("--where", "loss<0.2") == chosen("--where", "score < 3 and rate > 0") == ["t3"]
    assert chosen("--where", "not status=succeed") == ["t2"]
    assert chosen("--sort", "output.loss") == ["t3", "t1", "t2"], "those without the value come last"
    assert chosen("--sort", "-rate") == ["t1", "t3", "t2"]
    assert chosen("--where", "duration>=0", "--sort", "name") == ["t1", "t2", "t3"]
    assert runs(tmp_path, "ls", "--where", "rate>9").stderr == "none of 3 tasks matches\n"
    refused(runs(tmp_path, "ls", "--where", "rate<"), "lacks a value after rate < at its end")
    refused(
        runs(tmp_path, "ls", "--sort", "rates"),
        "no recorded task has a value called 'rates'; did you mean rate?",
    )


def test_an_empty_folder_has_no_tasks(tmp_path: Path) -> None:
    ended = runs(tmp_path, "ls")
    assert (ended.status, ended.stdout, ended.stderr) == (0, "", "no tasks are recorded in ./.hkrunner\n")
    assert list(tmp_path.iterdir()) == []


def test_a_task_is_shown_with_its_error_and_its_files(tmp_path: Path) -> None:
    run_tasks("raises.py", ["misbehave"], cwd=tmp_path)
    lines = runs(tmp_path, "show", "t1").stdout.splitlines()
    assert lines[1].startswith("ALGORITHM_ERROR: ")
    assert any("/tasks/t1/input.json" in line for line in lines) and lines[-1] == '  input: ["misbehave"]'
    shown = json.loads(runs(tmp_path, "show", "t1", "--json").stdout)
    assert shown["error"]["message"].startswith(lines[1]) and "error.json" in shown["files"]


@pytest.mark.parametrize("command", ["show", "logs", "metrics", "again", "rm"])
def test_an_unknown_task_is_reported_in_one_sentence(command: str, tmp_path: Path) -> None:
    refused(runs(tmp_path, command, "t9"), "there is no task t9 in ")


def test_what_a_task_printed_goes_where_it_went(tmp_path: Path) -> None:
    run_tasks("prints_to_both.py", [], cwd=tmp_path)
    both = runs(tmp_path, "logs", "t1")
    assert "out from python\n" in both.stdout and "err" not in both.stdout
    assert "err from a program\n" in both.stderr and "out" not in both.stderr
    one = runs(tmp_path, "logs", "t1", "--stderr")
    assert (one.stdout, one.stderr) == ("", both.stderr)


def test_a_running_task_is_followed_to_its_end(waiting: tuple[Program, Path], tmp_path: Path) -> None:
    _, until = waiting
    with serving("runs", "logs", "t1", "-f", cwd=tmp_path) as follower:
        follower.wait_for_line("start", stream="stdout")
        assert follower.status is None
        until.touch()
        assert follower.wait() == 0


def test_metrics_are_summarized_and_listed_in_full(tmp_path: Path) -> None:
    run_tasks(METRICS, [4], cwd=tmp_path)
    lines = runs(tmp_path, "metrics", "t1").stdout.splitlines()
    assert "loss: last 0.25 at step 3, lowest 0.25, highest 1, 4 points" in lines
    assert any(line.startswith("~resources/memory_mib: last ") for line in lines)
    curves = [json.loads(line) for line in runs(tmp_path, "metrics", "t1", "--json").stdout.splitlines()]
    (loss,) = [curve for curve in curves if curve["tag"] == "loss"]
    assert loss == {
        "run": ".",
        "tag": "loss",
        "points": [[0, 1], [1, 0.5], [2, pytest.approx(1 / 3)], [3, 0.25]],
    }


def test_a_task_is_found_in_another_state_folder(tmp_path: Path) -> None:
    run_tasks(INPUT_BACK, [1], args=("--state-dir", str(tmp_path / "kept")), cwd=tmp_path)
    assert run_hkrunner("runs", "ls", "--state-dir", "kept", cwd=tmp_path).stdout.startswith("t1 ")
    env = {"HKRUNNER_STATE_DIR": str(tmp_path / "kept")}
    assert run_hkrunner("runs", "ls", cwd=tmp_path, env=env).stdout.startswith("t1 ")


# ---- again


def test_a_task_is_run_again_with_its_input_and_limits_from_any_folder(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    entry = tmp_path / "one" / "alg.py"
    entry.write_text("import os\ndef start(args, api=None): return [args['input'], os.environ['MODEL']]\n")
    args = ("--entry", "alg.py", "--mem", "300Mi", "--timeout", "20", "-E", "MODEL=small")
    value = {"text": "-1 @file 'q' \"é\" \n", "list": [1, None]}
    first = run_hkrunner(*args, "-i", json.dumps([value, 2]), cwd=tmp_path / "one")
    assert first.status == 0, first
    state = str(tmp_path / "one" / ".hkrunner")
    again = run_hkrunner("runs", "again", "t1", "--state-dir", state, "--json", cwd=tmp_path / "other")
    assert again.status == 0, again
    (task,) = map(json.loads, again.stdout.splitlines())
    assert task["output"] == [[value, 2], "small"] and task["memLimitBytes"] == 300 << 20
    assert json.loads(first.stdout) == task["output"]
    assert task["taskId"] == "t2" and task["metricsDir"].startswith(f"{state}/runs/local/alg/")
    kept = [json.loads((Path(state) / "tasks" / name / "task.json").read_text()) for name in ("t1", "t2")]
    assert kept[0]["settings"] == kept[1]["settings"]
    assert not (tmp_path / "other" / ".hkrunner").exists()


def test_a_task_of_a_descriptor_is_run_again_from_any_folder(tmp_path: Path) -> None:
    code = tmp_path / "one" / "code"
    code.mkdir(parents=True)
    (code / "alg.py").write_text("import os\ndef f(args): return [os.getcwd(), os.environ['MODEL']]\n")
    (tmp_path / "one" / "algorithm.yml").write_text(
        "name: sums\nmem: 300Mi\ncode: {path: code, entryPoint: 'alg.py:f'}\nalgorithmEnv: {MODEL: small}\n"
    )
    first = run_hkrunner("-i", "1", "--json", cwd=tmp_path / "one")
    again = run_hkrunner("runs", "again", "t1", "--state-dir", "one/.hkrunner", "--json", cwd=tmp_path)
    for ended in (first, again):
        task = json.loads(ended.stdout)
        assert task["output"] == [str(code), "small"] and task["memLimitBytes"] == 300 << 20, ended


def test_further_options_change_what_is_run_again(tmp_path: Path) -> None:
    run_tasks(INPUT_BACK, [1], args=("--mem", "300Mi"), cwd=tmp_path)
    ended = runs(tmp_path, "again", "t1", "--mem", "400Mi", "--json")
    assert json.loads(ended.stdout)["memLimitBytes"] == 400 << 20, ended


def test_an_input_or_an_entry_that_is_given_replaces_the_recorded_one(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("def start(args): return ['other', *args['input']]\n")
    run_tasks(INPUT_BACK, [1], cwd=tmp_path)
    for again in (("runs", "again", "t1"), ("--again", "t1")):
        assert run_hkrunner(*again, "-i", "5", cwd=tmp_path).stdout == "[5]\n"
        assert run_hkrunner(*again, "other.py", cwd=tmp_path).stdout == '["other",1]\n'


def test_a_task_that_failed_fails_again_with_its_status(tmp_path: Path) -> None:
    run_tasks("raises.py", ["misbehave"], cwd=tmp_path)
    ended = runs(tmp_path, "again", "t1")
    assert (ended.status, ended.stdout) == (1, "") and "✘ task t2 failed: ALGORITHM_ERROR" in ended.stderr


def test_a_task_of_a_worker_is_run_again_without_it(tmp_path: Path) -> None:
    with serving_worker(tmp_path, "--mem", "300Mi", entry=INPUT_BACK) as (client, _):
        assert client.run([[1, {"a": "b"}], "é"])["command"] == "done"
    ended = runs(tmp_path, "again", TASK["taskId"], "--json")
    task = json.loads(ended.stdout)
    assert task["output"] == [[1, {"a": "b"}], "é"] and task["memLimitBytes"] == 300 << 20


def test_large_values_of_a_worker_are_not_recorded_and_that_is_reported(tmp_path: Path) -> None:
    large = "x" * 300_000
    with serving_worker(tmp_path, entry=INPUT_BACK) as (client, _):
        assert client.run([large])["data"] == [large]
    (task,) = listed(tmp_path)
    facts = json.loads(runs(tmp_path, "show", task["name"], "--json").stdout)
    assert facts["notKept"].keys() == {"input", "output"} and facts["notKept"]["output"] > 300_000
    assert facts["files"] == {} and "input" not in facts and "output" not in facts
    kept = [path for path in (tmp_path / ".hkrunner").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in kept) < 100_000
    refused(runs(tmp_path, "again", task["name"]), "was not recorded")


def test_large_values_are_kept_where_that_is_asked(tmp_path: Path) -> None:
    large = "x" * 300_000
    with serving_worker(tmp_path, "--keep-values", "1Mi", entry=INPUT_BACK) as (client, _):
        client.run([large])
    (folder,) = (tmp_path / ".hkrunner" / "tasks").iterdir()
    assert json.loads((folder / "output.json").read_bytes()) == [large]
    assert json.loads((folder / "input.json").read_bytes()) == [large]


def test_a_task_whose_code_is_missing_is_reported_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "alg.py").write_text("def start(args): return 1")
    run_hkrunner("alg.py", "-i", "1", cwd=tmp_path)
    (tmp_path / "alg.py").unlink()
    ended = runs(tmp_path, "again", "t1")
    assert ended.status == 3 and "alg.py" in ended.stderr and len(ended.stderr.splitlines()) == 1, ended


# ---- rm, --keep


def test_removed_tasks_leave_nothing(tmp_path: Path) -> None:
    run_tasks(METRICS, [3], [3], [3], cwd=tmp_path)
    ended = runs(tmp_path, "rm", "t1", "t3")
    assert ended.status == 0 and ended.stderr.startswith("2 tasks removed, ")
    assert [task["name"] for task in listed(tmp_path)] == ["t2"]
    assert [path.name for path in (tmp_path / ".hkrunner" / "runs").glob("*/*/*/*")] == ["t2"]
    assert runs(tmp_path, "rm", "--keep", "0").stderr.startswith("1 task removed, ")
    assert listed(tmp_path) == []


def test_runs_rm_without_tasks_is_refused(tmp_path: Path) -> None:
    refused(
        runs(tmp_path, "rm"),
        "no tasks given: name some (hkrunner runs ls), or use --keep N to keep the latest",
    )


def test_a_running_task_is_never_removed(waiting: tuple[Program, Path], tmp_path: Path) -> None:
    assert listed(tmp_path)[0]["status"] == "active"
    refused(runs(tmp_path, "rm", "t1"), "task t1 is still running; stop it first")
    assert runs(tmp_path, "rm", "--keep", "0").stderr.startswith("0 tasks removed, ")
    assert listed(tmp_path)[0]["status"] == "active"


def test_a_run_keeps_the_latest_tasks_only(tmp_path: Path) -> None:
    run_tasks(METRICS, [1], [2], cwd=tmp_path)
    run_tasks(METRICS, [3], [4], [5], args=("--keep", "2"), cwd=tmp_path)
    assert [task["name"] for task in listed(tmp_path)] == ["t4", "t5"]
    assert len([*(tmp_path / ".hkrunner" / "runs").glob("*/*/*/*")]) == 2
