"""Each line of the table in codec's docstring, both ways and with both libraries."""

from __future__ import annotations

import base64
import collections
import ctypes
import dataclasses
import datetime
import decimal
import enum
import json
import pathlib
import types
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy
import pytest
from hkrunner.sandbox.codec import codec
from hypothesis import given
from hypothesis import strategies as st

codec.accelerate()


@dataclasses.dataclass
class Point:
    x: int
    y: Any = None


class Pair(NamedTuple):
    a: int
    b: int


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Foo:
    pass


class Endless(Sequence[int]):
    def __len__(self) -> int:
        return 10**12

    def __getitem__(self, at: Any) -> Any:
        return at


class FailingList:
    def tolist(self) -> list[int]:
        raise RuntimeError("no")


TABLE: list[tuple[Any, Any]] = [
    (numpy.float64(1.5), 1.5),
    (numpy.int32(7), 7),
    (numpy.bool_(True), True),
    (numpy.arange(3), [0, 1, 2]),
    (numpy.zeros((2, 2)), [[0.0, 0.0], [0.0, 0.0]]),
    ((1, 2), [1, 2]),
    ({7}, [7]),
    (frozenset({7}), [7]),
    (collections.deque([1, 2]), [1, 2]),
    (range(3), [0, 1, 2]),
    (Point(1, Point(2)), {"x": 1, "y": {"x": 2, "y": None}}),
    (Pair(1, 2), [1, 2]),
    (collections.OrderedDict(a=1), {"a": 1}),
    (types.MappingProxyType({"a": 1}), {"a": 1}),
    (collections.Counter("aab"), {"a": 2, "b": 1}),
    (datetime.date(2024, 2, 29), "2024-02-29"),
    (datetime.time(12, 30), "12:30:00"),
    (datetime.datetime(2024, 2, 29, 12), "2024-02-29T12:00:00"),
    (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
    (pathlib.PurePosixPath("/a/b"), "/a/b"),
    (Colour.RED, "red"),
    (Level.HIGH, 3),
    (decimal.Decimal("1.10"), "1.10"),
    (b"\x00\xff", "AP8="),
    (bytearray(b"\x00\xff"), "AP8="),
    (float("nan"), None),
    (float("-inf"), None),
    ({1: "one"}, {"1": "one"}),
    ({True: 1, None: 2}, {"true": 1, "null": 2}),
    ({Colour.RED: 1}, {"red": 1}),
    (None, None),
    ("ü ✔ 😀", "ü ✔ 😀"),
    ([], []),
    ({}, {}),
]


def encoded(value: Any) -> Any:
    message = json.loads(codec.encode("json", {"command": "done", "data": value}))
    assert message["command"] == "done"
    return message["data"]


@pytest.fixture(params=["msgspec", "standard library"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The user's own interpreter need not have msgspec."""
    if request.param == "standard library":
        monkeypatch.setitem(codec._ENCODERS, "json", codec._json_encode)
        monkeypatch.setitem(codec._DECODERS, "json", codec._json_decode)
    name: str = request.param
    return name


@pytest.mark.parametrize(("value", "form"), TABLE, ids=lambda value: repr(value)[:40])
def test_a_value_has_one_form(value: Any, form: Any, library: str) -> None:
    assert encoded(value) == form
    assert encoded({"a": [value]}) == {"a": [form]}


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"a": [1, 2, 3, Foo()]}, "result['a'][3]: "),
        (Foo, "result: "),
        ((n for n in range(3)), "generator cannot be sent; use list(...) of it"),
        ({(1, 2): 3}, "a key of type tuple; keys must be text"),
        ({"a": Point(1, Foo())}, "result['a'].y: "),
        ({"a": range(10**12)}, "result['a']: range of more than 1,000,000,000 values cannot be sent"),
        ([Endless()], "result[0]: Endless of more than 1,000,000,000 values cannot be sent"),
        (1 + 2j, "result: complex cannot be sent; use [it.real, it.imag]"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_any_other_value_is_refused_by_its_place(value: Any, sentence: str, library: str) -> None:
    with pytest.raises(codec.ResultInvalid) as caught:
        encoded(value)
    assert sentence in str(caught.value)


def test_a_value_inside_itself_is_refused(library: str) -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(
        codec.ResultInvalid,
        match=r"^result\[0\]: it is result again, which contains itself: break the circle$",
    ):
        encoded(circle)
    inner: dict[str, Any] = {"back": None}
    inner["back"] = (1, inner)
    with pytest.raises(
        codec.ResultInvalid, match=r"^result\['a'\]\['back'\]\[1\]: it is result\['a'\] again"
    ):
        encoded({"a": inner})


def test_a_value_nested_deeper_than_the_interpreter_allows_is_refused(library: str) -> None:
    deep: list[Any] = []
    for _ in range(50_000):
        deep = [deep]
    with pytest.raises(codec.ResultInvalid):
        encoded(deep)


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_every_python_refuses_a_depth_that_another_one_could_not_read(encoding: str, library: str) -> None:
    chain: list[Any] = []
    for length in range(950):
        chain = [{"length": length, "more": "text", "rest": chain}] if length % 50 else [chain, length]
    with pytest.raises(codec.ResultInvalid, match="nested more than 200 deep"):
        codec.encode(encoding, {"data": chain})


def test_the_place_of_an_error_is_bounded() -> None:
    with pytest.raises(codec.ResultInvalid) as caught:
        encoded({"k" * 100_000: Foo()})
    assert len(str(caught.value)) < 500


def test_a_result_above_the_workers_limit_is_refused_with_both_numbers(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec, "MESSAGE_LIMIT", 1000)
    with pytest.raises(codec.ResultTooLarge, match=r"the result is 1,0\d\d bytes as json; .* at most 1,000"):
        encoded("x" * 1000)


def test_so_many_values_that_they_cannot_fit_are_refused_before_they_are_converted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(codec, "MESSAGE_LIMIT", 1000)
    for value in ([Foo()] * 501, range(10**8), range(10**30), numpy.zeros((3, 167))):
        for encode in (codec.encode, codec.encode_pieces):
            with pytest.raises(codec.ResultTooLarge, match=r"the result has .* values"):
                encode("json", {"data": value})


@pytest.mark.parametrize(
    ("encoding", "value", "room"),
    [("bson", 2**63, "63 and a sign"), ("msgpack", -(2**63) - 1, "63 and a sign"), ("msgpack", 2**64, "64")],
)
def test_an_integer_is_told_with_the_room_that_there_is(encoding: str, value: int, room: str) -> None:
    said = rf"^result: int of \d+ bits, {encoding} carries {room}: return it as text$"
    with pytest.raises(codec.ResultInvalid, match=said):
        codec.plain(value, encoding, "result")


def test_a_range_is_converted_as_a_whole(library: str) -> None:
    assert encoded(range(2**64, 2**64 + 2)) == [2**64, 2**64 + 1]
    assert encoded({"a": range(9, 0, -4)}) == {"a": [9, 5, 1]}
    with pytest.raises(codec.ResultInvalid, match=r"^result\[0\]\[-1\]: int of 100 bits"):
        codec.plain([range(10**30)], "msgpack", "result")
    with pytest.raises(codec.ResultInvalid, match=r"^result\[0\]: range of more than 1,000,000,000 values"):
        encoded([range(10**30)])


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


@given(VALUES)
def test_any_json_comes_back_as_it_went(value: Any) -> None:
    assert encoded(value) == value
    wire = codec.encode("json", {"command": "done", "data": value})
    assert codec.decode("json", memoryview(wire)) == {"command": "done", "data": value}


@given(VALUES)
def test_the_slow_way_makes_what_the_fast_way_makes(value: Any) -> None:
    assert codec.plain(value, "json", "result") == value


@given(st.binary(max_size=100))
def test_bytes_that_are_no_message_are_a_value_error(data: bytes) -> None:
    try:
        codec.decode("json", data)
    except ValueError:
        pass


@pytest.mark.parametrize("text", ["[12345678901234567890123]", '["\\ud800"]', "[1e400]"])
def test_what_json_allows_and_a_library_does_not_is_read_all_the_same(text: str, library: str) -> None:
    assert codec.decode("json", text.encode()) == json.loads(text)


def test_binary_data_under_json_can_be_read_back() -> None:
    data = bytes(range(256))
    assert base64.b64decode(encoded(data)) == data
    assert encoded(memoryview(b"\x00\x01\xff")[::2]) == encoded(b"\x00\xff")
    # A view whose format memoryview.tolist() does not take.
    assert encoded(memoryview((ctypes.c_int * 2)(1, 2))) == encoded(bytes((ctypes.c_int * 2)(1, 2)))


@pytest.mark.parametrize(
    ("message", "data", "task"),
    [
        (
            {"command": "initialize", "data": {"taskId": "t", "input": [1]}},
            {"taskId": "t", "input": [1]},
            "t",
        ),
        ({"command": "initialize"}, {"input": []}, None),
        ({"command": "initialize", "data": None}, {"input": []}, None),
        ({"command": "initialize", "data": [1, 2]}, {"input": [1, 2]}, None),
        ({"data": {"taskId": 7}}, {"taskId": 7, "input": []}, "7"),
        ([], {"input": []}, None),
    ],
)
def test_an_initialize_of_any_shape_has_data_and_ids(message: Any, data: Any, task: str | None) -> None:
    found = codec.data_of(message)
    ids = codec.ids_of(found)
    assert found == data and ids["taskId"] == task
    assert set(ids) == {"taskId", "jobId", "nodeName", "algorithmName", "pipelineName"}


def test_a_value_without_a_json_form_is_not_kept() -> None:
    assert codec.json_text(Foo()) is None
    assert codec.json_text({"a": (1, numpy.float32(0.5))}) == b'{"a":[1,0.5]}'


@pytest.mark.parametrize("value", [{"é": "日本 😀"}, ["\u2028"]])
def test_json_has_characters_as_they_are_with_msgspec_and_without(
    value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_msgspec = codec.json_text(value)
    monkeypatch.setitem(codec._ENCODERS, "json", codec._json_encode)
    assert codec.json_text(value) == with_msgspec
    assert with_msgspec == json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def test_a_lone_surrogate_is_written_as_its_escape() -> None:
    assert codec.json_text(["é\ud800"]) == b'["\\u00e9\\ud800"]'


@pytest.mark.parametrize("make", [lambda number: {"a": number}, lambda number: {number: 1}])
def test_an_int_with_more_digits_than_python_writes_is_refused_by_its_place(
    make: Callable[[int], object],
) -> None:
    for encoding in ("json", "socket.io"):
        with pytest.raises(codec.ResultInvalid) as caught:
            codec.encode(encoding, {"data": make(10**5000)})
        text = str(caught.value)
        assert text.startswith("result")
        assert text.endswith("int of 16,610 bits: Python refuses to write so many digits; use hex(...) of it")
