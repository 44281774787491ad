"""A function of a Pool is called as it is when it is submitted, however often it was submitted before."""

from __future__ import annotations

import functools
import operator
import pickle
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import cloudpickle
import pytest
from hkrunner.runner.python_api.pool_functions import FunctionPickles


class Pickles:
    """What is tested, and how often cloudpickle was needed."""

    def __init__(self) -> None:
        self.count = 0
        self._functions = FunctionPickles(self._dumps, cloudpickle.list_registry_pickle_by_value)

    def _dumps(self, function: Any) -> bytes:
        self.count += 1
        pickled: bytes = cloudpickle.dumps(function)
        return pickled

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return pickle.loads(self._functions.pickled(function))(*args)


@pytest.fixture
def pickles() -> Pickles:
    return Pickles()


class Account:
    def __init__(self) -> None:
        self.balance = 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Account)

    def __hash__(self) -> int:
        return 1

    def read(self) -> int:
        return self.balance

    def __call__(self) -> int:
        return self.balance


def test_a_method_an_object_and_a_partial_are_called_in_their_present_state(pickles: Pickles) -> None:
    account, names = Account(), ["a"]
    functions = [account.read, account, functools.partial(len, names), names.__len__]
    assert [pickles.call(one) for one in functions] == [1, 1, 1, 1]
    account.balance = 2
    names.append("b")
    assert [pickles.call(one) for one in functions] == [2, 2, 2, 2]


NOTEBOOK = """
import math
rate, steps, table = 2, (1, "a"), [1]
def helper(value):
    return value * rate
def uses_helper(value):
    return helper(value)
def uses_module(value):
    return math.floor(value) + len(steps)
def uses_list(value):
    return value + table[0]
def make(offset):
    def closure(value):
        nonlocal offset
        return value + offset
    def move(by):
        nonlocal offset
        offset = by
    return closure, move
closure, move = make(3)
def annotated(value: int = 4) -> int:
    return value
def calls_itself(value):
    return value and calls_itself(value - 1)
"""


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module as it is in a notebook."""
    module = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    exec(NOTEBOOK, module.__dict__)
    return module


def test_a_function_of_a_notebook_is_pickled_again_once_something_it_uses_has_changed(
    pickles: Pickles, notebook: ModuleType
) -> None:
    book: Any = notebook

    def both() -> list[int]:
        uses = (book.uses_helper, book.uses_module, book.uses_list, book.closure)
        return [pickles.call(one, 10) for one in uses]

    assert both() == [20, 12, 11, 13]
    book.rate, book.steps = 5, ()
    book.table[0] = 7  # nobody can tell that this has changed
    book.move(4)
    assert both() == [50, 10, 17, 14]
    exec("def helper(value): return -value", book.__dict__)
    book.math = operator
    assert pickles.call(book.uses_helper, 10) == -10
    with pytest.raises(AttributeError):
        pickles.call(book.uses_module, 10)
    assert pickles.call(book.annotated) == 4
    book.annotated.__defaults__ = (6,)
    assert pickles.call(book.annotated) == 6
    book.annotated.__code__ = book.helper.__code__
    assert pickles.call(book.annotated, 8) == -8
    book.annotated.note = ["a"]
    count = pickles.count
    assert pickles.call(book.annotated, 8) == pickles.call(book.annotated, 8) == -8
    assert pickles.count == count + 2


def test_what_has_not_changed_is_pickled_once_and_what_can_be_imported_by_its_name(
    pickles: Pickles, notebook: ModuleType
) -> None:
    book: Any = notebook
    for _ in range(3):
        for function in (book.uses_helper, book.uses_module, book.closure, book.annotated):
            pickles.call(function, 1)
        assert pickles.call(book.calls_itself, 2) == 0
    assert pickles.count == 5
    assert pickles.call(operator.add, 1, 2) == 3 and pickles.call(functools.reduce, max, [1, 4]) == 4
    assert pickles.call(Account)() == 1
    assert pickles.count == 5


def test_a_module_that_cloudpickle_was_told_to_send_is_sent(
    pickles: Pickles, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("local_module")
    monkeypatch.setitem(sys.modules, "local_module", module)
    exec("value = 1\ndef read(): return value", module.__dict__)
    assert pickles.call(module.read) == 1 and pickles.count == 0
    cloudpickle.register_pickle_by_value(module)
    try:
        assert pickles.call(module.read) == 1
        assert pickles.count == 1
    finally:
        cloudpickle.unregister_pickle_by_value(module)
