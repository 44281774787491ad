"""An exception of any kind becomes one bounded answer, most important first."""

from __future__ import annotations

import argparse
import builtins
import importlib
import io
import os
import pdb
import pickle
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import click
import pytest
from hkrunner.sandbox.child import exception_report
from hkrunner.sandbox.child.api_call import AlgorithmExecutionError
from hkrunner.sandbox.child.exception_fields import TEXT_MAX, cut, text_of
from hkrunner.sandbox.child.exception_report import DETAILS_MAX, MESSAGE_MAX, describe
from hypothesis import given
from hypothesis import strategies as st
from support.raising import caught

HERE = str(Path(__file__).parent)
FILE = Path(__file__).name


def raise_(error: BaseException) -> None:
    raise error


class Silent(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


@given(st.text(max_size=300), st.integers(10, 200))
def test_a_cut_text_keeps_its_ends_and_says_what_is_missing(text: str, most: int) -> None:
    short = cut(text, most)
    if len(text) <= most:
        assert short == text
    else:
        assert short.startswith(text[: most * 2 // 3]) and short.endswith(text[-3:])
        assert f"{len(text) - most:,} characters left out" in short


def test_the_code_type_text_and_place_come_first() -> None:
    told = describe(caught(lambda: raise_(ValueError("no such column"))), HERE)
    line = raise_.__code__.co_firstlineno + 1
    assert told["message"].startswith(
        f"ALGORITHM_ERROR: ValueError: no such column ({FILE}:{line} in raise_)\n"
    )
    assert (told["code"], told["type"], told["line"]) == (
        "ALGORITHM_ERROR",
        "ValueError",
        f"{FILE}:{line} in raise_",
    )
    assert "Traceback (most recent call last)" in told["details"]


def test_a_class_of_the_users_is_named_with_its_module() -> None:
    told = describe(caught(lambda: raise_(Silent())), HERE)
    assert f"{__name__}.Silent: <its text cannot be shown: __str__ raised SystemExit>" in told["message"]


def test_an_error_of_the_code_api_is_named_as_users_know_it() -> None:
    error = AlgorithmExecutionError("square: it failed")
    told = describe(caught(lambda: raise_(error)), HERE)
    assert told["message"].startswith("ALGORITHM_ERROR: AlgorithmExecutionError: square: it failed (")
    assert "\nAlgorithmExecutionError: square: it failed" in told["details"]
    assert str(pickle.loads(pickle.dumps(error))) == "square: it failed"


def test_a_read_of_stdin_is_reported_with_what_to_use_instead() -> None:
    message = describe(caught(lambda: raise_(EOFError("EOF when reading a line"))), HERE)["message"]
    assert (
        "EOFError: EOF when reading a line (" in message
        and "; its stdin is empty: values come as its input" in message
    )


def with_argparse() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", required=True)
    parser.parse_args([])


@click.command()
@click.option("--lr", required=True)
def with_click(lr: float) -> None:
    """Never called."""


@pytest.mark.parametrize("start", [with_argparse, lambda: with_click([])])
def test_arguments_that_are_missed_are_reported_with_what_to_use_instead(start: Callable[[], None]) -> None:
    message = describe(caught(start), HERE)["message"]
    assert (
        message.startswith("EXITED: sys.exit(2) ended the algorithm") and "values come by --input" in message
    )


def test_a_breakpoint_without_a_terminal_is_reported_with_the_option_that_gives_one() -> None:
    def start() -> int:
        pdb.Pdb(stdin=io.StringIO(), stdout=io.StringIO()).set_trace()
        return 1

    message = describe(caught(start), HERE)["message"]
    assert (
        "BdbQuit: (without a text) (" in message and "a debugger has the terminal with --in-proc" in message
    )


def test_a_file_of_the_folder_where_hkrunner_was_started_is_found_for_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data.csv").touch()
    monkeypatch.setenv("PWD", str(tmp_path))
    there, nowhere = (describe(caught(partial(open, one)), HERE)["message"] for one in ("data.csv", "no.csv"))
    assert f"; the working folder is {os.getcwd()}, and the file is {tmp_path}/data.csv" in there
    assert "the working folder" not in nowhere


def test_input_that_is_read_as_a_dict_is_reported_as_the_list_that_it_is() -> None:
    def start(args: Any) -> None:
        args["input"]["lr"]

    def other(values: Any) -> None:
        values["input"]["lr"]

    args = {"input": [{"lr": 1}]}
    first, second = (describe(caught(partial(one, args)), HERE)["message"] for one in (start, other))
    assert '; args["input"] is a list' in first and '; args["input"] is a list' not in second


def test_a_value_that_is_looked_for_beside_the_input_is_found_for_the_user() -> None:
    def start(args: Any) -> None:
        args["lr"]

    tasks = ({"input": [{"lr": 1}]}, {"input": [{"rate": 1}]}, {"input": [5]}, {"input": []}, {})
    found, *others = (describe(caught(partial(start, one)), HERE)["message"].splitlines()[0] for one in tasks)
    assert found.endswith("""; the input is in args["input"], a list: that is args["input"][0]['lr']""")
    assert all(one.endswith("in start)") for one in others)


def test_an_error_without_a_text_says_so() -> None:
    message = describe(caught(lambda: raise_(AssertionError())), HERE)["message"]
    assert message.startswith("ALGORITHM_ERROR: AssertionError") and "(without a text)" in message


def test_the_function_is_named_when_it_is_not_start() -> None:
    told = describe(caught(lambda: raise_(OSError("gone"))), HERE, during=" in stop()")
    assert "OSError: gone in stop()" in told["message"]


@pytest.mark.parametrize("code", [0, 3, None, "a text", object()])
def test_an_exit_is_reported_with_what_it_was_given(code: object) -> None:
    told = describe(caught(lambda: raise_(SystemExit(code))), HERE)
    shown = "" if code is None else repr(code)
    assert told["code"] == "EXITED"
    assert told["message"].startswith(f"EXITED: sys.exit({shown}) ended the algorithm before it answered")
    told = describe(caught(lambda: raise_(SystemExit(code))), HERE, during=" during import")
    assert told["message"].startswith(f"EXITED: sys.exit({shown}) ended the algorithm during import (")


def test_a_syntax_error_shows_the_line_with_a_caret() -> None:
    source = "x = 1\nif x = 2:\n    pass\n"
    error = caught(lambda: compile(source, os.path.join(HERE, "their.py"), "exec"))
    told = describe(error, HERE, code="IMPORT_FAILED")
    assert told["line"] == "their.py:2"
    lines = told["message"].splitlines()
    assert lines[0].startswith("IMPORT_FAILED: SyntaxError: ")
    assert lines[1] == "    if x = 2:" and lines[2].strip().startswith("^")
    assert "(their.py:2)" in told["message"]


def raise_when_asked_for(name: str) -> None:
    try:
        raise KeyError(name)
    except KeyError:
        raise ValueError(name) from None


def test_a_raise_or_an_exit_of_the_users_own_code_without_another_error_is_deliberate() -> None:
    own: list[Callable[[], object]] = [
        lambda: raise_(ValueError("no")),
        lambda: sys.exit(3),
        lambda: builtins.exit(3),
        lambda: raise_(SystemExit(3)),
    ]
    others: list[Callable[[], object]] = [
        lambda: int("x"),
        lambda: re.compile("("),
        lambda: raise_when_asked_for("a"),
        lambda: os.environ["NO_SUCH_VARIABLE"],
        lambda: argparse.ArgumentParser().exit(3),
    ]
    group = getattr(builtins, "ExceptionGroup", None)  # from Python 3.11 on
    if group is not None:
        others.append(lambda: raise_(group("two", [MemoryError()])))
    assert [exception_report.is_deliberate(caught(one)) for one in own] == [True] * len(own)
    assert not any(exception_report.is_deliberate(caught(one)) for one in others)
    frame = sys._getframe()
    for instruction in (-2, 1 << 20):  # a frame of Cython has none, and before Python 3.11 such a number
        error = ValueError("no").with_traceback(TracebackType(None, frame, instruction, 1))
        assert not exception_report.is_deliberate(error)


def test_a_memory_error_has_a_code_of_its_own() -> None:
    assert describe(caught(lambda: raise_(MemoryError())), HERE)["code"] == "MEMORY_ERROR"


def test_the_last_frame_of_the_users_own_code_is_the_place() -> None:
    import json

    def parse() -> None:
        json.loads("{")

    told = describe(caught(parse), HERE)
    assert told["line"].startswith(FILE) and told["line"].endswith("in parse")


def deeper(level: int) -> None:
    deeper(level + 1)


def test_a_recursion_is_shown_by_its_two_ends() -> None:
    told = describe(caught(lambda: deeper(0)), HERE)
    assert "more calls" in told["message"]
    assert told["message"].count("in deeper") <= 20


def test_of_a_recursion_of_very_many_calls_only_the_last_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exception_report, "CALLS_MAX", 400)
    error = caught(lambda: deeper(0))
    told = describe(error, HERE)
    assert told["details"].count("in deeper") <= 200 and "cannot be shown" not in told["details"]
    other = ValueError("gave up")
    other.__cause__ = error
    told = describe(other, HERE)
    assert "caused by RecursionError" in told["message"]
    assert told["details"].startswith("ValueError: gave up\n<its causes")


@pytest.mark.parametrize("size", [TEXT_MAX, 10_000_000])
def test_the_report_is_bounded(size: int) -> None:
    told = describe(caught(lambda: raise_(ValueError("x" * size))), HERE)
    assert len(told["message"]) < MESSAGE_MAX + 100
    assert len(told["details"]) < DETAILS_MAX + 100


def test_an_endless_text_is_not_shown() -> None:
    class Mirror(Exception):
        def __str__(self) -> str:
            return f"[{self}]"

    assert "__str__ raised RecursionError" in text_of(Mirror())


def test_a_chain_of_1000_causes_is_bounded() -> None:
    error: Exception = ValueError("first")
    for number in range(1000):
        following = KeyError(number)
        following.__cause__ = error
        error = following
    told = describe(caught(lambda: raise_(error)), HERE)
    assert len(told["details"]) < DETAILS_MAX + 100


def test_what_an_error_was_raised_from_stands_below_its_text() -> None:
    def read() -> None:
        try:
            {}["path"]
        except KeyError:
            os.stat("/nowhere")

    def load() -> None:
        try:
            read()
        except OSError as error:
            raise RuntimeError("no configuration") from error

    def quietly() -> None:
        try:
            read()
        except OSError:
            raise ValueError("bad") from None

    lines = describe(caught(load), HERE)["message"].split("\n")
    assert lines[0].startswith("ALGORITHM_ERROR: RuntimeError: no configuration (")
    assert lines[1].startswith(
        "  • caused by FileNotFoundError: [Errno 2] No such file or directory: '/nowhere"
    )
    assert re.fullmatch(r"  • raised while handling KeyError: 'path' \(\S+:\d+ in read\)", lines[2])
    assert "•" not in describe(caught(quietly), HERE)["message"]
    remote = type("_RemoteTraceback", (Exception,), {})(
        '\n"""\nTraceback of a worker process\nValueError: in a worker\n"""'
    )
    lost = ValueError("in a worker")
    lost.__cause__ = remote
    told = describe(caught(lambda: raise_(lost)), HERE)
    assert "•" not in told["message"] and "Traceback of a worker process" in told["details"]


def with_notes(error: BaseException, *notes: object) -> BaseException:
    error.__dict__["__notes__"] = list(notes)  # as add_note(), which Python 3.10 has not
    return error


def test_notes_of_an_error_stand_below_its_text() -> None:
    error = with_notes(ValueError("bad row"), "file a.csv\nline 3", 4, Silent())
    lines = describe(caught(lambda: raise_(error)), HERE)["message"].split("\n")
    assert lines[0].startswith("ALGORITHM_ERROR: ValueError: bad row (")
    assert lines[1:5] == [
        "  • file a.csv",
        "    line 3",
        "  • 4",
        "  • <its text cannot be shown: __str__ raised SystemExit>",
    ]


def test_notes_are_bounded_in_number_and_length() -> None:
    message = describe(with_notes(ValueError(), *["x" * 5000] * 1_000), HERE)["message"]
    assert message.count("  • ") == 11 and message.endswith("\n  • … 990 more") and len(message) < 7_000


GROUP: Any = getattr(builtins, "ExceptionGroup", None)


if GROUP is not None:

    def test_each_error_of_a_group_is_named_with_its_text_and_place() -> None:
        members: list[Exception] = [
            OSError("no disk"),
            GROUP("inner", [ValueError("a"), KeyError("b")]),
        ]
        members.append(caught(lambda: raise_(ValueError("raised"))))  # type: ignore[arg-type]
        message = describe(GROUP("three failed", members), HERE)["message"]
        line = raise_.__code__.co_firstlineno + 1
        assert message.split("\n") == [
            "ALGORITHM_ERROR: ExceptionGroup: three failed (3 sub-exceptions)",
            "  • OSError: no disk",
            "  • ValueError: a",
            "  • KeyError: 'b'",
            f"  • ValueError: raised ({FILE}:{line} in raise_)",
        ]

    def test_what_is_in_a_thousand_groups_is_named() -> None:
        group = GROUP("innermost", [ValueError("the reason")])
        for depth in range(1000):
            group = GROUP(f"level {depth}", [group])
        message = describe(group, HERE)["message"]
        assert message == (
            "ALGORITHM_ERROR: ExceptionGroup: level 999 (1 sub-exception)\n  • ValueError: the reason"
        )

    def test_groups_that_hold_one_another_many_times_are_bounded() -> None:
        group = GROUP("innermost", [ValueError()])
        for _ in range(30):
            group = GROUP("twice", [group, group])
        message = describe(group, HERE)["message"]
        assert message.count("  • ValueError\n") == 10 and " more" in message

    def test_a_group_of_200_errors_names_the_first_and_says_how_many_more() -> None:
        group = GROUP("many", [ValueError(f"page {number}") for number in range(200)])
        message = describe(group, HERE)["message"]
        assert "  • ValueError: page 9\n  • … 190 more" in message and "page 10" not in message

    def test_a_group_with_a_failed_allocation_is_about_memory() -> None:
        inner = GROUP("inner", [MemoryError()])
        assert describe(GROUP("some", [ValueError(), inner]), HERE)["code"] == "MEMORY_ERROR"


@pytest.mark.parametrize("code", ["MEMORY_ERROR", "ALGORITHM_ERROR"])
def test_a_failed_allocation_with_which_the_error_has_nothing_to_do_is_not_its_reason(code: str) -> None:
    def parse() -> None:
        try:
            raise MemoryError
        except MemoryError:
            if code == "MEMORY_ERROR":
                raise ValueError("no number")  # noqa: B904
            raise ValueError("no number") from None

    assert describe(caught(parse), HERE)["code"] == code


def test_an_error_that_broke_a_pool_is_named() -> None:
    text = "\n'''\nTraceback (most recent call last):\nTypeError: Mine.__init__() missing 1 argument\n'''"
    broken = RuntimeError("A process in the process pool was terminated abruptly")
    broken.__cause__ = type("_RemoteTraceback", (Exception,), {})(text)
    assert describe(broken, HERE)["message"].endswith(
        "\n  • in a worker process: TypeError: Mine.__init__() missing 1 argument"
    )


def test_the_text_is_kept_where_the_users_code_has_broken_what_describes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("traceback.walk_tb", None)
    assert describe(caught(lambda: raise_(ValueError("the reason"))), HERE)["message"] == (
        "ALGORITHM_ERROR: ValueError: the reason (no more can be shown: describing it raised TypeError)"
    )


def test_an_error_of_blank_lines_has_no_text() -> None:
    assert describe(ValueError("\n \n"), HERE)["message"] == "ALGORITHM_ERROR: ValueError: (without a text)"


def test_a_file_that_stands_in_for_a_module_of_python_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hint = "; colorsys.py has the name of a module of the standard library: rename it"
    (tmp_path / "colorsys.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    for code in ("from colorsys import rgb_to_hsv", "import colorsys; colorsys.rgb_to_hsv"):
        error = caught(lambda code=code: exec(code))  # type: ignore[misc]
        assert hint in describe(error, str(tmp_path))["message"]
        assert hint not in describe(error, HERE)["message"]
    monkeypatch.delitem(sys.modules, "colorsys")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Task got bad yield: <class 'trio._core._traps.CancelShieldedCheckpoint'>"),
        AttributeError("'RunContext' object has no attribute 'runner'"),
    ],
)
def test_a_coroutine_of_trio_is_told_who_awaits_it(error: Exception) -> None:
    assert (
        "; what start() returns is awaited by asyncio: call trio.run(...)" in describe(error, HERE)["message"]
    )


def test_what_only_trio_can_run_says_so_in_a_plain_start() -> None:
    message = describe(RuntimeError("must be called from async context"), HERE)["message"]
    assert message.endswith(" async context; trio runs it only within trio.run(...)")


def test_only_the_file_that_an_import_cannot_read_is_to_be_saved_as_utf_8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in_utf_16.py").write_bytes("x = 1".encode("utf-16-le"))
    (tmp_path / "imports_it.py").write_text("import in_utf_16\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for imported, said in (
        ("imports_it", "(imports_it.py:1 in <module>); Python reads UTF-8: save the imported file as that"),
        ("in_utf_16", "(in_utf_16.py); Python reads UTF-8: save the file as that"),
    ):
        error = caught(partial(importlib.import_module, imported))
        assert said in describe(error, str(tmp_path))["message"]
    for function in (lambda: compile("x\0", "their.py", "exec"), lambda: eval("x\0")):
        assert "UTF-8" not in describe(caught(function), HERE)["message"]
