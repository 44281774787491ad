"""Our bytes are what HKube's own @hkube/encoding reads and writes."""

from __future__ import annotations

import datetime
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hkrunner.runner.protocol import encoding
from hkrunner.sandbox.codec import codec
from support import npm
from support.interop_packages import ENCODING
from support.programs import run

# The first one installs the package.
pytestmark = pytest.mark.timeout(400)

SCRIPT = """
const { Encoding } = require('@hkube/encoding');
const shown = (key, value) => {
    if (value && value.type === 'Buffer') return { bytes: Buffer.from(value.data).toString('hex') };
    return value;
};
const lines = require('fs').readFileSync(0, 'utf8').trim().split('\\n').map(JSON.parse);
for (const { type, hex, value } of lines) {
    const one = new Encoding({ type });
    if (hex === undefined) {
        console.log(Buffer.from(one.encode(value)).toString('hex'));
    } else {
        const data = Buffer.from(hex, 'hex');
        console.log(JSON.stringify(one.decode(one.isBinary ? data : data.toString()), shown));
    }
}
"""

#: What an algorithm returns, and what HKube's worker has after decoding.
RESULTS: list[tuple[str, Any, Any]] = [
    ("nothing", None, None),
    ("text", "ünï \u4f60 \U0001f600", "ünï \u4f60 \U0001f600"),
    ("numbers", [0, -1, 2**31, 2**53, 1.5, -0.25], [0, -1, 2**31, 2**53, 1.5, -0.25]),
    ("truth", [True, False, None], [True, False, None]),
    ("nested", {"a": [{"b": {"c": [[], {}]}}]}, {"a": [{"b": {"c": [[], {}]}}]}),
    ("tuple", (1, (2, 3)), [1, [2, 3]]),
    ("int keys", {1: "one", 2: {3: 4}}, {"1": "one", "2": {"3": 4}}),
    ("a set", {7}, [7]),
    ("a date", datetime.date(2026, 11, 23), "2026-11-23"),
]


def in_node(*orders: dict[str, Any]) -> list[str]:
    # Not in a file there: a test beside this one would read what is being written.
    lines = "\n".join(map(json.dumps, orders))
    ended = run(["node", "-e", SCRIPT], cwd=npm.folder_with(ENCODING), input=lines)
    assert ended.status == 0, ended.stderr
    return ended.stdout.splitlines()


@pytest.mark.parametrize("kind", ["json", "bson", "msgpack"])
def test_hkubes_worker_reads_what_we_send(kind: str) -> None:
    messages = [{"command": "done", "data": value} for _, value, _ in RESULTS]
    orders = [{"type": kind, "hex": codec.encode(kind, one).hex()} for one in messages]
    read = [json.loads(line) for line in in_node(*orders)]
    assert read == [{"command": "done", "data": expected} for _, _, expected in RESULTS]


@pytest.mark.parametrize("kind", ["json", "bson", "msgpack"])
def test_we_read_what_hkubes_worker_sends(kind: str) -> None:
    data = {"taskId": "t", "input": ["ü", 1, 1.5, None, True, {"a": [[], {}]}, 2**53], "info": {"x": None}}
    messages = [{"command": "initialize", "data": data}, {"command": "stop", "data": {"forceStop": False}}]
    for message, line in zip(
        messages, in_node(*({"type": kind, "value": one} for one in messages)), strict=True
    ):
        wire = bytes.fromhex(line)
        assert codec.decode(kind, wire) == message
        assert encoding.command_of(kind, wire[:256], lambda wire=wire: wire) == message["command"]


@pytest.mark.parametrize("kind", ["json", "bson", "msgpack"])
def test_a_message_without_data_is_the_same_bytes(kind: str) -> None:
    # Key order, lengths and types are the same for a message that holds nothing but text.
    (line,) = in_node({"type": kind, "value": {"command": "initialized"}})
    assert codec.encode(kind, {"command": "initialized"}).hex() == line


@pytest.mark.parametrize(
    ("kind", "expected"), [("bson", {"bytes": "00ff10"}), ("msgpack", {"bytes": "00ff10"})]
)
def test_bytes_arrive_as_bytes(kind: str, expected: Any) -> None:
    wire = codec.encode(kind, {"command": "done", "data": b"\x00\xff\x10"})
    (line,) = in_node({"type": kind, "hex": wire.hex()})
    data = json.loads(line)["data"]
    assert data == expected or bytes(data.values()).hex() == "00ff10"


def test_not_a_number_arrives_as_null_under_json() -> None:
    wire = codec.encode("json", {"command": "done", "data": [math.nan, math.inf]})
    (line,) = in_node({"type": "json", "hex": wire.hex()})
    assert json.loads(line)["data"] == [None, None]


def test_an_aware_time_arrives_as_a_time_everywhere(tmp_path: Path) -> None:
    moment = datetime.datetime(2026, 11, 23, 12, 30, tzinfo=datetime.timezone.utc)
    orders = [
        {"type": kind, "hex": codec.encode(kind, {"command": "done", "data": moment}).hex()}
        for kind in ("json", "bson", "msgpack")
    ]
    for line in in_node(*orders):
        assert json.loads(line)["data"].startswith("2026-11-23T12:30:00")
