"""The inputs of a local run are JSON, or one sentence says where they are not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hkrunner.runner.errors import SettingsError
from hkrunner.runner.prepare import inputs
from hkrunner.runner.prepare.inputs import StdinTasks, as_list, read_inputs
from hypothesis import given
from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(JSON)
def test_a_list_stays_itself_and_anything_else_is_wrapped(value: Any) -> None:
    found = json.loads(as_list(json.dumps(value).encode(), "--input"))
    assert found == (value if isinstance(value, list) else [value])


def test_the_text_is_passed_on_as_it_was_written() -> None:
    assert as_list(b' [1.0, 2e3, "\\u00fc"]\n', "--input") == b'[1.0, 2e3, "\\u00fc"]'
    assert as_list(b"\xef\xbb\xbf[1]", "--input") == b"[1]"  # a byte order mark, as Windows writes it


@given(st.binary(max_size=60))
def test_invalid_json_is_reported_in_one_short_sentence(data: bytes) -> None:
    try:
        json.loads(as_list(data, "--input"))
    except SettingsError as error:
        assert str(error).startswith("--input is ")
        assert len(str(error)) < 600 and error.exit_status == 2


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"hello", """--input is not JSON: 'hello': """),
        (b"hello", """a string needs quotes: '"hello"', a file an @: @hello"""),
        (b"['a']", "JSON strings need double quotes"),
        (b"1, 2", "a list needs brackets: '[1, 2]'"),
        (b"", "--input is not JSON: nothing"),
        (b"NaN", "NaN is no JSON; write null"),
        (b"[1, -Infinity]", "-Infinity is no JSON; write null"),
        (b"\xff", "--input is not UTF-8 text: invalid start byte at byte 0"),
        (b"[" * 100_000, "--input is JSON nested too deeply"),
        (b"x" * 10_000, "..."),
        (
            b"1" * 5000,
            "--input has an integer of more than 4,300 digits, which Python does not read; write it",
        ),
    ],
)
def test_what_is_wrong_is_reported(data: bytes, sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        as_list(data, "--input")
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("what", "data", "hint"),
    [
        (
            "--input",
            "{a:1}",
            "the shell removes double quotes unless single ones surround them: -i '{\"a\": 1}'",
        ),
        ("--input", "[True]", "JSON writes true, false and null"),
        ("--input", '{"a": None}', "JSON writes true, false and null"),
        ("stdin (--input -)", "hello", 'a string needs quotes: "hello"'),
        ("line 1 of x.csv (--tasks)", "a,b", 'a string needs quotes: "a,b"'),
        ("line 1 of x.json (--tasks)", "[", "a file with one value over several lines is for -i @FILE"),
        ("line 2 of x.json (--tasks)", "[", ""),
        ("line 1 of x.csv (--tasks)", "1,2", "a list needs brackets: [1,2]"),
        (
            "the file x.csv (--input)",
            "name\nO'Neil",
            "if the code is to read the file itself, give its path as a string: -i '\"PATH\"'",
        ),
        ("the file x.jsonl (--input)", "[1]\n[2]\n", "a file with one input per line is for --tasks"),
        ("the file x.json (--input)", '{"a": 1,\n"b" 2}', ""),
        ("--input", "[NaN]", ""),
        ("--input", "[.5]", ""),
    ],
)
def test_what_helps_depends_on_where_the_input_comes_from(what: str, data: str, hint: str) -> None:
    with pytest.raises(SettingsError) as caught:
        as_list(data.encode(), what)
    assert str(caught.value).partition("; ")[2].removeprefix("write null") == hint


def test_files_lie_in_the_working_folder_and_empty_lines_are_no_tasks(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text("[1]\n")
    (tmp_path / "many.jsonl").write_text('\n2\n   \n{"a": 3}\n')
    found = list(read_inputs(("@one.json", "5"), "many.jsonl", str(tmp_path)))
    assert found == [b"[1]", b"[5]", b"[2]", b'[{"a": 3}]']


def test_a_line_that_is_no_json_is_reported_by_its_number(tmp_path: Path) -> None:
    (tmp_path / "many.jsonl").write_text("1\n\n{\n")
    with pytest.raises(SettingsError, match=r"^line 3 of many\.jsonl \(--tasks\) is not JSON"):
        list(read_inputs((), "many.jsonl", str(tmp_path)))


def test_stdin_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    saved, folder = os.dup(0), os.open(tmp_path, os.O_RDONLY)
    os.dup2(folder, 0)
    try:
        with pytest.raises(SettingsError, match=r"^stdin cannot be read: Is a directory$"):
            list(read_inputs(("-",), None, str(tmp_path)))
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(folder)


def test_lines_from_stdin_are_whole_wherever_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = iter([b"[1", b", 2]\n \n3\n4", b"5", b""])
    monkeypatch.setattr(os, "read", lambda fd, size: next(pieces))
    loop: Any = SimpleNamespace(on_readable=lambda fd, callback: None)
    found: list[Any] = []
    one = StdinTasks(loop, lambda *line: found.append(line), pytest.fail, lambda: found.append("end"))
    one._read_all()
    assert found == [(b"[1, 2]", 1), (b"3", 3), (b"45", 4), "end"]


def test_a_line_may_hold_signs_that_other_texts_break_lines_at(tmp_path: Path) -> None:
    (tmp_path / "many.jsonl").write_bytes('["a\u2028b\x85c"]\n[2]\n'.encode())
    assert len(list(read_inputs((), "many.jsonl", str(tmp_path)))) == 2


@pytest.mark.parametrize(("values", "tasks"), [(("@no.json",), None), ((), "no.jsonl"), (("@.",), None)])
def test_a_file_that_cannot_be_read_is_reported(
    values: tuple[str, ...], tasks: str | None, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=r"cannot read (no\.jsonl?|\.): (No such file|Is a dir)"):
        list(read_inputs(values, tasks, str(tmp_path)))


def test_all_of_a_stdin_is_read_that_another_program_has_made_nonblocking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, write = os.pipe2(os.O_NONBLOCK)
    os.write(write, b"[1")

    def rest_comes(*_: object) -> None:
        os.write(write, b", 2]")
        os.close(write)

    monkeypatch.setattr(inputs.select, "select", rest_comes)
    before = os.dup(0)
    os.dup2(ours, 0)
    try:
        assert list(read_inputs(("-",), None, "/")) == [b"[1, 2]"]
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(ours)
