"""What start() may return, and what it may not: a value, or one sentence that names the place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.local import error_of, run_tasks

REFUSED = {
    "object": "result['a'][3]: ",
    "circle": "result[0]: it is result again, which contains itself: break the circle",
    "deep": "nested more than 200 deep",
    "generator": "result: generator cannot be sent; use list(...) of it",
    "function": "result: function",
    "key": "keys must be text",
}
TAKEN: dict[str, Any] = {
    "nan": [None, None, 1.5],
    "bytes": "AP8=",
    "set": [7],
    "point": {"x": 1, "y": 2.5},
    "date": "2024-02-29",
    "enum": "red",
    "decimal": "1.10",
    "path": "/a/b",
    "uuid": "00000000-0000-0000-0000-000000000005",
    "deque": [1, 2],
    "int key": {"1": "one"},
    "none": None,
    "surrogate": "\udcff",
    "large": "x" * 3_000_000,
}


def test_a_result_that_cannot_be_sent_is_reported_by_its_place(tmp_path: Path) -> None:
    run = run_tasks("returns_what_it_is_told.py", *[[kind] for kind in REFUSED], ["behave"], cwd=tmp_path)
    assert run.status == 1 and run.outputs[-1] == "served"
    for task, place in zip(run.tasks, REFUSED.values(), strict=False):
        code, message = error_of(task)
        assert (code, task["reason"]) == ("RESULT_INVALID", "AlgorithmError")
        assert place in message


def test_a_result_with_one_exact_form_is_sent_in_that_form(tmp_path: Path) -> None:
    run = run_tasks("returns_what_it_is_told.py", *[[kind] for kind in TAKEN], cwd=tmp_path)
    assert run.outputs == list(TAKEN.values())
    assert run.status == 0


def test_numbers_that_json_lacks_are_reported_once_with_their_place(tmp_path: Path) -> None:
    run = run_tasks("returns_what_it_is_told.py", ["nan"], ["none"], ["nan"], cwd=tmp_path)
    assert run.outputs == [[None, None, 1.5], None, [None, None, 1.5]] and run.status == 0
    assert run.stderr.count("result[0] is NaN or Infinity; JSON has neither, so null was sent") == 1


def test_a_coroutine_that_start_returns_is_awaited(tmp_path: Path) -> None:
    run = run_tasks("returns_what_it_is_told.py", ["coroutine"], cwd=tmp_path)
    assert (run.status, run.outputs) == (0, [None])


def test_a_result_that_is_too_large_is_reported_with_both_numbers(tmp_path: Path) -> None:
    run = run_tasks("returns_what_it_is_told.py", ["too large"], ["behave"], cwd=tmp_path)
    code, message = error_of(run.tasks[0])
    assert code == "RESULT_TOO_LARGE"
    assert "101,000,0" in message and "at most 100,000,000" in message
    assert run.outputs[1] == "served"


def test_an_api_that_is_used_after_its_task_changes_nothing(tmp_path: Path) -> None:
    run = run_tasks("calls_after_it_is_done.py", [1], [2], [3], cwd=tmp_path)
    assert run.outputs == [[1, 1, [False]], [2, 2, [False] * 2], [3, 3, [False] * 3]]


@pytest.mark.parametrize("algorithm", ["closes_stdout", "replaces_stdout"])
def test_an_algorithm_without_an_output_is_served(algorithm: str, tmp_path: Path) -> None:
    run = run_tasks(f"{algorithm}.py", ["misbehave"], ["behave"], cwd=tmp_path)
    assert (run.status, run.outputs) == (0, ["served", "served"])


def test_a_value_of_a_library_is_converted_or_refused_with_the_call_that_converts_it(tmp_path: Path) -> None:
    taken: dict[str, Any] = {
        "frame as its message says": {"a": [0, 0, 0, [{"a": 1, "b": None}]]},
        "not available": [1, None],
        "array": ["2024-01-01T00:00:00.000000001", None],
        "attrs": {"x": 1, "y": {"at": "2024-02-29"}},
        "pydantic": {"a": [None]},
    }
    refused = {
        "frame": """result['a'][3]: pandas.DataFrame cannot be sent; use its .to_dict("records")""",
        "buffer": "result: _io.BytesIO cannot be sent; use its .getvalue()",
        "model": "result: sklearn.svm.SVC cannot be sent; use its predictions, or joblib.dump(...) it "
        "to a file and return the path",
        "namespace": "result[0]: types.SimpleNamespace cannot be sent; use vars(...) of it",
    }
    run = run_tasks("returns_values_of_libraries.py", *[[kind] for kind in (*refused, *taken)], cwd=tmp_path)
    assert run.outputs == [None, None, None, None, *taken.values()]
    for task, message in zip(run.tasks, refused.values(), strict=False):
        assert error_of(task) == ("RESULT_INVALID", f"RESULT_INVALID: {message}")
