"""An allocation that failed is reported with little memory: close to a limit there may be none left."""

from __future__ import annotations

import importlib
import linecache
import marshal
import py_compile
import sys
import tracemalloc
from pathlib import Path

import pytest
from hkrunner.sandbox.child import exception_report
from hkrunner.sandbox.child.exception_report import describe
from support.raising import caught

HERE = str(Path(__file__).parent)
FILE = Path(__file__).name


def fail_to_allocate() -> None:
    raise MemoryError


@pytest.mark.parametrize(("error", "room"), [("MemoryError", True), ("SystemError", False)])
def test_the_files_of_the_traceback_are_not_kept_in_memory(
    error: str, room: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exception_report, "has_room", lambda _: room)
    lines = ["def fail():", f"    raise {error}  # here", *("# a comment" for _ in range(100_000))]
    (tmp_path / "large_and_fails.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    raised = caught(importlib.import_module("large_and_fails").fail)
    del sys.modules["large_and_fails"]
    tracemalloc.start()
    try:
        told = describe(raised, HERE)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1 << 20
    for text in (told["message"], told["details"]):
        assert f"raise {error}  # here" in text
    assert str(tmp_path / "large_and_fails.py") not in linecache.cache


def test_the_details_show_what_the_error_was_raised_from() -> None:
    def wrap() -> None:
        try:
            fail_to_allocate()
        except MemoryError as error:
            raise RuntimeError("could not build the model") from error

    told = describe(caught(wrap), HERE)
    cause, link, effect = (
        told["details"].index(one)
        for one in (", in fail_to_allocate", "was the direct cause of", "RuntimeError: could not build")
    )
    assert cause < link < effect
    assert told["code"] == "MEMORY_ERROR"


def test_an_import_that_had_no_memory_is_placed_at_the_users_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "compiled_before.py").write_text("x = 1")
    py_compile.compile(str(tmp_path / "compiled_before.py"))
    monkeypatch.syspath_prepend(str(tmp_path))

    def start() -> None:
        importlib.import_module("compiled_before")

    # Its frame is one of the import system's, in which Python's own function would leave none.
    fails = compile("lambda code: bytearray(1) * (1 << 62)", "<frozen importlib._bootstrap_external>", "eval")
    monkeypatch.setattr(marshal, "loads", eval(fails))
    error = caught(start)
    monkeypatch.undo()
    message = describe(error, HERE)["message"].splitlines()[0]
    line = start.__code__.co_firstlineno + 1
    assert message == f"MEMORY_ERROR: MemoryError: an allocation failed ({FILE}:{line} in start)"
