"""Values of the storage as bytes: put into messages, taken out of answers, looked into, and not decoded."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import pytest
from hkrunner.runner.storage.encoded_value import (
    EncodedValue,
    bson_length,
    check,
    decode,
    describe,
    encode,
    encode_plain,
    part,
    result_of,
    value_of,
)
from hkrunner.runner.storage.errors import ObjectInvalid
from hkrunner.runner.storage.splice import Filled, fill, pieces_of
from hkrunner.sandbox.codec import codec
from hypothesis import given, settings
from hypothesis import strategies as st

codec.accelerate()

ENCODINGS = ("json", "bson", "msgpack")
#: Not "$$a", which names a value here: hypothesis tries the texts that it finds in this file, too.
text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8).filter("$$a".__ne__)
leaf = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
)
value = st.recursive(
    leaf, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4), max_leaves=10
)


@pytest.mark.parametrize("encoding", ENCODINGS)
@settings(max_examples=40, deadline=None)
@given(one=value, plain=value)
def test_a_value_in_a_message_is_what_it_was(encoding: str, one: Any, plain: Any) -> None:
    encoded = encode(encoding, one)
    check(encoded, "it")
    given_input = ["$$a", plain if not isinstance(plain, str) else 1, {"deep": ["$$a", None]}]
    filled = fill(given_input, lambda text: encoded if text == "$$a" else text)
    message = {"command": "initialize", "data": Filled({"input": filled, "jobId": "j"})}
    wire = b"".join(bytes(piece) for piece in pieces_of(encoding, message))
    told = codec.decode(encoding, wire)
    assert told["command"] == "initialize"
    assert told["data"] == {"input": [one, given_input[1], {"deep": [one, None]}], "jobId": "j"}


@pytest.mark.parametrize("encoding", ENCODINGS)
@settings(max_examples=40, deadline=None)
@given(one=value)
def test_a_result_is_taken_out_of_its_answer(encoding: str, one: Any) -> None:
    wire = b"".join(codec.encode_pieces(encoding, {"command": "done", "data": one}))
    result, body = result_of(encoding, wire)
    whole = bson_length(body) + bytes(body) if encoding == "bson" else bytes(body)
    check(result._replace(data=whole), "it")
    assert decode(result._replace(data=whole)) == one


@pytest.mark.parametrize("encoding", ["bson", "msgpack"])
@pytest.mark.parametrize("size", [0, 1, 255, 256, 70_000])
def test_bytes_are_stored_as_they_are_and_come_back_as_bytes(encoding: str, size: int) -> None:
    wire = b"".join(codec.encode_pieces(encoding, {"command": "done", "data": b"x" * size}))
    result, body = result_of(encoding, wire)
    assert result.is_raw and bytes(body) == b"x" * size
    message = {"command": "initialize", "data": Filled({"input": Filled([result])})}
    wire = b"".join(bytes(piece) for piece in pieces_of(encoding, message))
    assert codec.decode(encoding, wire)["data"]["input"] == [b"x" * size]


@pytest.mark.parametrize("encoding", ["bson", "msgpack"])
def test_a_program_may_write_its_answer_in_any_form(encoding: str) -> None:
    forms: list[dict[str, Any]] = [
        {"command": "done"},  # as HKube's wrapper for Node does for `undefined`, in bson
        {"data": None, "command": "done"},
        {"data": {"a": [1]}, "command": "done"},
        {"command": "done", "data": [1, "two"], "error": None},
        {"error": None, "data": b"raw", "command": "done"},
    ]
    for message in forms:
        found, body = result_of(encoding, encode_plain(encoding, message))
        assert decode(found._replace(data=_whole(found, body))) == message.get("data")
    for wire in (b"", b"\0" * 40, encode_plain(encoding, [1])):
        with pytest.raises(ObjectInvalid, match="a `done` of an unknown form"):
            result_of(encoding, wire)


def _whole(value: EncodedValue, body: Any) -> bytes:
    return (bson_length(body) if value.encoding == "bson" else b"") + bytes(body)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_part_is_found_by_its_path(encoding: str) -> None:
    inner = {
        "a": {"b": [1, "two", {"c": [3]}]},
        "7": "seven",
        "none": None,
        "d": [{"e": 4}, None, {"e": 5}, None],
    }
    whole = encode(encoding, inner)

    def found(path: str) -> Any:
        one = part(whole, path)
        # Under bson a null is told as what is not there.
        return "nothing" if one is None or decode(one) is None else decode(one)

    assert [found(path) for path in ("a.b.2.c", "a.b.1", "7", "d.2.e")] == [[3], "two", "seven", 5]
    none = ("x", "none", "a.b.3", "a.b.-1", "a.b.1.x", "a.b.2.c.0.d", "d.1", "d.3", "d.4", "d.e")
    assert [found(path) for path in none] == ["nothing"] * 10
    kinds = {path: describe(one) for path in ("a", "a.b", "7", "d") if (one := part(whole, path)) is not None}
    assert kinds == {"a": ("object", None), "a.b": ("array", 3), "7": ("str", None), "d": ("array", 4)}


def test_a_part_is_found_beside_keys_that_are_no_text() -> None:
    pairs: list[tuple[Any, int]] = [(0.5, 1), (None, 2), (b"x", 3), (7, 4), ("a", 5)]
    data = b"\x85" + b"".join(msgspec.msgpack.encode(one) for pair in pairs for one in pair)
    found = {path: part(EncodedValue("msgpack", data), path) for path in ("a", "7", "b")}
    assert {path: one and decode(one) for path, one in found.items()} == {"a": 5, "7": 4, "b": None}


def test_bytes_within_a_document_that_are_none_are_said_to_be_none() -> None:
    for kind, inner in ((3, b"\x77garbage"), (4, b"\x10\x30\0")):
        data = bytes([kind]) + b"data\0" + struct.pack("<i", len(inner) + 5) + inner + b"\0"
        one = EncodedValue("bson", struct.pack("<i", len(data) + 5) + data + b"\0")
        check(one, "it")  # which sees the outermost document
        with pytest.raises(ObjectInvalid, match="a part of a value is not bson"):
            part(one, "a.b" if kind == 3 else "1")
    for inner in (b"\x030\0", b"\x03nothing", b"\x030\0\xff\0\0\0\0", b"\x030\0\0\0\0\0\x01"):
        document = b"\x04data\0" + struct.pack("<i", len(inner) + 5) + inner + b"\0"
        with pytest.raises(ObjectInvalid, match="a part of a value is not bson"):
            describe(EncodedValue("bson", struct.pack("<i", len(document) + 5) + document + b"\0"))


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("msgpack", b""),
        ("msgpack", b"\x01\x02"),
        ("msgpack", b"\x93\x01"),
        ("json", b"[1"),
        ("json", b"1 2"),
        ("bson", b"\x10\0\0\0\x10data\0\x01\0\0\0"),
        ("bson", b"\x10\0\0\0\x10nope\0\x01\0\0\0\0"),
    ],
)
def test_what_is_not_exactly_one_value_is_refused(encoding: str, data: bytes) -> None:
    with pytest.raises(ObjectInvalid, match=f"it .* is not {encoding}"):
        check(EncodedValue(encoding, data), "it")


def test_a_header_says_what_follows_and_one_of_another_form_is_refused() -> None:
    assert value_of(b"\x01\x08\x02\x01\0\0HK", b".", "msgpack", "it").encoding == "bson"
    assert value_of(b"\x01\x08\x01\x01\0\0HK", b".", "msgpack", "it").is_raw
    assert value_of(None, b".", "msgpack", "it").encoding == "msgpack"
    for header in (b"\x02\x08\x02\x01\0\0HK", b"\x01\x08\x03\x01\0\0HK", b"\x01\x08\x02\x00\0\0HK"):
        with pytest.raises(ObjectInvalid, match="header"):
            value_of(header, b".", "msgpack", "it")
