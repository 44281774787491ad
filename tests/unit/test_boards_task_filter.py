"""The conditions of `runs ls --where`."""

from __future__ import annotations

import math

import pytest
from hkrunner.boards.runs.task_filter import Condition, FilterError, check_keys
from hkrunner.boards.runs.task_values import Scalar
from hypothesis import given
from hypothesis import strategies as st

TASK: dict[str, Scalar] = {
    "lr": 0.02,
    "loss": 0.10000000149011612,  # 0.1 in 32 bits
    "loss/validation": 0.25,
    "diverged": math.nan,
    "on": True,
    "opt.name": "sgd",
    "layers[0]": 64,
    "len(data)": 1000,
    "status": "succeed",
    "peak": 300 << 20,
    "duration": 1.5,
    "version": "3",
    "beyond": 10**400,
    "a b": 1,
}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("lr<0.03", True),
        ("lr < 2e-2", False),
        ("lr<=0.02", True),
        ("loss=0.1 and loss>=0.1 and not loss>0.1", True),
        ("loss/validation != 0.25", False),
        ("layers[0]=64", True),
        ("'len(data)' > 999", True),
        ('"a b" == 1', True),
        ("on=true", True),
        ("on=false", False),
        ("opt.name=sgd", True),
        ("opt.name='s g d'", False),
        ("opt.name>=adam", True),
        ("lr=sgd", False),
        ("lr!=sgd", True),
        ("version=3 and version>=3", True),
        ("version>2 or opt.name>2 or on<2", False),
        ("version!=2 and opt.name!=2", True),
        ("version>'2'", True),
        ("beyond>1e300 and beyond<inf and beyond!=nan", True),
        ("peak>256Mi and peak<1Gi", True),
        ("duration<2s and duration>1499ms and duration<1m", True),
        ("diverged=nan", True),
        ("diverged<1 or diverged>=1", False),
        ("lr>1 or lr<1 and status=failed", False),  # `and` binds closer
        ("(lr>1 or lr<1) and status=succeed", True),
        ("not (lr>1 or status=failed)", True),
        ("NOT lr>1 AND status=succeed", True),
        ("momentum=0.9", False),
        ("momentum!=0.9", False),
        ("not momentum=0.9", True),
    ],
)
def test_a_condition_holds_or_does_not(text: str, holds: bool) -> None:
    assert Condition.parse(text).holds(TASK) is holds


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "lacks the name of a value at its end"),
        ("lr", "lacks one of < <= > >= = == != after 'lr' at its end"),
        ("lr <", "lacks a value after lr < at its end"),
        ("lr < < 3", "lacks a value after lr < before '<'"),
        ("(lr < 3", "lacks a closing bracket at its end"),
        ("lr < 3)", "cannot be read from ')' on"),
        ("lr < 3 and", "lacks the name of a value at its end"),
        ("lr < 3 lr > 1", "cannot be read from 'lr' on"),
        ("name = 'open", 'cannot be read from "\'open" on'),
        ("peak < 3Foo", "peak: Foo is not a valid unit"),
        ("duration < 3q", "'3q' is not a time, like 0.5, 500ms, 2s, 1m or 1h"),
        ("(" * 51 + "lr<1" + ")" * 51, "nested more than 50 levels deep"),
        ("not " * 51 + "lr<1", "nested more than 50 levels deep"),
        ("x" * 2001, "more than 2000 characters"),
    ],
)
def test_a_condition_that_cannot_be_read_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(FilterError) as raised:
        Condition.parse(text)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)


@given(st.text(alphabet="ab<>=!()'\" 01.notrd"))
def test_any_text_is_a_condition_or_a_sentence(text: str) -> None:
    try:
        Condition.parse(text).holds({"a": 1, "b": "0"})
    except FilterError as error:
        assert str(error)


def test_a_key_that_no_task_has_is_reported_with_similar_ones() -> None:
    with pytest.raises(FilterError, match="called 'validation'; did you mean loss/validation"):
        check_keys(["validation"], [TASK, {}])
    with pytest.raises(FilterError, match="called 'statsu'; did you mean status"):
        check_keys(["statsu"], [TASK])
    check_keys(["lr"], [{}, TASK])
    check_keys(["anything"], [])
