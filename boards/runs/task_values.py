"""Inputs and results of tasks as flat, short values: for run names, hyperparameters and `runs ls`.

[{"lr": 0.02, "model": {"layers": [64, 64]}}]   lr=0.02  model.layers[0]=64  model.layers[1]=64
[0.02]                                          input=0.02
["a.csv", {"lr": 0.02}]                         [0]=a.csv  [1].lr=0.02
[{"data": [… 1,000 numbers …]}]                 len(data)=1000
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping

from .files import read_bytes, safe_part
from .journal_reader import JournalTask

Scalar = bool | int | float | str

_MAX_FILE_BYTES = 1 << 20  # a larger value is not parsed: a board may show thousands of tasks
MAX_VALUES = 64
_MAX_DEPTH = 6
_MAX_ITEMS = 8  # of a list: a longer one is shown by its length
_MAX_TEXT = 100
_MAX_KEY = 100
_MAX_SHOWN = 1000
_MAX_DIGITS = 4300  # that int() reads, and str() writes
_SURROGATE = re.compile("[\ud800-\udfff]")


def flatten(value: object, name: str) -> dict[str, Scalar]:
    """Return the scalars in the value by their place; of a long list its length. At most 64.

    name: of a value that has no place in a larger one.
    """
    found: dict[str, Scalar] = {}
    for place, scalar in _scalars(value, "", 0):
        key = _encodable(_cut_begin((place or name).replace("len()", f"len({name})")))
        while key in found:  # {"a.b": 1, "a": {"b": 2}}
            key += "'"
        found[key] = _encodable(scalar) if isinstance(scalar, str) else scalar
        if len(found) == MAX_VALUES:
            break
    return found


def _cut_begin(key: str) -> str:
    """Return the key, of a long one its end, which says most."""
    return key if len(key) <= _MAX_KEY else f"…{key[1 - _MAX_KEY :]}"


def _cut_middle(text: str, limit: int) -> str:
    """Return the text, of a long one both ends: the names of two files often differ only in the last one."""
    half = limit // 2
    return text if len(text) <= limit else f"{text[: limit - half - 1]}…{text[-half:]}"


def _encodable(text: str) -> str:
    """Return the text without lone surrogates, which JSON can hold: TensorBoard's pages fail at one."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def flatten_input(value: object) -> dict[str, Scalar]:
    """Return the scalars of a task's input, a list: a single element is shown without its position."""
    if isinstance(value, list) and len(value) == 1:
        return flatten(value[0], "input")
    return flatten(value, "input")


def _scalars(value: object, place: str, depth: int) -> Iterator[tuple[str, Scalar]]:
    if isinstance(value, (bool, int, float)):
        yield place, value
    elif isinstance(value, str):
        yield place, _cut_middle(value, _MAX_TEXT)
    elif value is None:
        yield place, "null"
    elif isinstance(value, (dict, list)) and (depth == _MAX_DEPTH or not value):
        yield f"len({place})", len(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _scalars(item, f"{place}.{key}" if place else str(key), depth + 1)
    elif isinstance(value, list):
        if len(value) > _MAX_ITEMS:
            yield f"len({place})", len(value)
        else:
            for number, item in enumerate(value):
                yield from _scalars(item, f"{place}[{number}]", depth + 1)


def numbers(values: Mapping[str, Scalar]) -> dict[str, float]:
    """Return the values that are numbers; true and false count as 1 and 0.

    An integer beyond the range of a float, as 10**400, is left out.
    """
    found = {}
    for name, value in values.items():
        if isinstance(value, (int, float)):
            with contextlib.suppress(OverflowError):
                found[name] = float(value)
    return found


def shown(value: Scalar, *, limit: int = 16) -> str:
    """Return the value as names and tables show it: on one line, cut at the limit."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = printable(" ".join(str(value)[:_MAX_SHOWN].split()))
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def shown_exactly(value: Scalar, *, limit: int = 16) -> str:
    """Return the value with what may distinguish it from similar ones: all digits, or the end of a text."""
    if isinstance(value, float):
        return repr(value)
    text = shown(value, limit=_MAX_SHOWN)
    return text if len(text) <= limit else f"…{text[1 - limit :]}"


def printable(text: str) -> str:
    """Return the text with the sign for what cannot be shown in place of control and format characters.

    A value of the user's must not color a terminal, turn the direction of its text, or split a line.
    """
    return text if text.isprintable() else "".join(one if one.isprintable() else "\ufffd" for one in text)


def read_input(task_folder: str, facts: Mapping[str, object]) -> dict[str, Scalar] | None:
    """Return the scalars of a recorded task's input; None when its record has none (yet)."""
    size = _unrecorded_input(facts)
    if size is not None:
        return {"bytes(input)": size}
    value = _read(f"{task_folder}/input.json")
    return None if value is None else flatten_input(value[0])


def read_result(task_folder: str) -> dict[str, Scalar]:
    """Return the scalars of a recorded task's result; empty when its record has none."""
    value = _read(f"{task_folder}/output.json")
    return {} if value is None else flatten(value[0], "result")


def input_in_journal(task: JournalTask) -> dict[str, Scalar] | None:
    """Return the scalars of the input of a task in a journal; None when its record has none."""
    size = _unrecorded_input(task.facts)
    if size is not None:
        return {"bytes(input)": size}
    value = json_value(task.input_json())
    return None if value is None else flatten_input(value[0])


def result_in_journal(task: JournalTask) -> dict[str, Scalar]:
    """Return the scalars of the result of a task in a journal; empty when its record has none."""
    value = json_value(task.output_json())
    return {} if value is None else flatten(value[0], "result")


def task_folder(root: str, name: str) -> str:
    """Return the folder of a task's record below the state folder."""
    return f"{root}/tasks/{safe_part(name)}"


def _unrecorded_input(facts: Mapping[str, object]) -> int | None:
    """Return the size of an input that was not kept; None for any other."""
    sizes = facts.get("notKept")
    size = sizes.get("input") if isinstance(sizes, dict) else None
    return size if isinstance(size, int) else None


def _read(path: str) -> tuple[object] | None:
    """Return the JSON value in the file, in a tuple as it may be null; of a large one the size."""
    try:
        size = os.stat(path).st_size
        return ({"bytes": size},) if size > _MAX_FILE_BYTES else json_value(read_bytes(path))
    except OSError:
        return None


def json_value(data: bytes | None) -> tuple[object] | None:
    """Return the value that the JSON text describes, in a tuple as it may be null; None if it describes none.

    A number of more digits than int() takes is returned as its text.
    """
    try:
        return None if data is None else (_decoder.decode(data.decode("utf-8", "surrogatepass")),)
    except (ValueError, RecursionError):
        return None


def _integer(text: str) -> int | str:
    """Return the number; its text if it has too many digits, for the sake of the values beside it."""
    return int(text) if len(text) <= _MAX_DIGITS else text


_decoder = json.JSONDecoder(parse_int=_integer)  # json.loads() makes a new one each time
