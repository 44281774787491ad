"""Where a result has a number that JSON has not."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
from hkrunner.sandbox.codec import not_finite

NAN = math.nan


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (NAN, "result"),
        (-math.inf, "result"),
        ([1, None, NAN, math.inf], "result[2]"),
        ({"rows": [{"a": 1.0}, {"a": NAN}]}, "result['rows'][1]['a']"),
        ((1.0, (2.0, math.inf)), "result[1][1]"),
        (numpy.array([1.0, numpy.inf]), "result[1]"),
        (numpy.float64(NAN), "result"),
        ({"a": [1, numpy.float32(NAN)]}, "result['a'][1]"),
        ({"m": numpy.array([[1.0, 2.0], [3.0, numpy.nan]], "f4")}, "result['m'][1][1]"),
        ([NAN] + [0.0] * not_finite.LOOKED_AT, "result[0]"),
    ],
)
def test_the_first_number_that_became_null_is_found(value: Any, place: str) -> None:
    assert not_finite.place_of_first(value) == place


@pytest.mark.parametrize(
    "value",
    [None, 1.0, "NaN", [None, {}, [], ()], {"a": numpy.arange(3)}, numpy.zeros((2, 0)), object(), math],
)
def test_nothing_is_found_where_no_number_was_lost(value: Any) -> None:
    assert not_finite.place_of_first(value) is None


def test_a_large_result_is_looked_at_as_far_as_is_cheap() -> None:
    assert not_finite.place_of_first([0.0] * not_finite.LOOKED_AT + [NAN]) is None
    circle: list[Any] = []
    circle.append(circle)
    assert not_finite.place_of_first(circle) is None


def test_a_place_is_not_as_long_as_its_keys() -> None:
    place = not_finite.place_of_first({"k" * 10_000: {"l" * 10_000: NAN}})
    assert place is not None and len(place) < 400
