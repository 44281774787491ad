"""What goes to the workers of a Pool, and what comes back.

    a function   pickled by cloudpickle, once; its arguments by pickle or cloudpickle, for each task
    a file       an `initialize` message for each task, as a worker of HKube's sends it, in msgpack
    results      msgpack, converted as results of algorithms are (codec.py)

Pickles go down only. What a worker writes is never unpickled here: it may have been taken over by the code
that it runs, and a pickle can call anything.
"""

from __future__ import annotations

import itertools
import os
import pickle
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from ...sandbox.codec import codec
from ..errors import SettingsError
from ..worker_stub.task import LocalTask
from .pool_worker import PoolTask

#: Encoding of results, and of the inputs of a file.
ENCODING = "msgpack"
#: Arguments of these types are pickled by pickle itself, which is 10 times as fast as cloudpickle.
_PLAIN = frozenset((int, float, complex, str, bytes, bytearray, bool, type(None)))
#: Kinds of dtypes that are no Python objects.
_NUMBERS = "biufcSUmM"
#: Pickled functions that are kept, for a Pool that has none of its own.
_FUNCTIONS_KEPT = 100


class Coding(Protocol):
    """How the tasks of a Pool become messages."""

    def encode(self, task: PoolTask) -> bytes:
        """Return the task's message for a worker; raises what the arguments raise, or SettingsError."""


class FileCoding:
    """Tasks of an algorithm's file: one input each."""

    def __init__(self, entry: str) -> None:
        name = os.path.splitext(os.path.basename(entry.rpartition(":")[0] or entry))[0]
        self._name = name
        self._job = f"pool-{os.getpid()}-{int(time.time())}"

    def encode(self, task: PoolTask) -> bytes:
        """Return the `initialize` message for start(args, api)."""
        (value,) = task.positional
        if not codec.is_native(value, ENCODING):
            try:
                value = codec.plain(value, ENCODING, "input")
            except codec.ResultInvalid as error:
                raise SettingsError(str(error)) from None
        inputs = value if isinstance(value, list) else list(value) if isinstance(value, tuple) else [value]
        named = LocalTask(f"t{task.number}", self._job, self._name, self._name, "local", b"")
        try:
            return codec.encode(ENCODING, named.message(inputs), name="input", most=None)
        except codec.ResultInvalid as error:
            raise SettingsError(str(error)) from None


class FunctionCoding:
    """Tasks of a function: its arguments. Without a function of the Pool, the first argument is one."""

    def __init__(self, function: Callable[..., Any] | None) -> None:
        try:
            import cloudpickle
        except ImportError:
            raise SettingsError(
                "a Pool of a function needs the package cloudpickle: pip install 'hkrunner[pool]'"
            ) from None
        self._dumps: Callable[[Any], bytes] = cloudpickle.dumps
        self._has_function = function is not None
        self._known: dict[Callable[..., Any], bytes] = {}
        pickled = self._dumps(function) if function is not None else None
        #: For UseFunction: what is imported is found as here.
        self.order = pickle.dumps(([os.path.abspath(one) for one in sys.path], pickled))

    def encode(self, task: PoolTask) -> bytes:
        """Return the pickled arguments."""
        positional = task.positional
        if not self._has_function:
            positional = (self._pickled(positional[0]), *positional[1:])
        both = (positional, task.named)
        if all(map(_is_plain, itertools.chain(positional, task.named.values()))):
            return pickle.dumps(both, pickle.HIGHEST_PROTOCOL)
        return self._dumps(both)

    def _pickled(self, function: Callable[..., Any]) -> bytes:
        try:
            known = self._known.pop(function, None)
        except TypeError:  # a callable that cannot be hashed
            return self._dumps(function)
        if known is None:
            known = self._dumps(function)
            while len(self._known) >= _FUNCTIONS_KEPT:
                del self._known[next(iter(self._known))]
        self._known[function] = known
        return known


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind in _PLAIN:
        return True
    return kind.__module__ == "numpy" and kind.__name__ == "ndarray" and value.dtype.kind in _NUMBERS


def decode(data: bytes) -> Any:
    """Return the result in a worker's answer; raises ValueError for what is none."""
    message = codec.decode(ENCODING, data)
    if not isinstance(message, dict) or "data" not in message:
        raise ValueError(f"{type(message).__name__} instead of a result")
    return message["data"]
