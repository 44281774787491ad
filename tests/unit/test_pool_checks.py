"""What a parameter of a Pool cannot be is refused at the call, in one sentence."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import hkrunner
import numpy
import pytest
from hkrunner.runner.python_api import pool_checks


@pytest.mark.parametrize(
    "timeout", ["5", datetime.timedelta(seconds=5), 0, -1, math.nan, math.inf, True, Decimal(5), 10**400, [5]]
)
def test_a_time_limit_is_a_number_of_seconds_above_zero(timeout: Any) -> None:
    with pytest.raises(hkrunner.SettingsError, match="timeout wants a number of seconds above 0, or None"):
        pool_checks.checked_time_limit(timeout)


def test_a_time_limit_may_be_any_kind_of_real_number() -> None:
    numbers = (None, 5, 0.5, Fraction(1, 2), numpy.int64(5), numpy.float32(0.5))
    limits = [pool_checks.checked_time_limit(one) for one in numbers]
    assert limits == [None, 5.0, 0.5, 0.5, 5.0, 0.5]
    assert {type(one) for one in limits[1:]} == {float}


def test_map_waits_as_those_of_other_executors() -> None:
    assert [pool_checks.checked_wait(one) for one in (None, 0, -1, 2.5, math.inf)] == [
        None,
        0.0,
        -1.0,
        2.5,
        None,
    ]
    for timeout in ("5", math.nan, True):
        with pytest.raises(hkrunner.SettingsError, match="timeout wants a number of seconds, or None"):
            pool_checks.checked_wait(timeout)


@pytest.mark.parametrize(
    ("check", "error", "sentence"),
    [
        (lambda: pool_checks.check_map(0, None), ValueError, "chunksize wants a whole number of 1 or more"),
        (lambda: pool_checks.check_map("1", None), TypeError, "chunksize wants a whole number, not '1'"),
        (lambda: pool_checks.check_map(1, 0), ValueError, "buffersize must be None or > 0"),
        (lambda: pool_checks.check_map(1, 1.5), TypeError, "buffersize wants a whole number or None"),
        (lambda: pool_checks.checked_workers(0), hkrunner.SettingsError, "workers wants a whole number"),
        (lambda: pool_checks.checked_workers(True), hkrunner.SettingsError, "1 or more, not True"),
        (lambda: pool_checks.checked_workers(2.0), hkrunner.SettingsError, "1 or more, not 2.0"),
        (lambda: hkrunner.Pool(pow, mem=True), hkrunner.SettingsError, "mem cannot be True"),
        (lambda: hkrunner.Pool(pow, no_limits=1), hkrunner.SettingsError, "no_limits wants True or False"),
        (lambda: hkrunner.Pool(pow, read=5), hkrunner.SettingsError, "read wants one or more texts or paths"),
        (lambda: hkrunner.Pool(pow, state_dir=5), hkrunner.SettingsError, "state_dir wants a path, not 5"),
        (lambda: hkrunner.Pool(pow, state_dir="a\0"), hkrunner.SettingsError, "state_dir cannot be 'a.x00'"),
        (lambda: hkrunner.run("a\ud800.py", []), hkrunner.SettingsError, "entry cannot be 'a.ud800.py'"),
        (lambda: hkrunner.Pool(pow, env="A=B"), hkrunner.SettingsError, "env wants a dict of variables"),
        (
            lambda: hkrunner.Pool(pow, env={"A=": "b"}),
            hkrunner.SettingsError,
            "'A=' is no name of a variable",
        ),
        (lambda: hkrunner.Pool(pow, env={"A": "\0"}), hkrunner.SettingsError, "the value of A has a NUL"),
        (
            lambda: hkrunner.Pool(3),
            hkrunner.SettingsError,
            "code wants a function, the path of a file or None",
        ),
        (lambda: hkrunner.Pool(b"a.py"), hkrunner.SettingsError, "code wants a function"),
        (lambda: hkrunner.Pool(pow, spare=1), hkrunner.SettingsError, "spare wants True or False, not 1"),
        (lambda: hkrunner.Pool(pow, records=0), hkrunner.SettingsError, "records wants True, False or None"),
        (lambda: hkrunner.Pool(pow, executor=4), hkrunner.SettingsError, "executor wants an executor as of"),
    ],
)
def test_what_a_parameter_cannot_be_is_refused(
    check: Callable[[], Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        check()
