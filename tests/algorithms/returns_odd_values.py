"""Returns the value that its input names: most of what libraries convert in ways of their own."""

import array
import datetime
import enum
import re
from dataclasses import dataclass, field


@dataclass
class Point:
    x: int = 1
    _hidden: int = 2
    late: int = field(init=False, default=9)


class Number(int):
    def __repr__(self):
        return "a number"


class Text(str):
    def __str__(self):
        return "another text"


class Color(enum.IntEnum):
    RED = 1


UTC = datetime.timezone.utc


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


VALUES = {
    "aware": lambda: datetime.datetime(2024, 1, 1, tzinfo=UTC),
    "delta": lambda: datetime.timedelta(days=1, seconds=5),
    "dataclass": Point,
    "dataclasses in a list": lambda: [Point(), Point()],
    "two keys become one": lambda: {1: "a", "1": "b"},
    "a tuple as key": lambda: {(1, 2): 3},
    "an int of its own kind": lambda: {Number(5): Number(6)},
    "enum": lambda: {Color.RED: Color.RED},
    "pattern": lambda: re.compile("a"),
    "array": lambda: array.array("d", [1.5, 2]),
    "surrogate in a key": lambda: {"ok": {"a\ud800": 5}},
    "deep": lambda: deep(3),
    "too deep": lambda: deep(5000),
    "a long list of times": lambda: [datetime.datetime(2024, 1, 1, tzinfo=UTC)] * 2000,
    "a text of its own kind": lambda: {Text("a"): Text("a")},
}


def start(args):
    return VALUES[args["input"][0]]()
