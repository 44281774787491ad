"""The functions of submit() in a Pool without code, pickled as they are at that moment.

importable       by reference, 1.5 µs: the worker finds its state in the module
of a notebook    by value with cloudpickle, 55 µs; kept as long as nothing has changed that went into it
anything else    by value, each time: a bound method, a partial or an object may have changed its state
"""

from __future__ import annotations

import operator
import pickle
import sys
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

#: Functions whose pickle is kept, the last ones used.
KEPT = 100
#: Values of these types never change.
_ATOMS = (int, float, complex, str, bytes, bool, type(None))
_MISSING = object()
#: Globals that cloudpickle adds to every function.
_OF_EVERY_MODULE = ("__package__", "__name__", "__path__", "__file__")


class _CannotTellError(Exception):
    """Whether it has changed could not be told the next time."""


class _Kept(NamedTuple):
    modules: int  #: how many were loaded: cloudpickle looks among them for those that the function may use
    parts: tuple[Any, ...]
    pickled: bytes


class FunctionPickles:
    """Pickles functions."""

    def __init__(self, dumps: Callable[[Any], bytes], by_value: Callable[[], Any]) -> None:
        """`dumps`: of cloudpickle. `by_value`: returns the modules that are not pickled by reference."""
        self._dumps = dumps
        self._by_value = by_value
        self._kept: dict[FunctionType, _Kept] = {}  # a plain function equals only itself

    def pickled(self, function: Callable[..., Any]) -> bytes:
        """Return the function's pickle; raises what pickling it raises."""
        if self._by_value():
            return self._dumps(function)
        if isinstance(function, (FunctionType, BuiltinFunctionType, type)):
            if function.__module__ != "__main__":
                try:
                    return pickle.dumps(function, pickle.HIGHEST_PROTOCOL)
                except Exception:  # noqa: BLE001 - it cannot be imported, or cloudpickle will say what is wrong
                    pass
            if type(function) is FunctionType:
                return self._pickled_by_value(function)
        return self._dumps(function)

    def _pickled_by_value(self, function: FunctionType) -> bytes:
        kept = self._kept.pop(function, None)
        try:
            modules, parts = len(sys.modules), tuple(_parts(function, set()))
        except _CannotTellError:
            return self._dumps(function)
        if kept is None or kept.modules != modules or not _are_the_same(kept.parts, parts):
            kept = _Kept(modules, parts, self._dumps(function))
            while len(self._kept) >= KEPT:
                del self._kept[next(iter(self._kept))]
        self._kept[function] = kept
        return kept.pickled


def _are_the_same(before: tuple[Any, ...], now: tuple[Any, ...]) -> bool:
    return len(before) == len(now) and all(map(operator.is_, before, now))


def _parts(function: FunctionType, seen: set[int]) -> Iterator[Any]:
    """Yield all that goes into a function's pickle, as objects that do not change: it has changed only if
    one of them is another object. Raises _CannotTellError if there is one that does change."""
    if id(function) in seen:
        return
    seen.add(id(function))
    if function.__dict__ or function.__kwdefaults__ or getattr(function, "__type_params__", None):
        raise _CannotTellError
    yield function
    yield function.__code__
    yield function.__name__
    yield function.__qualname__
    yield function.__module__
    values = [function.__doc__, function.__defaults__, *function.__annotations__.values()]
    try:
        values += [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError:  # a cell without contents
        raise _CannotTellError from None
    used = function.__globals__
    values += [used.get(name, _MISSING) for name in (*_OF_EVERY_MODULE, *_names(function.__code__))]
    yield from function.__annotations__
    for value in values:
        yield value
        if type(value) is FunctionType and not _is_importable(value):
            yield from _parts(value, seen)
        elif not _is_constant(value):
            raise _CannotTellError


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names of the globals that this code and the functions in it may use, and more."""
    yield from code.co_names
    for constant in code.co_consts:
        if type(constant) is CodeType:
            yield from _names(constant)


def _is_constant(value: Any) -> bool:
    """Whether this object can never be pickled in another way."""
    kind = type(value)
    if kind in _ATOMS or value is _MISSING:
        return True
    if kind is tuple:
        return all(map(_is_constant, value))
    if kind is ModuleType:
        return value.__name__ != "__main__" and sys.modules.get(value.__name__) is value
    return isinstance(value, (FunctionType, BuiltinFunctionType, type)) and _is_importable(value)


def _is_importable(value: Any) -> bool:
    """Whether importing its module and looking up its name gives the very same object."""
    found: Any = sys.modules.get(value.__module__) if value.__module__ != "__main__" else None
    for name in value.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is value
