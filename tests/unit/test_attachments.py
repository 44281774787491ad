"""The encoding socket.io: JSON, and bytes as attachments after it."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from hkrunner.runner.protocol import encoding
from hkrunner.sandbox.codec import attachments, codec

LARGE = bytes(range(256)) * 2000


@pytest.mark.parametrize(
    "data",
    [
        None,
        b"",
        b"\0",
        LARGE,
        [b"a", {"k": [b"\xff", 1.5, "x"], "n": None}, [[b"c"]]],
        {"text": '{"_placeholder":true,"num":0}', "bytes": b"x"},
        {"_placeholder": True, "num": 0},
        {"_placeholder": False, "num": 0, "bytes": b"x"},
        [[bytes([number])] for number in range(attachments.MOST)],
        "\udcff",
    ],
)
def test_a_value_comes_back_as_it_was(data: Any) -> None:
    wire = codec.encode("socket.io", {"command": "done", "data": data})
    assert codec.decode("socket.io", wire) == {"command": "done", "data": data}
    assert b"".join(codec.encode_pieces("socket.io", {"command": "done", "data": data})) == wire
    assert encoding.command_of("socket.io", wire[:256], lambda: wire) == "done"


def test_a_message_that_claims_many_values_is_not_taken_apart() -> None:
    sizes = [2] + [0] * 3000
    wire = b"{}" + struct.pack(f"<{len(sizes)}Q", *sizes) + struct.pack("<IB", 3000, 0)
    assert len(attachments.sizes_of(len(wire), lambda at, length: wire[at : at + length])) == 3001
    with pytest.raises(ValueError, match="it has 3,000 values of bytes; at most 10 are sent"):
        attachments.split(len(wire), lambda at, length: wire[at : at + length])


def test_a_large_value_of_bytes_is_not_copied() -> None:
    pieces = codec.encode_pieces("socket.io", {"command": "done", "data": [LARGE]})
    assert any(piece is LARGE for piece in pieces)


def test_what_json_has_not_is_as_in_json() -> None:
    class Row(dict):  # type: ignore[type-arg]
        pass

    data = {"nan": [math.nan], "set": {7}, 1: (2, bytearray(b"x")), "row": Row(a=memoryview(b"y"))}
    wire = codec.encode("socket.io", {"command": "done", "data": data})
    assert codec.decode("socket.io", wire)["data"] == {
        "nan": [None],
        "set": [7],
        "1": [2, b"x"],
        "row": {"a": b"y"},
    }


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ([b"x"] * 11, "11 values of bytes are too many for a message over socket.io"),
        ([b"x", {"_placeholder": True, "num": 7}], "has bytes can have no key '_placeholder'"),
        ([b"x", object()], "result[1]: object cannot be sent"),
    ],
)
def test_what_cannot_be_sent_is_reported(data: Any, sentence: str) -> None:
    with pytest.raises(codec.ResultInvalid) as caught:
        codec.encode("socket.io", {"command": "done", "data": data})
    assert sentence in str(caught.value)


def test_an_event_has_to_fit_into_the_workers_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MESSAGE_LIMIT", 1000)
    for size, fits in ((800, True), (950, False)):
        message = {"command": "done", "data": "x" * size}
        assert codec.encode("json", message)
        if fits:
            assert codec.encode("socket.io", message)
        else:
            with pytest.raises(codec.ResultTooLarge, match=r"as socket\.io"):
                codec.encode("socket.io", message)


@pytest.mark.parametrize(
    "wire",
    [
        b"{}" + bytes(20) + b"\0",
        codec.encode("socket.io", {"data": b"abc"})[1:],
        b"".join(attachments.joined(b'{"a":{"_placeholder":true,"num":1}}', [b"x"])),
        b"".join(attachments.joined(b'{"a":{"_placeholder":true}}', [b"x"])),
        b'{"a":1} trailing',
    ],
)
def test_what_is_no_message_is_an_error(wire: bytes) -> None:
    with pytest.raises(ValueError):
        codec.decode("socket.io", wire)
    assert encoding.ids_of("socket.io", wire) is None


def test_the_parent_finds_the_names_with_and_without_attachments() -> None:
    for value in (1, "x" * 20_000):
        message = {"command": "initialize", "data": {"taskId": "t", "input": [value]}}
        found = encoding.ids_of("socket.io", codec.encode("socket.io", message))
        assert found is not None and found["taskId"] == "t"
