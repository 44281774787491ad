"""The table of error codes is complete, names no others, and its reasons and statuses are the real ones."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hkrunner.runner.cli.run import EPILOG
from hkrunner.runner.protocol.error_codes import CODES, STATUSES, codes_about, meaning_of_status
from hkrunner.runner.protocol.messages import Failure
from hkrunner.runner.protocol.result import Result, is_known
from hkrunner.sandbox.shared.outcome import Cause, Exit

ROOT = Path(__file__).parents[2]
#: What makes an error of a code, the code first.
MAKERS = {"Failure", "EntryError", "_told"}
LOADING = {"ENTRY_NOT_FOUND", "ENTRY_INVALID", "IMPORT_FAILED", "START_TIMEOUT"}
CAUSES = {Exit(cause).error_code: cause for cause in Cause}


def said() -> Iterator[str]:
    """Every code that the sources can put in front of an error."""
    yield from CAUSES
    for folder in ("runner", "sandbox"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                yield from texts(node)


def texts(node: ast.AST) -> Iterator[str]:
    found: list[ast.expr | None] = []
    match node:
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=arguments, keywords=more):
            found += arguments[:1] if name in MAKERS else []
            found += [one.value for one in more if one.arg == "code"]
        case (
            ast.Assign(targets=[ast.Name(id="code")], value=value)
            | ast.AnnAssign(target=ast.Name(id="code"), value=value)
        ):
            found.append(value)
        case ast.Assign(targets=[ast.Tuple(elts=[ast.Name(id="code"), *_])], value=ast.Tuple(elts=values)):
            found.append(values[0])
        case ast.FunctionDef(name="_code"):
            found += [one.value for one in ast.walk(node) if isinstance(one, ast.Return)]
    for one in found:
        if isinstance(one, ast.Constant) and isinstance(one.value, str) and one.value.isupper():
            yield one.value


def test_every_code_that_can_be_said_is_explained_and_no_other() -> None:
    assert set(said()) == set(CODES)


@pytest.mark.parametrize("code", CODES)
def test_reason_and_exit_status_are_the_real_ones(code: str) -> None:
    cause = CAUSES.get(code)
    exit = Exit(cause, signal=11) if cause is not None else None
    result = Result(
        "t1",
        "j",
        "n",
        "p",
        "stopped" if code == "STOP_FORCED" else "failed",
        0,
        1,
        1,
        failure=Failure(code, code),
        exit=exit,
        loaded=code not in LOADING,
        limit_bytes=1,
    )
    status = CODES[code].exit_status.replace("128 + N", "139")
    assert result.reason == CODES[code].reason
    if code == "STOP_FORCED":
        assert result.exit_status == 0, "who asked for the stop decides"
        return
    assert str(result.exit_status) == status
    if code != "KILLED_BY_SIGNAL":
        # As the local worker has it: the code, and nothing of how the wrapper's process ended.
        told = replace(result, exit=None)
        assert is_known(code) and (told.reason, str(told.exit_status)) == (result.reason, status)


@pytest.mark.parametrize(
    ("word", "codes"),
    [
        ("137", ["MEMORY_ERROR", "OUT_OF_MEMORY", "SHARED_MEMORY_LIMIT", "HOST_OOM"]),
        ("139", ["KILLED_BY_SIGNAL"]),
        ("oom", ["OUT_OF_MEMORY", "HOST_OOM"]),
        ("Timeout", ["START_TIMEOUT", "TASK_TIMEOUT"]),
        ("77", []),
        ("weather", []),
    ],
)
def test_codes_are_found_by_a_status_or_a_word(word: str, codes: list[str]) -> None:
    assert codes_about(word) == codes


def test_an_exit_status_says_what_it_means() -> None:
    assert meaning_of_status(124) == "a time limit"
    assert meaning_of_status(134) == "the algorithm was ended by SIGABRT"
    assert meaning_of_status(77) is None and meaning_of_status(128 + 99) is None


def test_every_documented_exit_status_has_a_meaning() -> None:
    told = {
        int(word)
        for line in EPILOG.splitlines()
        for word in re.findall(r"^  ([\d, ]+)  ", line)[:1]
        for word in word.split(", ")
    }
    assert told <= set(STATUSES) and told
