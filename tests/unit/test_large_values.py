"""An answer in pieces is, joined, what the encoder makes of the whole."""

from __future__ import annotations

import tracemalloc
from typing import Any

import bson
import msgspec
import pytest
from hkrunner.sandbox.codec import codec, large_values
from hypothesis import given
from hypothesis import strategies as st

codec.accelerate()

LARGE = b"\0\xff" * (large_values.LARGE // 2)
ENCODERS = {
    "bson": lambda message: bson.encode({"data": message}),
    "msgpack": msgspec.msgpack.encode,
}

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
leaf = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | text | st.binary(max_size=5)
large = st.just(LARGE) | st.just(bytearray(LARGE + b"!"))
value = st.recursive(
    leaf | large,
    lambda inner: (
        st.lists(inner, max_size=20) | st.dictionaries(text, inner, max_size=4) | st.tuples(inner, leaf)
    ),
    max_leaves=6,
)


def plain(value: Any) -> Any:
    """With what every decoder gives: lists and bytes."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return bytes(value) if isinstance(value, bytearray) else value


@pytest.mark.parametrize("encoding", ENCODERS)
@given(value=value)
def test_pieces_make_what_the_encoder_makes(encoding: str, value: Any) -> None:
    message = {"command": "done", "data": value}
    joined = b"".join(codec.encode_pieces(encoding, message))
    assert joined == ENCODERS[encoding](plain(message))
    assert codec.decode(encoding, joined) == plain(message)
    assert codec.encode_value(encoding, value) == ENCODERS[encoding](plain(value))


@pytest.mark.parametrize("encoding", ENCODERS)
def test_a_large_value_is_not_copied(encoding: str) -> None:
    message = {"command": "done", "data": {"image": LARGE, "more": [1, {"again": LARGE}], "name": "a"}}
    found = codec.encode_pieces(encoding, message)
    assert [one is LARGE for one in found] == [False, True, False, True, False]
    assert [one is LARGE for one in codec.encode_value_pieces(encoding, [LARGE, 1])] == [False, True, False]


@pytest.mark.parametrize("encoding", ["json", "bson", "msgpack"])
@pytest.mark.parametrize(
    "value",
    [1, {"a": [b"x"]}, {1: LARGE}, {"a\0b": LARGE}, [LARGE, {1, 2}], [2**70, LARGE], ["\ud800", LARGE]],
    ids=str,
)
def test_unsuitable_values_are_left_to_the_encoder(encoding: str, value: Any) -> None:
    def outcome(encode: Any) -> object:
        try:
            return b"".join(encode())
        except codec.ResultInvalid as error:
            return str(error)

    message = {"command": "done", "data": value}
    assert outcome(lambda: codec.encode_pieces(encoding, message)) == outcome(
        lambda: [codec.encode(encoding, message)]
    )


@pytest.mark.parametrize("encoding", ENCODERS)
def test_what_contains_itself_is_reported(encoding: str) -> None:
    value: list[Any] = [LARGE]
    value.append(value)
    with pytest.raises(codec.ResultInvalid, match="contains itself"):
        codec.encode_pieces(encoding, {"command": "done", "data": value})


@pytest.mark.parametrize("encoding", ENCODERS)
def test_the_size_of_all_pieces_together_is_limited(encoding: str) -> None:
    half = bytes(codec.MESSAGE_LIMIT // 2)
    with pytest.raises(codec.ResultTooLarge, match="the result is 100,000,0"):
        codec.encode_pieces(encoding, {"command": "done", "data": [half, half]})


def test_millions_of_small_values_are_not_looked_at_one_by_one() -> None:
    values = [1.5] * 2_000_000
    tracemalloc.start()
    try:
        for value in (values, {"a": values}):
            assert not large_values.large_within(value)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
