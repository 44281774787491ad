"""The table of error codes is complete, names no others, and its reasons and statuses are the real ones."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hkrunner.runner import errors
from hkrunner.runner.protocol.error_codes import (
    CODES,
    EXIT_STATUSES,
    codes_about,
    limit_of,
    meaning_of_status,
)
from hkrunner.runner.protocol.messages import Failure
from hkrunner.runner.protocol.result import Result
from hkrunner.sandbox.shared.limits import declared_limits
from hkrunner.sandbox.shared.outcome import Cause, Exit

ROOT = Path(__file__).parents[2]
#: What makes an error of a code, the code first.
MAKERS = {"Failure", "EntryError", "failed", "_failed"}
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
        case ast.FunctionDef(name="code_of"):
            found += [one.value for one in ast.walk(node) if isinstance(one, ast.Return)]
    for one in found:
        if isinstance(one, ast.Constant) and isinstance(one.value, str) and one.value.isupper():
            yield one.value


def test_every_code_in_use_is_explained_and_no_other() -> None:
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
    status = CODES[code].shown_status.replace("128 + N", "139")
    assert result.reason == CODES[code].reason
    if code == "STOP_FORCED":
        assert result.exit_status == 0, "who asked for the stop decides"
        return
    assert str(result.exit_status) == status
    if code != "KILLED_BY_SIGNAL":
        # As the local worker has it: the code, and nothing of how the wrapper's process ended.
        told = replace(result, exit=None)
        assert (told.reason, str(told.exit_status)) == (result.reason, status)


def ended(cause: Cause, *, signal: int | None = None, loaded: bool = True) -> Result:
    """The result of a task whose process ended so."""
    exit = Exit(cause, signal=signal, loaded=loaded)
    failure = Failure(exit.error_code, "")
    return Result("t1", "j", "n", "p", "failed", 0, 1, 1, failure=failure, exit=exit, loaded=loaded)


@pytest.mark.parametrize(
    ("cause", "status"),
    [
        (Cause.MEMORY, 137),
        (Cause.SHARED_MEMORY, 137),
        (Cause.HOST_OOM, 137),
        (Cause.TASK_TIMEOUT, 124),
        (Cause.CPU_TIME, 124),
        (Cause.PROCESSES, 1),
        (Cause.DISK, 1),
        (Cause.EXITED, 1),
    ],
)
def test_the_exit_status_tells_the_kind(cause: Cause, status: int) -> None:
    assert ended(cause).exit_status == status


@pytest.mark.parametrize(("number", "status"), [(11, 139), (9, 137), (6, 134)])
def test_a_signal_is_reported_by_its_shells_status(number: int, status: int) -> None:
    assert ended(Cause.SIGNALLED, signal=number).exit_status == status


def test_an_end_during_import_is_a_load_failure_unless_a_limit_caused_it() -> None:
    for cause, reason, status in (
        (Cause.EXITED, "LoadError", 4),
        (Cause.START_TIMEOUT, "LoadError", 4),
        (Cause.MEMORY, "MemoryLimit", 137),
    ):
        one = ended(cause, loaded=False)
        assert (one.reason, one.exit_status) == (reason, status), cause


def test_a_memory_error_without_a_limit_is_an_error_of_the_algorithm() -> None:
    one = Result("t1", "j", "n", "p", "failed", 0, 1, 1, failure=Failure("MEMORY_ERROR", ""))
    assert (one.reason, one.exit_status) == ("AlgorithmError", 1)
    one = replace(one, limit_bytes=1)
    assert (one.reason, one.exit_status) == ("MemoryLimit", 137)


def test_each_limit_names_a_code_that_there_is() -> None:
    codes = {limit.code for limit in declared_limits().values()} - {None}
    assert codes <= set(CODES) and "OUT_OF_MEMORY" in codes
    assert {name: limit.option for name in codes if name and (limit := limit_of(name))}[
        "DISK_LIMIT"
    ] == "--disk"


@pytest.mark.parametrize(
    ("word", "codes"),
    [
        ("137", ["MEMORY_ERROR", "OUT_OF_MEMORY", "SHARED_MEMORY_LIMIT", "HOST_OOM"]),
        ("139", ["KILLED_BY_SIGNAL"]),
        ("oom", ["OUT_OF_MEMORY", "HOST_OOM"]),
        ("Timeout", ["START_TIMEOUT", "TASK_TIMEOUT"]),
        ("77", []),
        ("weather", []),
        ("²", []),
        pytest.param("9" * 5000, [], id="long"),
    ],
)
def test_codes_are_found_by_a_status_or_a_word(word: str, codes: list[str]) -> None:
    assert codes_about(word) == codes


def test_an_exit_status_says_what_it_means() -> None:
    assert meaning_of_status(124) == "a time limit was exceeded"
    assert meaning_of_status(134) == "the algorithm was ended by SIGABRT"
    assert meaning_of_status(77) is None and meaning_of_status(128 + 99) is None


def test_every_exit_status_of_a_code_has_a_meaning() -> None:
    statuses = {int(word) for one in CODES.values() for word in re.findall(r"\b\d+\b", one.shown_status)}
    assert statuses - {128} <= set(EXIT_STATUSES)


def test_every_exit_status_of_an_error_has_a_meaning() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert {kind.exit_status for kind in kinds if issubclass(kind, errors.HkrunnerError)} <= set(
        EXIT_STATUSES
    )
