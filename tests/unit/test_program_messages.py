"""What a program sends is checked as HKube's worker decodes it, without decoding its payload."""

from __future__ import annotations

import json
from typing import Any

import bson
import msgspec
import pytest
from hkrunner.runner.program import handshake
from hkrunner.runner.program.program_message import ProgramMessage, input_json, read, result_json
from hypothesis import given
from hypothesis import strategies as st

ENCODERS = {
    "json": lambda message: json.dumps(message).encode(),
    "bson": lambda message: bson.encode({"data": message}),
    "msgpack": msgspec.msgpack.encode,
}
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)


@pytest.mark.parametrize("encoding", list(ENCODERS))
@given(value=VALUES)
def test_a_message_is_read_in_each_encoding(encoding: str, value: Any) -> None:
    found = read(encoding, ENCODERS[encoding]({"command": "done", "data": value}))
    assert found._replace(data_json=None) == ProgramMessage("done", None, isinstance(value, dict), False)
    if encoding == "json":
        assert found.data_json is not None
        assert json.loads(bytes(found.data_json)) == value
    else:
        text = result_json(encoding, ENCODERS[encoding]({"command": "done", "data": value}))
        assert text is not None
        assert json.loads(text) == value


@pytest.mark.parametrize("encoding", list(ENCODERS))
def test_an_error_in_a_message_is_seen(encoding: str) -> None:
    encode = ENCODERS[encoding]
    assert read(encoding, encode({"command": "done", "error": {"message": "no"}})).has_error
    assert not read(encoding, encode({"command": "done", "data": 1, "error": None})).has_error


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"command":5}',
        b'{"command":"done","data":NaN}',
        b'{"command":"done","data":[1,-Infinity]}',
        b'{"command":"done","data":01}',
        b'{"command":"done","data":"\xff"}',
        b'{"command":"done","data":1} {}',
        b'{"command":"done","data":[1,]}',
        b'{"command":"done","data":"a\nb"}',
        b'{"command":"done"',
    ],
)
def test_what_the_worker_could_not_decode_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        read("json", text)


def test_what_is_nested_too_deep_to_be_read_is_refused() -> None:
    deep = 200_000
    with pytest.raises(ValueError, match="nested too deep"):
        read("json", b'{"command":"done","data":' + b"[" * deep + b"]" * deep + b"}")
    with pytest.raises(ValueError, match="nested too deep"):
        read("msgpack", b"\x82\xa7command\xa4done\xa4data" + b"\x91" * deep + b"\xc0")
    wire = b'{"command":"initialize","data":{"input":' + b"[" * deep + b"]" * deep + b"}}"
    assert input_json("json", wire) is None


@pytest.mark.parametrize("encoding", ["bson", "msgpack"])
@given(data=st.binary(max_size=60))
def test_any_bytes_are_a_message_or_are_refused(encoding: str, data: bytes) -> None:
    try:
        read(encoding, data)
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize("before", [0, 262_115, 262_116, 262_117, 262_118, 300_000])
def test_the_text_of_a_large_message_is_checked_wherever_it_is(before: int) -> None:
    begin, end = b'{"command":"done","data":"' + b"x" * before, b"x" * 600_000 + b'"}'
    assert read("json", memoryview(begin + "ü😀".encode() + end)).command == "done"
    for wrong in (b"\xff", "😀".encode()[:3], "ü".encode()[1:]):
        with pytest.raises(ValueError, match="utf-8"):
            read("json", memoryview(begin + wrong + end))
        with pytest.raises(ValueError, match="utf-8"):
            read("json", memoryview(begin + end + wrong))


@pytest.mark.parametrize(
    "value",
    ["x" * 300_000, [{"a": 1}] * 20_000, ["ä"] * 30_000, b"x" * 300_000, None],
    ids=lambda value: repr(value)[:5],
)
def test_a_large_message_of_bson_is_read_without_its_payload(value: Any) -> None:
    message = {"error": None, "data": value, "command": "done", "more": {"large": b"x" * 300_000}}
    wire = ENCODERS["bson"](message)
    assert read("bson", wire) == read("bson", memoryview(wire)) == ProgramMessage("done", None, False, False)
    assert read("bson", ENCODERS["bson"]({**message, "data": {"a": value}, "error": {}}))[2:] == (True, True)
    others = (wire.replace(b"command", b"no-name"), wire.replace(b"\x02comm", b"\x04comm"))
    for wrong in (wire + b"\0", wire[:-1], *others):
        with pytest.raises(ValueError):
            read("bson", wrong)


@pytest.mark.parametrize("value", ["x" * 300_000 + "<here>", ["x" * 300_000, "<here>"]], ids=["text", "list"])
def test_text_of_a_large_message_of_bson_that_is_none_is_refused(value: Any) -> None:
    wire = ENCODERS["bson"]({"command": "done", "data": value})
    assert read("bson", wire).command == "done"
    with pytest.raises(ValueError, match=r"utf-?8"):
        read("bson", wire.replace(b"<here>", b"<\xff\xff\xff\xff>"))


def test_a_lone_surrogate_is_passed_on_as_javascript_writes_it() -> None:
    found = read("json", b'{"command":"done","data":"\\ud800"}')
    assert found.data_json == b'"\\ud800"'


@pytest.mark.parametrize("encoding", list(ENCODERS))
def test_the_input_of_a_task_is_found(encoding: str) -> None:
    wire = ENCODERS[encoding]({"command": "initialize", "data": {"taskId": "t", "input": [1, {"a": None}]}})
    text = input_json(encoding, wire)
    assert text is not None
    assert json.loads(bytes(text)) == [1, {"a": None}]
    assert input_json(encoding, b"no message") is None


# ---- the handshake

REQUEST = (
    "GET /path?encoding=json&storage=v1 HTTP/1.1\r\nHost: h\r\nUpgrade: WebSocket\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def test_a_request_is_read_and_answered_as_rfc_6455_has_it() -> None:
    found = handshake.read(REQUEST.encode())
    assert (found.path, found.query) == ("/path", {"encoding": "json", "storage": "v1"})
    # The example of RFC 6455, 1.3.
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in handshake.accepted(found.key)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("GET", "POST", "it is no request of a WebSocket client"),
        ("Upgrade", "Downgrade", "it is no request of a WebSocket client"),
        ("Sec-WebSocket-Key", "Key", "it is no request of a WebSocket client"),
        ("\r\n\r\n", "\r\n\r\n\x81\x80", "it sent a frame before it was accepted"),
    ],
)
def test_any_other_request_is_refused(old: str, new: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        handshake.read(REQUEST.replace(old, new).encode("latin-1"))
