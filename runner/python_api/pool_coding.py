"""How the tasks and results of a Pool are encoded.

    a function   pickled by cloudpickle, once; its arguments by pickle or cloudpickle, for each task
    a file       an `initialize` message for each task, as a worker of HKube's sends it, in msgpack
    results      msgpack, converted as results of algorithms are (codec.py)

A message is a list of pieces. A large value is a piece by itself, not copied: it is written to the worker's
memory from where it lies. Pickling a megabyte into one piece takes 0.8 ms, ten times as long as writing it.

Only tasks are pickled, never results: the code that a worker runs may control the worker, and unpickling can
call anything.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from typing import Any, Protocol

from ...sandbox.codec import codec
from ...sandbox.codec.codec import Buffer
from ..app.pool_names import PoolNames
from ..errors import SettingsError
from ..worker_stub.task import LocalTask
from .begin import folders_of_imports
from .pool_functions import FunctionPickles
from .pool_task import PoolTask

#: Encoding of results, and of the inputs of a file.
ENCODING = "msgpack"
#: Arguments of these types are pickled by pickle itself, which is 10 times as fast as cloudpickle.
_PLAIN = frozenset((int, float, complex, str, bytes, bytearray, bool, type(None)))
#: From this size on pickle writes a value to its file as it is, instead of collecting it with others.
_LARGE = 64 * 1024
_SIZED = frozenset((str, bytes, bytearray))
#: Kinds of dtypes that are no Python objects.
_NUMBERS = "biufcSUmM"


class Coding(Protocol):
    """How the tasks of a Pool become messages."""

    #: What the tasks run, for people.
    name: str
    #: Whether the messages can be read without Python.
    is_readable: bool

    def encode(self, task: PoolTask, names: PoolNames) -> list[Buffer]:
        """Return the pieces of the task's message for a worker; raises what the arguments raise, or
        SettingsError."""

    def decode(self, answer: bytes) -> Any:
        """Return the result in a worker's answer; raises ValueError for what is none."""


class _DecodesResults:
    def decode(self, answer: bytes) -> Any:
        """Return the result in a worker's answer; raises ValueError for what is none."""
        message = codec.decode(ENCODING, answer)
        if not isinstance(message, dict) or "data" not in message:
            raise ValueError(f"{type(message).__name__} instead of a result")
        return message["data"]


class FileCoding(_DecodesResults):
    """Tasks of an algorithm's file: one input each."""

    is_readable = True

    def __init__(self, entry: str) -> None:
        #: FILE, or FILE:FUNCTION.
        self.entry = entry
        self.name = os.path.splitext(os.path.basename(entry.rpartition(":")[0] or entry))[0]

    def make_path_absolute(self) -> None:
        """Have the entry name the same file for a process in another folder."""
        for path in (self.entry, self.entry.rpartition(":")[0]):
            if path and os.path.exists(path):
                self.entry = os.path.abspath(path) + self.entry[len(path) :]
                return

    def encode(self, task: PoolTask, names: PoolNames) -> list[Buffer]:
        """Return the `initialize` message for start(args, api)."""
        (value,) = task.positional
        if not codec.is_native(value, ENCODING):
            try:
                value = codec.plain(value, ENCODING, "input")
            except codec.ResultInvalid as error:
                raise SettingsError(str(error)) from None
        inputs = value if isinstance(value, list) else list(value) if isinstance(value, tuple) else [value]
        ids = names.ids(task.number)
        named = LocalTask(ids.task, ids.job, ids.node, ids.node, ids.pipeline, b"")
        try:
            return codec.encode_pieces(ENCODING, named.message(inputs), name="input", most=None)
        except codec.ResultInvalid as error:
            raise SettingsError(str(error)) from None


class FunctionCoding(_DecodesResults):
    """Tasks of a function: its arguments. Without a function of the Pool, the first argument is one."""

    is_readable = False

    def __init__(self, function: Callable[..., Any] | None) -> None:
        try:
            import cloudpickle
        except ImportError:
            raise SettingsError(
                f"a Pool of a function needs cloudpickle: {sys.executable} -m pip install cloudpickle"
            ) from None
        main = sys.modules.get("__main__")
        if getattr(main, "__name__", "") == "__mp_main__":
            # A process that multiprocessing has spawned: only such ones can import its main module.
            cloudpickle.register_pickle_by_value(main)
        self._dumps: Callable[[Any], bytes] = cloudpickle.dumps
        self._pickler: Callable[..., pickle.Pickler] = cloudpickle.Pickler
        self._has_function = function is not None
        self.name: str = "functions" if function is None else getattr(function, "__name__", "function")
        self._functions = FunctionPickles(self._dumps, cloudpickle.list_registry_pickle_by_value)
        self.pickled = self._dumps(function) if function is not None else None
        #: For UseFunction: what is imported is found as here.
        self.order = pickle.dumps((folders_of_imports(), self.pickled))

    def encode(self, task: PoolTask, names: PoolNames) -> list[Buffer]:
        """Return the pickled arguments."""
        positional = task.positional
        if not self._has_function:
            positional = (self._functions.pickled(positional[0]), *positional[1:])
        both = (positional, task.named)
        values = (*positional, *task.named.values())
        if not all(map(_is_plain, values)):
            return _pickled_pieces(self._pickler, both)
        if any(map(_is_large, values)):
            return _pickled_pieces(pickle.Pickler, both)
        return [pickle.dumps(both, pickle.HIGHEST_PROTOCOL)]


class _Pieces:
    """A file for a pickler: keeps what is written, without a copy of large values."""

    def __init__(self) -> None:
        self.written: list[Buffer] = []

    def write(self, data: Buffer | pickle.PickleBuffer) -> None:
        """Keep this piece."""
        self.written.append(data.raw() if isinstance(data, pickle.PickleBuffer) else data)


def _pickled_pieces(pickler: Callable[..., pickle.Pickler], value: Any) -> list[Buffer]:
    pieces = _Pieces()
    pickler(pieces, pickle.HIGHEST_PROTOCOL).dump(value)
    return pieces.written


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind in _PLAIN:
        return True
    return kind.__module__ == "numpy" and kind.__name__ == "ndarray" and value.dtype.kind in _NUMBERS


def _is_large(value: Any) -> bool:
    """Whether a plain value is one that a pickler with a file does not copy."""
    kind = type(value)
    if kind in _SIZED:
        return len(value) >= _LARGE
    return kind not in _PLAIN and bool(value.nbytes >= _LARGE)
