"""The code API in local runs: every method, answered by other local algorithms, pipelines and folders."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from support.local import ALGORITHMS, Run, error_of, run_tasks
from support.programs import serving

OTHERS = {"adds": "adds", "odd": "api_odd", "range": "api_range", "waits": "api_waits", "raises": "raises"}


def others() -> list[str]:
    return [f"--algorithm={name}={ALGORITHMS / file}.py" for name, file in OTHERS.items()]


def ask(tmp_path: Path, *input: Any, args: tuple[str, ...] = ()) -> Run:
    env = {"TOLD": str(tmp_path / "told")}
    return run_tasks("api_calls.py", list(input), args=(*others(), *args), cwd=tmp_path, env=env)


def node(name: str, algorithm: str, *input: Any, **more: Any) -> dict[str, Any]:
    return {"nodeName": name, "algorithmName": algorithm, "input": list(input), **more}


def told(run: Run) -> Any:
    assert run.status == 0, run.stderr
    return run.outputs[0]


def test_another_algorithm_gives_its_result(tmp_path: Path) -> None:
    assert told(ask(tmp_path, "run", "adds", [1, 2])) == 3
    record = json.loads((tmp_path / ".hkrunner/tasks/t1-adds-1/task.json").read_text())
    assert (record["status"], record["nodeName"]) == ("succeed", "api_calls:adds")


def test_without_its_result_the_answer_says_where_it_is_stored(tmp_path: Path) -> None:
    link, nothing = told(ask(tmp_path, "link", "adds", [1, 2]))
    assert link["storageInfo"]["path"].startswith("local-hkube/")
    assert nothing is None


def test_many_calls_at_once_each_get_their_own_answer(tmp_path: Path) -> None:
    assert told(ask(tmp_path, "many", "adds", 12)) == [2 * number for number in range(12)]


def test_calls_from_many_threads_each_get_their_own_answer(tmp_path: Path) -> None:
    assert told(ask(tmp_path, "threads", "adds", 6)) == [number + 1 for number in range(6)]


def test_an_async_start_awaits_several_calls(tmp_path: Path) -> None:
    run = run_tasks("api_async.py", [], args=tuple(others()), cwd=tmp_path)
    assert told(run) == [3, [{"nodeName": "n", "algorithmName": "adds", "result": 9}], 0, 1, 2]


def test_an_error_of_the_other_algorithm_is_raised(tmp_path: Path) -> None:
    assert "odd 3" in told(ask(tmp_path, "fail", "odd", [3]))


def test_a_missing_algorithm_is_reported_as_the_worker_does(tmp_path: Path) -> None:
    run = ask(tmp_path, "fail", "nope", [1])
    assert told(run) == "nope: Algorithm named 'nope' does not exist"
    assert "--algorithm nope=FILE.py" in run.stderr


def test_errors_are_returned_with_the_option_for_it(tmp_path: Path) -> None:
    assert told(ask(tmp_path, "run", "nope", [1], args=("--api-errors", "return"))) == (
        "Algorithm named 'nope' does not exist"
    )


def test_a_call_that_takes_too_long_is_given_up_and_what_it_started_is_stopped(tmp_path: Path) -> None:
    assert "no answer within 0.3 s" in told(ask(tmp_path, "late", "waits"))


def test_a_call_is_stopped_by_its_caller(tmp_path: Path) -> None:
    assert "was stopped: enough" in told(ask(tmp_path, "stopped", "waits"))


def test_an_answer_without_an_id_reaches_the_call_that_waits(tmp_path: Path) -> None:
    assert "data should have required property 'execId'" in told(ask(tmp_path, "without_id"))


def test_what_a_task_leaves_running_ends_with_it(tmp_path: Path) -> None:
    assert told(ask(tmp_path, "leave_one_running", "waits")) == "left"


def test_a_waiting_call_is_released_when_the_run_is_stopped(tmp_path: Path) -> None:
    env = {"TOLD": str(tmp_path / "told")}
    entry = ALGORITHMS / "api_calls.py"
    input = '["wait_for", "waits"]'
    with serving("--entry", entry, "--input", input, *others(), cwd=tmp_path, env=env) as program:
        program.wait_for_line("waits ")  # its own line, with its pid
        program.send_signal(signal.SIGINT)
        program.wait_for_line("released")
        assert program.wait() == 130
    assert (tmp_path / "told").read_text() == "stopped\n"


def test_a_raw_pipeline_runs_as_the_documentations_example(tmp_path: Path) -> None:
    nodes = [
        node("range", "range", "@flowInput.data"),
        node("multiply", "adds", "#@range", "@flowInput.more"),
        node("all", "odd", "@multiply"),
    ]
    assert told(ask(tmp_path, "raw", nodes, {"data": 5, "more": 2})) == [
        {"nodeName": "all", "algorithmName": "odd", "result": [[3, 4, 5, 6, 7]]}
    ]


def test_a_batch_that_fails_in_part_is_tolerated_up_to_its_limit(tmp_path: Path) -> None:
    nodes = [node("g", "odd", "#@flowInput.n")]
    first, second = told(ask(tmp_path, "raw", nodes, {"n": [1, 2]}))
    assert (first["batchIndex"], second) == (
        1,
        {"nodeName": "g", "batchIndex": 2, "algorithmName": "odd", "result": [2]},
    )
    assert "odd 1" in first["error"]
    failed = told(ask(tmp_path, "raw_fails", nodes, {"n": [2, 2, 3]}, {"batchTolerance": 30}))
    assert "1/3 (33%) failed tasks, batch tolerance is 30%, error: " in failed


def test_a_failed_task_is_retried_as_its_node_says(tmp_path: Path) -> None:
    third = tmp_path / "third.py"
    third.write_text(
        "import os, pathlib\nnote = pathlib.Path(os.environ['TOLD'])\n"
        "def start(args):\n"
        "    with note.open('a') as file:\n        file.write(f'{os.getpid()}\\n')\n"
        "    if len(note.read_text().split()) < args['input'][0]:\n        os._exit(3)\n"
        "    return 'at last'\n"
    )
    given = (f"--algorithm=third={third}",)
    on_error = {"retry": {"policy": "OnError", "limit": 2}}
    run = ask(tmp_path, "raw", [node("n", "third", 3, **on_error)], {}, args=given)
    assert told(run) == [{"nodeName": "n", "algorithmName": "third", "result": "at last"}]
    assert len(set((tmp_path / "told").read_text().split())) == 3  # a process each
    assert "node n is in StalledState, attempts: 2/2 (t1-third-1: EXITED: " in run.stderr
    (tmp_path / "told").unlink()
    always = [node("n", "third", 9, retry={"policy": "Always", "limit": 1})]
    assert told(ask(tmp_path, "raw_fails", always, {}, args=given)) == (
        "pipeline p: node n is in CrashLoopBackOff, attempts: 1/1"
    )
    (tmp_path / "told").unlink()
    # A crash is an error with its reason: what HKube does by default for crashes does not come into it.
    assert "EXITED: " in told(ask(tmp_path, "raw_fails", [node("n", "third", 9)], {}, args=given))
    assert len((tmp_path / "told").read_text().split()) == 1


def test_another_algorithm_has_its_own_limits_and_variables(tmp_path: Path) -> None:
    for name, described in (("own", True), ("bare", False)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "main.py").write_text(
            "import os\ndef start(args):\n"
            "    try:\n        bytearray(args['input'][0])\n        large = True\n"
            "    except MemoryError:\n        large = False\n"
            "    return [large, os.environ.get('WHOSE'), os.environ.get('ALSO')]\n"
        )
        if described:
            (tmp_path / name / "algorithm.yml").write_text(
                "name: own\nmem: 64Mi\nalgorithmEnv: {WHOSE: own}\n"
            )
    (tmp_path / "run.yml").write_text("name: the-run\nalgorithmEnv: {WHOSE: runs}\n")
    args = ("-f", "run.yml", "-E", "ALSO=given", "--mem", "512Mi", "--mem-mode", "brake")
    for name, expected in (("own", [False, "own", None]), ("bare", [True, None, "given"])):
        given = (f"--algorithm={name}={tmp_path / name}", *args)
        assert told(ask(tmp_path, "run", name, [200 << 20], args=given)) == expected
    (tmp_path / "own" / "algorithm.yml").write_text("name: own\nmem: lots\n")
    failed = ask(tmp_path, "run", "own", [1], args=(f"--algorithm=own={tmp_path / 'own'}",))
    assert failed.status == 2 and failed.stderr.startswith("hkrunner: --algorithm own: algorithm.yml:2:")


#: The nodes of a pipeline that cannot be run, and why.
IMPOSSIBLE: list[tuple[list[dict[str, Any]], str]] = [
    ([node("a", "adds", retry={"limit": 0})], "data.nodes[0].retry.limit should be >= 1"),
    ([node("a", "adds", retry={"policy": "no"})], "data.nodes[0].retry.policy should be equal to one"),
    ([], "pipeline must have at least one node"),
    ([node("a", "nope")], "algorithm nope Not Found"),
    ([node("a", "adds", "@b")], 'node "a" is depend on node "b" which is not exists'),
    ([node("a", "adds", "@flowInput.noop")], "unable to find flowInput.noop"),
    ([node("a", "adds", "@a")], "cyclic nodes are not allowed on batch pipeline"),
    ([node("a", "odd", "*@a")], "wait for any"),
    ([node("a", "odd", 3)], "odd 3"),
]


def test_a_pipeline_that_cannot_be_run_says_why(tmp_path: Path) -> None:
    inputs = [["raw_fails", nodes, {}] for nodes, _ in IMPOSSIBLE]
    run = run_tasks("api_calls.py", *inputs, args=tuple(others()), cwd=tmp_path)
    assert run.status == 0, run.stderr
    for (_, said), output in zip(IMPOSSIBLE, run.outputs, strict=True):
        assert said in output


def test_a_pipeline_without_its_result_says_where_that_is_stored(tmp_path: Path) -> None:
    assert "storageInfo" in told(ask(tmp_path, "raw_link", [node("a", "adds", 1)], {}))


def test_a_pipeline_is_stopped_by_its_caller(tmp_path: Path) -> None:
    assert "was stopped" in told(ask(tmp_path, "stop_pipeline", [node("a", "waits")]))


@pytest.mark.parametrize("ending", ["json", "yml"])
def test_a_stored_pipeline_is_a_file(tmp_path: Path, ending: str) -> None:
    stored = {
        "name": "s",
        "nodes": [node("n", "adds", "@flowInput.a", "@flowInput.b")],
        "flowInput": {"a": 1},
    }
    (tmp_path / f"s.{ending}").write_text(json.dumps(stored))
    run = ask(tmp_path, "stored", "s", {"b": 2}, args=("--pipeline", f"s=s.{ending}"))
    assert told(run) == [{"nodeName": "n", "algorithmName": "adds", "result": 3}]


def test_a_missing_stored_pipeline_is_not_found(tmp_path: Path) -> None:
    assert "pipeline nope Not Found" in told(ask(tmp_path, "stored_fails", "nope"))


def test_a_data_source_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(b"abc")
    run = ask(tmp_path, "source", "pictures", args=("--datasource", "pictures=images"))
    assert told(run) == [None, "pictures", [["a.png", 3]]]


def test_a_missing_data_source_is_reported_as_the_worker_does(tmp_path: Path) -> None:
    run = run_tasks("api_calls.py", ["no_source", "nope"], ["no_source", ""], cwd=tmp_path)
    assert "could not find dataSource:nope" in run.outputs[0]
    assert "unable to find matching data-source" in run.outputs[1]


def test_spans_are_kept_as_a_tree(tmp_path: Path) -> None:
    told(ask(tmp_path, "spans"))
    spans = json.loads((tmp_path / ".hkrunner/tasks/t1/spans.json").read_text())["spans"]
    assert [span["name"] for span in spans] == ["outer", "left open"]
    assert [span["name"] for span in spans[0]["children"]] == ["inner"]
    assert spans[0]["tags"] == {"depth": 0}
    assert all(span["endTime"] >= span["startTime"] for span in spans)


def test_spans_are_closed_in_reverse_order_when_the_task_fails(tmp_path: Path) -> None:
    assert ask(tmp_path, "failing_spans").status == 1
    (first,) = json.loads((tmp_path / ".hkrunner/tasks/t1/spans.json").read_text())["spans"]
    (second,) = first["children"]
    assert "in the second span" in first["error"]
    assert second["endTime"] <= first["endTime"]


def test_an_algorithm_that_starts_itself_ends_with_an_error(tmp_path: Path) -> None:
    itself = f"--algorithm=itself={ALGORITHMS / 'starts_itself.py'}"
    run = run_tasks("starts_itself.py", [[1]], args=(itself,), cwd=tmp_path)
    assert run.status == 1
    assert "at the end of a chain of 10 tasks that started each other" in error_of(run.tasks[0])[1]
    assert len(list((tmp_path / ".hkrunner/tasks").iterdir())) == 11


def test_a_node_that_outlives_its_ttl_fails_its_pipeline(tmp_path: Path) -> None:
    assert (
        told(ask(tmp_path, "raw_fails", [node("a", "waits", ttl=1)], {}))
        == "pipeline p: Algorithm TTL expired"
    )
