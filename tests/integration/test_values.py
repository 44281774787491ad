"""What an algorithm may return and ask with, the same in each encoding, for the first task and the tenth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.local import ALGORITHMS, error_of, run_tasks
from support.programs import HKRUNNER, run, run_hkrunner

INVALID = object()
#: Under json; the others differ as ALSO says.
JSON: dict[str, Any] = {
    "aware": "2024-01-01T00:00:00+00:00",
    "delta": "P1DT5S",
    "dataclass": {"x": 1, "_hidden": 2, "late": 9},
    "dataclasses in a list": [{"x": 1, "_hidden": 2, "late": 9}] * 2,
    "two keys become one": INVALID,
    "a tuple as key": INVALID,
    "an int of its own kind": {"5": 6},
    "enum": {"1": 1},
    "pattern": INVALID,
    "array": [1.5, 2.0],
    "surrogate in a key": {"ok": {"a\ud800": 5}},
    "deep": [[[[]]]],
    "too deep": INVALID,
    "a long list of times": ["2024-01-01T00:00:00+00:00"] * 2000,
    "a text of its own kind": {"a": "a"},
}
ALSO: dict[str, dict[str, Any]] = {
    "json": {},
    "bson": {
        "aware": "2024-01-01T00:00:00",
        "a long list of times": ["2024-01-01T00:00:00"] * 2000,
        "surrogate in a key": INVALID,
    },
    "msgpack": {"surrogate in a key": INVALID},
}


@pytest.mark.parametrize("encoding", ALSO)
def test_a_value_is_converted_the_same_way_however_many_tasks_there_were(
    tmp_path: Path, encoding: str
) -> None:
    expected = {**JSON, **ALSO[encoding]}
    # Nine in between: whatever is imported late to make messages faster is there by then.
    names = [*expected, *["enum"] * 9, *expected]
    args = ("--encoding", encoding, "--no-state")
    run = run_tasks("returns_odd_values.py", *([name] for name in names), args=args, cwd=tmp_path)
    for name, task in zip(names, run.tasks, strict=True):
        if expected[name] is INVALID:
            assert error_of(task)[0] == "RESULT_INVALID", name
        else:
            assert (task["status"], task["output"]) == ("succeed", expected[name]), name


def test_the_place_of_a_key_that_cannot_be_sent_is_named(tmp_path: Path) -> None:
    args = ("--encoding", "bson")
    run = run_tasks("returns_odd_values.py", ["surrogate in a key"], ["too deep"], args=args, cwd=tmp_path)
    assert "result['ok']['a\\ud800']" in error_of(run.tasks[0])[1]
    assert "nested more than 200 deep" in error_of(run.tasks[1])[1]


def test_an_entry_with_a_command_line_of_its_own_has_its_defaults(tmp_path: Path) -> None:
    run = run_tasks("parses_its_arguments.py", 1, cwd=tmp_path)
    assert run.outputs == [["small", [str(ALGORITHMS / "parses_its_arguments.py")]]]


@pytest.mark.parametrize("encoding", ["bson", "msgpack"])
def test_an_input_that_an_encoding_cannot_carry_is_refused_before_anything_runs(
    tmp_path: Path, encoding: str
) -> None:
    value = '["\\ud800"]'
    args = ("--entry", ALGORITHMS / "takes_anything.py", "--encoding", encoding, "-i", "1", "-i", value)
    ended = run_hkrunner(*args, cwd=tmp_path)
    assert (ended.status, ended.stdout) == (2, "")
    assert "input 2" in ended.stderr and "lone surrogate" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_sentence_that_does_not_fit_on_a_full_disk_leaves_the_status_as_it_is(tmp_path: Path) -> None:
    ended = run(["sh", "-c", 'exec "$0" nowhere.py -i 1 2> /dev/full', HKRUNNER], cwd=tmp_path)
    assert ended.status == 3


def test_results_that_do_not_fit_on_a_full_disk_are_reported(tmp_path: Path) -> None:
    command = 'exec "$0" --entry "$1" -i 1 > /dev/full'
    ended = run(["sh", "-c", command, HKRUNNER, ALGORITHMS / "takes_anything.py"], cwd=tmp_path)
    assert ended.status == 1
    assert "results cannot be written to stdout: No space left on device" in ended.stderr


# ---- api


def other(file: str) -> tuple[str, ...]:
    return (f"--algorithm=other={ALGORITHMS / file}",)


def test_what_is_not_as_a_call_needs_it_is_refused_and_named(tmp_path: Path) -> None:
    names = ["text", "dict", "none", "object", "nodes", "node", "flow"]
    args = other("adds.py")
    run = run_tasks("calls_with_odd_inputs.py", *([name] for name in names), args=args, cwd=tmp_path)
    for name, (kind, text) in zip(names[:3], run.outputs[:3], strict=True):
        assert kind == "AlgorithmExecutionError" and "data.input should be array" in text, name
    kind, text = run.outputs[3]
    assert kind == "ApiError" and "data['input'][0]: object" in text
    assert run.outputs[4:] == [
        ["SubPipelineError", "pipeline p: data.nodes should be array, not str"],
        ["SubPipelineError", "pipeline p: data.nodes[1] should be object: a dict, not str"],
        ["SubPipelineError", "pipeline p: data.flowInput should be object: a dict, not list"],
    ]


def test_the_answer_to_a_call_may_be_larger_than_a_message_to_the_worker(tmp_path: Path) -> None:
    size = 100_000_000 - 45
    args = (*other("returns_text_of_length.py"), "--no-state")
    run = run_tasks("gives_back_what_another_gives.py", [size], ["short"], args=args, cwd=tmp_path)
    assert run.outputs == [size, 5]


@pytest.mark.parametrize("encoding", ["bson", "msgpack"])
def test_an_answer_that_the_callers_encoding_cannot_carry_is_an_error_of_the_call(
    tmp_path: Path, encoding: str
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "main.py").write_text("def start(args):\n    return chr(0xd800)\n")
    args = (f"--algorithm=other={folder}", "--encoding", encoding)
    run = run_tasks("gives_back_what_another_gives.py", [1], cwd=tmp_path, args=args)
    assert "lone surrogate" in run.outputs[0]


def test_api_in_a_forked_process_raises_and_ends_nothing(tmp_path: Path) -> None:
    run = run_tasks("forks_and_calls_api.py", ["pool"], ["process"], cwd=tmp_path)
    assert "api can be used in the algorithm's own process only" in error_of(run.tasks[0])[1]
    assert run.tasks[1]["output"] == 7


def test_an_answer_that_does_not_fit_into_memory_is_reported_as_that(tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "main.py").write_text("def start(args):\n    return [0.5] * args['input'][0]\n")
    (folder / "algorithm.yml").write_text("name: other\ncpu: 1\nmem: 512Mi\ncode:\n  entryPoint: main.py\n")
    args = (f"--algorithm=other={folder}", "--mem", "64Mi", "--no-state")
    run = run_tasks("gives_back_what_another_gives.py", [1_500_000], ["x"], args=args, cwd=tmp_path)
    assert error_of(run.tasks[0])[0] in ("MEMORY_ERROR", "OUT_OF_MEMORY")
