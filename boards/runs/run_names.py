"""Names of tasks that say in which inputs they differ: `t2 lr=0.02`.

TensorBoard identifies a run by its name, with its colour and its check mark. So a name stays for a task that
runs or has succeeded, whatever tasks follow. A task that ends otherwise is renamed once: a mark is put behind
its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from .task_values import MAX_VALUES, Scalar, printable, shown, shown_exactly

_MARKS = {"succeed": "", "active": "", "stopped": "■"}
_FAILED = "✘"
_BEHIND_NAMES = (f" {_FAILED}", *(f" {mark}" for mark in _MARKS.values() if mark))  # no name ends like this
_MAX_NAME = 40  # what TensorBoard shows of a run in the list and on a card
_MAX_TASK = 16
_TASK_BEGIN = 8  # of HKube's ids, which have 36 characters
_MAX_KEY = 16
_MAX_LIST = 16  # characters of a list whose items are shown, as `[64,64]`
_TEXTS_COMPARED = 1000  # of one input: nobody looks for two that are alike among more
_ITEM = re.compile(r"\[(\d+)\]")


class NamedTask(NamedTuple):
    """What the name of a task is made of."""

    id: str  # as `runs ls` shows it
    node: str  # of the pipeline: an algorithm's name in local runs
    inputs: Mapping[str, Scalar]  # empty while they are not known


class RunNames:
    """The names of one board's tasks."""

    def __init__(self) -> None:
        self._count = 0
        self._first: dict[str, Scalar] = {}  # the first value of each input
        self._having: dict[str, int] = {}  # how many tasks have the input
        self._varying: set[str] = set()  # inputs with more than one value
        self._texts: dict[str, dict[str, Scalar]] = {}  # of a varying input: a value by how it is shown
        self._alike: set[str] = set()  # inputs with values that differ, and are shown alike
        self._lengths: dict[str, set[int]] = {}  # of lists among the inputs, by their place
        self._nodes: set[str] = set()
        self._taken: set[str] = set()

    def learn(self, tasks: Iterable[NamedTask]) -> None:
        """Names made from now on also say in what their tasks differ from these."""
        for task in tasks:
            one = task.inputs
            self._nodes.add(task.node)
            if not one:  # not recorded, or not yet
                continue
            self._count += 1
            for key, value in one.items():
                first = self._first.setdefault(key, value)
                if first is not value and (first != value or type(first) is not type(value)):
                    self._varying.add(key)
                    self._compare(key, first)
                    self._compare(key, value)
                self._having[key] = self._having.get(key, 0) + 1
            for place, length in _lengths(one).items():
                self._lengths.setdefault(place, set()).add(length)

    def name(self, task: NamedTask, *, earlier: str = "") -> str:
        """Return the task's name, which no other call returns.

        earlier: a name of the same task, which the new one replaces.
        It has the inputs in which the tasks differ, as many as fit; any inputs while only one task is known.
        """
        name = task.id if len(task.id) <= _MAX_TASK else f"{task.id[:_TASK_BEGIN]}…"
        node = [shown(task.node)] if len(self._nodes) > 1 else []
        for part in (*node, *self._described(task.inputs)):
            if len(name) + 1 + len(part) <= _MAX_NAME:
                name += f" {part}"
        name = _path_part(name)
        self._taken.discard(earlier)
        unique, number = name, 1
        while unique in self._taken or unique[-2:] in _BEHIND_NAMES:
            number += 1
            unique = f"{name} ({number})"
        self._taken.add(unique)
        return unique

    def _compare(self, key: str, value: Scalar) -> None:
        """Note whether another value of this input is shown like this one, as 0.1 and 0.1000000001."""
        texts = self._texts.setdefault(key, {})
        is_compared = key not in self._alike and len(texts) < _TEXTS_COMPARED
        if is_compared and texts.setdefault(shown(value), value) != value:
            self._alike.add(key)

    def _differs(self, key: str) -> bool:
        return self._count < 2 or key in self._varying or self._having.get(key, 0) < self._count

    def _described(self, inputs: Mapping[str, Scalar]) -> Iterator[str]:
        """Yield `lr=0.02` for each input in which tasks differ; of a single value the value alone.

        A list that has different lengths is shown as a whole, or by its length before its items.
        """
        uneven = {
            place: length
            for place, length in _lengths(inputs).items()
            if len(self._lengths.get(place, ())) > 1
        }
        told: dict[str, bool] = {}  # place of an uneven list -> whether its items are shown in one part
        for key, value in inputs.items():
            place = next((one for one in uneven if _is_item(key, one)), None)
            if place is not None and place not in told:
                whole = _whole(inputs, place, uneven[place])
                told[place] = whole is not None
                yield whole or f"len({_short_key(place)})={uneven[place]}"
            if (place is None or not told[place]) and self._differs(key):
                text = shown_exactly(value) if key in self._alike else shown(value)
                yield text if key == "input" else f"{_short_key(key)}={text}"


def _lengths(inputs: Mapping[str, Scalar]) -> dict[str, int]:
    """Return the lengths of the lists among the inputs by their place: `layers[0]=64 layers[1]=64` is 2."""
    found: dict[str, int] = {}
    if len(inputs) == MAX_VALUES:  # the last list may be cut
        return found
    for key, value in inputs.items():
        if "[" in key:
            for match in _ITEM.finditer(key):
                place, number = key[: match.start()] or "input", int(match[1])
                if number - found.get(place, 0) in (0, -1):  # else it is a key of the user's
                    found[place] = number + 1
        elif isinstance(value, int) and key.startswith("len(") and key.endswith(")"):
            found[key[4:-1]] = value
    return found


def _is_item(key: str, place: str) -> bool:
    """Whether the key belongs to an item of the list at this place."""
    return key.startswith(f"{place}[") or (place == "input" and key.startswith("["))


def _whole(inputs: Mapping[str, Scalar], place: str, length: int) -> str | None:
    """Return the list as one part of a name; None if it is long, or has more than plain values."""
    keys = [f"{place}[{number}]" for number in range(length)] if length <= _MAX_LIST else []
    if place == "input" and "[0]" in inputs:
        keys = [key.removeprefix(place) for key in keys]
    if not keys or not all(key in inputs for key in keys):
        return None
    text = ",".join(shown(inputs[key]) for key in keys)
    if len(text) + 2 > _MAX_LIST:
        return None
    return f"[{text}]" if place == "input" else f"{_short_key(place)}=[{text}]"


def marked(name: str, status: str) -> str:
    """Return the name with the mark of its task's outcome; unchanged for one that runs or has succeeded."""
    mark = _MARKS.get(status, _FAILED)
    return f"{name} {mark}" if mark else name


def _path_part(name: str) -> str:
    """Return the name as one part of a path: a slash would make a run below another."""
    return printable(name.replace("/", "\u2215"))


def _short_key(key: str) -> str:
    """Return the key, of a long one its end, which distinguishes it: `optimizer.schedule.warmup`."""
    return key if len(key) <= _MAX_KEY else f"…{key[1 - _MAX_KEY :]}"
