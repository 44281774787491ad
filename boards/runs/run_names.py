"""Names of tasks that say in which inputs they differ: `t2 lr=0.02`.

TensorBoard identifies a run by its name, with its colour and its check mark. So a name stays for a task that
runs or has succeeded, whatever tasks follow. A task that ends otherwise is renamed once: a mark is put behind
its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .task_values import Scalar, printable, shown

_MARKS = {"succeed": "", "active": "", "stopped": "■"}
_FAILED = "✘"
_BEHIND_NAMES = (f" {_FAILED}", *(f" {mark}" for mark in _MARKS.values() if mark))  # no name ends like this
_MAX_NAME = 40  # what TensorBoard shows of a run in the list and on a card
_MAX_TASK = 16
_TASK_BEGIN = 8  # of HKube's ids, which have 36 characters
_MAX_KEY = 16


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
                self._having[key] = self._having.get(key, 0) + 1

    def name(self, task: NamedTask, *, earlier: str = "") -> str:
        """Return the task's name, which no other call returns.

        earlier: a name of the same task, which the new one replaces.
        It has the inputs in which the tasks differ, as many as fit; any inputs while only one task is known.
        """
        name = task.id if len(task.id) <= _MAX_TASK else f"{task.id[:_TASK_BEGIN]}…"
        keys = [key for key in task.inputs if self._count < 2 or self._differs(key)]
        node = [shown(task.node)] if len(self._nodes) > 1 else []
        for part in node + described(task.inputs, keys):
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

    def _differs(self, key: str) -> bool:
        return key in self._varying or self._having.get(key, 0) < self._count


def described(inputs: Mapping[str, Scalar], keys: Iterable[str]) -> list[str]:
    """Return `lr=0.02` for each key; the value alone of an input that is a single value."""
    return [
        shown(inputs[key]) if key == "input" else f"{_short_key(key)}={shown(inputs[key])}" for key in keys
    ]


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
