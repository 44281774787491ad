"""What start() and init() raise: one bounded answer each, and the same child serves the next task."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.local import error_of, misbehave_once, run_tasks

RAISED = {
    "raises": ["ValueError: no such column: age (raises.py:5 in column)", "raises.py:10 in start"],
    "raises_through_a_library": [
        "json.decoder.JSONDecodeError: ",
        "(raises_through_a_library.py:8 in start)",
    ],
    "raises_keyboard_interrupt": ["KeyboardInterrupt", "raises_keyboard_interrupt.py:6 in start"],
    "raises_base_exception": ["Farewell: not an Exception"],
    "raises_unpicklable": ["Local: holds a lock"],
    "raises_unprintable": ["Unprintable: ", "__str__ raised RuntimeError"],
    "raises_with_text_that_exits": ["Trap: ", "__str__ raised SystemExit"],
    "raises_recursive_text": ["Mirror: ", "__str__ raised RecursionError"],
    "raises_huge_text": ["ValueError: begins here xxx", "characters left out", "xxx ends here"],
    "raises_surrogate": ["ValueError: bad file name: \udcff"],
    "raises_in_a_circle": ["ValueError: first"],
    "raises_a_group": ["200 pages failed"],
    "raises_with_notes": ["ValueError: 7 is no date", "\n  • in sales.csv, line 12"],
    "recurses_without_end": ["RecursionError: maximum recursion depth exceeded", "more calls"],
    "raises_in_init": ["LookupError: no model", "raises_in_init.py:6 in init"],
}


@pytest.mark.parametrize("algorithm", RAISED)
def test_what_is_raised_is_the_answer_of_its_task_alone(algorithm: str, tmp_path: Path) -> None:
    run = misbehave_once(f"{algorithm}.py", cwd=tmp_path)
    code, message = error_of(run.tasks[0])
    assert code == "ALGORITHM_ERROR"
    for part in RAISED[algorithm]:
        assert part in message
    assert run.status == 1
    assert run.tasks[0]["reason"] == "AlgorithmError"
    assert len(run.tasks[0]["error"]["details"]) < 70_000


def test_the_frames_shown_are_the_users_own(tmp_path: Path) -> None:
    run = misbehave_once("raises.py", cwd=tmp_path)
    details = run.tasks[0]["error"]["details"]
    _, message = error_of(run.tasks[0])
    assert "child.py" not in message and "_call" not in message
    first = details.splitlines()[1]
    assert first.startswith("  File ") and "raises.py" in first
    assert details.rstrip().endswith("ValueError: no such column: age")


def test_an_error_does_not_end_the_child(tmp_path: Path) -> None:
    run = run_tasks("counts_its_tasks.py", ["go"], ["raise"], ["go"], cwd=tmp_path)
    assert run.outputs == [[1, True], None, [3, True]]
    assert run.status == 1


def test_a_stack_overflow_in_c_code_is_reported_as_what_python_makes_of_it(tmp_path: Path) -> None:
    run = misbehave_once("overflows_the_stack.py", cwd=tmp_path)
    code, message = error_of(run.tasks[0])
    if code == "ALGORITHM_ERROR":
        assert "RecursionError" in message and run.status == 1
    else:
        assert code == "KILLED_BY_SIGNAL" and "SIGSEGV" in message and run.status == 139


ODD = {
    "text": "NoResponse: <its text cannot be shown: __str__ raised AttributeError>",
    "module": "Moved: x",
    "syntax": "SyntaxError: bad (f.cfg:12)",
    "syntax without a line": "SyntaxError: bad",
    "class": "Liar: (without a text)",
    "lying text": "WithLyingText: its text",
    "notes": "WithNotes: (without a text)",
    "errno": "PermissionError: [Errno [1]] not permitted",
    "missing module": "ModuleNotFoundError: gone",
}


def test_an_exception_that_breaks_its_inspection_fails_its_task_only(tmp_path: Path) -> None:
    run = run_tasks("raises_odd_exceptions.py", *[[kind] for kind in ODD], ["behave"], cwd=tmp_path)
    assert len(run.tasks) == len(ODD) + 1
    assert run.outputs[-1] == f"served {len(run.tasks)} tasks" and run.status == 1
    for task, sentence in zip(run.tasks, ODD.values(), strict=False):
        code, message = error_of(task)
        assert (code, task["reason"]) == ("ALGORITHM_ERROR", "AlgorithmError")
        assert sentence in message
        assert "raises_odd_exceptions.py:62 in start" in message
