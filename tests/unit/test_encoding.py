"""Finding the command of a message without reading the message."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import bson
import msgspec
import pytest
from hkrunner.runner.protocol import encoding as encodings
from hypothesis import given
from hypothesis import strategies as st

#: This much of a message the link hands over as its head.
HEAD = 256

ENCODERS: dict[str, Callable[[Any], bytes]] = {
    "json": lambda message: json.dumps(message).encode(),
    "bson": lambda message: bytes(bson.encode({"data": message})),
    "msgpack": msgspec.msgpack.encode,
}
ENCODINGS = sorted(ENCODERS)

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=300)
command = st.sampled_from(["initialize", "start", "stop", "exit", "subPipelineDone"]) | text.filter(bool)
value = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
others = st.dictionaries(text.filter(lambda name: name != "command"), value, max_size=4)


def command_of(encoding: str, wire: bytes) -> tuple[str, bool]:
    """The command, and whether the whole message was asked for."""
    asked = []

    def whole() -> bytes:
        asked.append(True)
        return wire

    return encodings.command_of(encoding, wire[:HEAD], whole), bool(asked)


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(command=command, before=others, after=others)
def test_the_command_is_found_wherever_it_stands(
    encoding: str, command: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    message = {**before, "command": command, **{k: v for k, v in after.items() if k not in before}}
    found, _ = command_of(encoding, ENCODERS[encoding](message))
    assert found == command


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(command=command, inner=command)
def test_a_command_inside_the_data_is_not_taken(encoding: str, command: str, inner: str) -> None:
    data = {"command": inner, "data": {"command": inner}}
    for message in ({"data": data, "command": command}, {"command": command, "data": data}):
        assert command_of(encoding, ENCODERS[encoding](message))[0] == command


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", ["initialize", "start", "stop", "exit", "subPipelineStarted", "x" * 31])
def test_a_message_of_the_worker_is_not_read_to_find_its_command(encoding: str, name: str) -> None:
    assert command_of(encoding, ENCODERS[encoding]({"command": name})) == (name, False)
    for data in (None, {}, {"input": ["x" * 10_000]}, [1], "text", 7, True):
        assert command_of(encoding, ENCODERS[encoding]({"command": name, "data": data})) == (name, False)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_name_of_any_length_is_never_cut(encoding: str) -> None:
    for length in range(1, 300):
        for message in ({"command": "c" * length}, {"command": "c" * length, "data": {"a": "b" * 300}}):
            assert command_of(encoding, ENCODERS[encoding](message))[0] == "c" * length


def test_a_command_at_the_end_of_the_head_is_whole() -> None:
    for padding in range(200, 270):
        wire = b" " * padding + b'{"command":"subPipelineStopped","data":{}}'
        assert command_of("json", wire)[0] == "subPipelineStopped"


@pytest.mark.parametrize(
    ("wire", "command"),
    [
        (b'{"command":"start"}', "start"),
        (b'\r\n\t {\n"command" :\t"start"\n}\n', "start"),
        (b'{"comm\\u0061nd":"st\\u0061rt"}', "start"),
        (b'{"command":"st\\"art","data":1}', 'st"art'),
        (b'{"command":"a-b"}', "a-b"),
        (b'{"command":""}', ""),
        (b'{"command":"\xc3\xa4"}', "ä"),
        (b'{"Command":"exit","command":"start"}', "start"),
        (b'{"command":"start","data":"\\ud800"}', "start"),
    ],
)
def test_json_may_have_any_layout(wire: bytes, command: str) -> None:
    assert command_of("json", wire)[0] == command


def test_the_bytes_of_hkubes_own_encoders_are_understood() -> None:
    wrapped = "290000000364617461001e00000002636f6d6d616e64000c000000696e697469616c697a6564000000"
    assert command_of("bson", bytes.fromhex(wrapped)) == ("initialized", False)
    packed = "81a7636f6d6d616e64ab696e697469616c697a6564"
    assert command_of("msgpack", bytes.fromhex(packed)) == ("initialized", False)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "message",
    [{}, {"command": None}, {"command": 7}, {"command": ["start"]}, {"data": {"command": "start"}}],
    ids=repr,
)
def test_a_message_without_a_command_is_a_ValueError(encoding: str, message: Any) -> None:
    with pytest.raises(ValueError, match="no command"):
        command_of(encoding, ENCODERS[encoding](message))


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(wire=st.binary(max_size=400))
def test_random_bytes_are_a_ValueError_and_nothing_else(encoding: str, wire: bytes) -> None:
    try:
        assert isinstance(command_of(encoding, wire)[0], str)
    except ValueError:
        pass


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(data=st.data(), message=others)
def test_a_damaged_message_is_a_ValueError_or_has_a_command(
    encoding: str, data: st.DataObject, message: dict[str, Any]
) -> None:
    wire = bytearray(ENCODERS[encoding]({"data": message, "command": "start"}))
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert isinstance(command_of(encoding, bytes(wire))[0], str)
    except ValueError:
        pass


@pytest.mark.parametrize("levels", [1000, 100_000])
def test_a_message_that_is_nested_too_deep_is_a_ValueError_or_has_a_command(levels: int) -> None:
    wire = b'{"data":' + b"[" * levels + b"]" * levels + b',"command":"start"}'
    try:
        assert command_of("json", wire)[0] == "start"
    except ValueError:
        pass


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_we_send_is_framed_as_hkube_frames_it(encoding: str) -> None:
    message = {"command": "errorMessage", "error": {"code": "X", "message": "ä", "details": ""}}
    wire = encodings.encode(encoding, message)
    decoders: dict[str, Callable[[bytes], Any]] = {
        "json": json.loads,
        "bson": lambda data: bson.decode(data)["data"],
        "msgpack": msgspec.msgpack.decode,
    }
    assert decoders[encoding](wire) == message
    assert encodings.decode(encoding, wire) == message
    assert encodings.is_text(encoding) == (encoding == "json")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("size", [0, 10_000])  # small and large messages are read in different ways
def test_the_names_of_a_task_are_found_without_its_input(encoding: str, size: int) -> None:
    names = {"taskId": "t", "jobId": "j" * 2000, "nodeName": "n", "pipelineName": None}
    message = {"command": "initialize", "data": {"input": [{"deep": [1]}, "x" * size], **names, "info": {}}}
    assert encodings.ids_of(encoding, ENCODERS[encoding](message)) == {
        "taskId": "t",
        "jobId": "j" * 1000,
        "nodeName": "n",
        "algorithmName": None,
        "pipelineName": None,
    }


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "message",
    [
        {"command": "initialize"},
        {"data": [1]},
        {"data": "text"},
        {"data": {"taskId": 5}},
        {"data": {"jobId": {}}},
    ],
    ids=str,
)
def test_names_that_are_not_plain_are_left_to_the_child(encoding: str, message: dict[str, Any]) -> None:
    assert encodings.ids_of(encoding, ENCODERS[encoding](message)) is None


@pytest.mark.parametrize(("around", "is_found"), [(" \r\n\t", True), ("1", False), ("\u3000", False)])
@pytest.mark.parametrize("size", [0, 10_000])
def test_names_are_found_only_in_what_is_json(around: str, is_found: bool, size: int) -> None:
    text = json.dumps({"command": "initialize", "data": {"taskId": "t", "input": ["x" * size]}})
    found = encodings.ids_of("json", f"{around}{text}{around}".encode())
    assert (found is not None and found["taskId"] == "t") == is_found


def test_the_names_in_a_large_message_of_bson_are_found_among_values_of_every_type() -> None:
    large = {"input": [{"a": 1}] * 1000, "taskId": "ä"}
    values: list[Any] = [1.5, "x", {"d": [1]}, [b"x"], b"\0" * 9, bson.ObjectId(), True, None, 7, 2**40]
    values += [bson.Timestamp(1, 2), bson.Decimal128("1.5"), datetime(2024, 1, 1, tzinfo=timezone.utc)]
    values += [bson.Regex("x", "i"), bson.Code("x"), bson.Code("x", {"a": 1}), bson.MinKey(), bson.MaxKey()]
    values += [bson.DBRef("x", 1), {"k" * 300: 1}, {"k" * 64: 1, "l" * 63: 2}]
    for one in values:
        wire = ENCODERS["bson"]({"command": "initialize", "data": {"before": one, **large, "jobId": None}})
        found = encodings.ids_of("bson", wire)
        assert found is not None and found == encodings.ids_of("bson", memoryview(wire))
        assert {name: text for name, text in found.items() if text is not None} == {"taskId": "ä"}
    wire = ENCODERS["bson"]({"command": "initialize", "data": {"before": 7, **large}})
    assert encodings.ids_of("bson", wire.replace(b"\x10before", b"\x77before")) is None, (
        "the child reads them"
    )


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(data=st.binary(max_size=200))
def test_no_bytes_of_a_worker_raise_where_names_are_sought(encoding: str, data: bytes) -> None:
    for beginning in (data, data + b"\1" * 10_000):  # small and large messages are read in different ways
        encodings.ids_of(encoding, beginning)
