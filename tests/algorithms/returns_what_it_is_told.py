"""Returns a value of the kind its input names."""

import collections
import dataclasses
import datetime
import decimal
import enum
import pathlib
import uuid


@dataclasses.dataclass
class Point:
    x: int
    y: float


class Colour(enum.Enum):
    RED = "red"


class Foo:
    pass


async def never_awaited():
    pass


def start(args, api):
    kind = args["input"][0]
    circle = []
    circle.append(circle)
    values = {
        "object": lambda: {"a": [1, 2, 3, Foo()]},
        "circle": lambda: circle,
        "deep": lambda: deep(100_000),
        "wide int": lambda: {"n": [2**70]},
        "generator": lambda: (n for n in range(3)),
        "coroutine": never_awaited,
        "function": lambda: start,
        "key": lambda: {(1, 2): 3},
        "nan": lambda: [float("nan"), float("inf"), 1.5],
        "bytes": lambda: b"\x00\xff",
        "set": lambda: {7},
        "point": lambda: Point(1, 2.5),
        "date": lambda: datetime.date(2024, 2, 29),
        "enum": lambda: Colour.RED,
        "decimal": lambda: decimal.Decimal("1.10"),
        "path": lambda: pathlib.PurePosixPath("/a/b"),
        "uuid": lambda: uuid.UUID(int=5),
        "deque": lambda: collections.deque([1, 2]),
        "int key": lambda: {1: "one"},
        "none": lambda: None,
        "surrogate": lambda: "\udcff",
        "large": lambda: "x" * 3_000_000,
        "too large": lambda: "x" * 101_000_000,
        "behave": lambda: "served",
    }
    value = values[kind]()
    return value


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value
