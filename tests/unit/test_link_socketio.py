"""The link over socket.io 2, with a server played by the test: packets, pings, and what a bad server does."""

from __future__ import annotations

import base64
import json
import os
import struct
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from hkrunner.runner.link import connection as links
from hkrunner.runner.link import frames, socketio_greeting
from hkrunner.sandbox.codec import codec
from support import link_peer
from support.clock import Clock
from support.link_peer import GREETING, World, connected, conversing, text
from support.worker_wire import BINARY, CLOSE, CONTINUATION, PING, TEXT, frame

INTERVAL_S, TIMEOUT_S = 60.0, 30.0
OPEN, CONNECT = GREETING


@pytest.fixture(scope="module", autouse=True)
def transport() -> Iterator[None]:
    link_peer.transport = "socketio"
    yield
    link_peer.transport = "ws"


# ---- what is no worker with socket.io 2


def opened(**facts: object) -> bytes:
    whole = {"sid": "a", "pingInterval": 25000, "pingTimeout": 5000, **facts}
    return b"0" + json.dumps({name: value for name, value in whole.items() if value != ()}).encode()


BAD_GREETINGS = [
    (b"", "the worker closed the connection before its open packet of socket.io"),
    (frame(TEXT, OPEN), "before the packet of socket.io 2 that opens the namespace"),
    (frame(TEXT, OPEN)[:20], "before its open packet of socket.io"),
    (frame(TEXT, b'{"command":"initialize"}'), "--transport ws is for HKube's plain WebSocket"),
    (frame(TEXT, b""), "the worker sent what is no open packet of socket.io 2: ''"),
    (frame(TEXT, opened(sid=())), "the worker sent a wrong open packet: it has no sid"),
    (frame(TEXT, opened(sid=7)), "it has no sid"),
    (frame(TEXT, opened(pingInterval=())), "it has no pingInterval"),
    (frame(TEXT, opened(pingInterval=-1)), "it has no pingInterval"),
    (frame(TEXT, opened(pingTimeout=True)), "it has no pingTimeout"),
    (frame(TEXT, b'0{"sid":"a","pingInterval":NaN}'), "it has no pingInterval"),
    (frame(TEXT, b"0[]"), "a wrong open packet: it is no object of JSON"),
    (frame(TEXT, b"0{"), "the worker sent a wrong open packet: "),
    (frame(TEXT, b"0" + b"[" * 60_000), "the worker sent a wrong open packet: "),
    (frame(TEXT, b"0\xff\xfe"), "the worker sent a wrong open packet: "),
    (
        frame(TEXT, OPEN) + frame(TEXT, b'44"no place left"'),
        "the worker refused the connection: '\"no place left\"'",
    ),
    (frame(TEXT, OPEN) + frame(TEXT, b"41"), "closed the connection before it opened the namespace"),
    (frame(TEXT, OPEN) + frame(TEXT, b"1"), "closed the connection before it opened the namespace"),
    (frame(TEXT, OPEN) + frame(TEXT, b"2"), "the worker sent what does not open socket.io 2: '2'"),
    (
        frame(TEXT, OPEN) + frame(BINARY, b"\x04x"),
        "a frame that cannot be the packet of socket.io 2 that opens",
    ),
    (
        frame(CLOSE, struct.pack("!H", 1013) + b"later"),
        "closed the connection (1013: later) before its open packet",
    ),
    (b"\x81\x7f" + struct.pack("!Q", 10 * 2**30), "announced 10,737,418,240 bytes where its open packet of"),
    (b"\xc1\x01x", "the worker sent a frame that cannot be its open packet of socket.io"),
    (frame(TEXT, OPEN, last=False), "the worker sent a frame that cannot be its open packet of socket.io"),
]


def test_each_wrong_beginning_is_reported_in_one_sentence_and_tried_again() -> None:
    world = World()
    world.ticks = True
    try:
        world.link.open()
        world.link.post(b"waits")
        for data, sentence in BAD_GREETINGS:
            wire = world.accept_socket()
            wire.sock.sendall(data)
            wire.close()
            world.until(lambda: world.listener.unreachable, sentence)
            (reason,) = world.listener.unreachable
            assert sentence in reason and "\n" not in reason, (data, reason)
            world.listener.unreachable.clear()
            world.clock.now += 2.0
        assert world.listener.opened == 0 and world.listener.drops == []
        wire = world.accept()
        wire.send(text(b"hello"))
        assert wire.message() == b"waits"
    finally:
        world.close()


def test_a_worker_that_never_greets_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()

    def last_pong(opcode: int, payload: bytes) -> bytes:
        clock.now += socketio_greeting.GREETING_S - 0.1
        return frames.frame(opcode, payload)

    monkeypatch.setattr(socketio_greeting, "time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr(socketio_greeting, "frame", last_pong)
    world = World()
    try:
        world.link.open()
        wire = world.accept_socket()
        wire.sock.sendall(frame(TEXT, OPEN) + frame(PING, b"there?"))  # Engine.IO 4 waits for us then
        assert wire.frame() == (link_peer.PONG, True, b"there?")
        world.until(lambda: world.listener.unreachable, "the end of the attempt")
        assert world.listener.unreachable == [
            "the worker has not sent the packet of socket.io 2 that opens the namespace within 8 s;"
            " does it serve socket.io 2?"
        ]
        world.until(wire.has_ended, "the end of its connection")
    finally:
        world.close()


def test_an_attempt_whose_greeting_comes_byte_by_byte_ends_in_time() -> None:
    world = World(connect_timeout_s=5.0)
    try:
        world.link.open()
        wire = world.accept_socket()
        wire.sock.sendall(frame(TEXT, OPEN)[:5])
        world.pass_time(6.0)
        assert world.listener.given_up == ["no answer in time"]
        world.until(wire.has_ended, "the end of its connection")
    finally:
        world.close()


# ---- packets


SIZES = [0, 1, 200, 70_000, links.BLOB_MIN - 15, links.BLOB_MIN, 3_000_000]


@pytest.mark.parametrize("size", SIZES)
def test_a_message_of_any_size_arrives_as_it_is_in_both_directions(size: int) -> None:
    payload = b'"' + b"x" * size + b'"'
    with conversing() as (world, wire):
        wire.send(text(payload) + text(b"after"))
        world.until(lambda: len(world.listener.messages) == 2, "both messages")
        assert [one.lstrip(b" ") for one in world.listener.messages] == [payload, b"after"]
        world.link.post(payload)
        world.link.post(b"small", final=True, prelude=b"storing")
        assert (wire.message(), wire.message(), wire.message()) == (payload, b"storing", b"small")


def test_a_message_is_an_event_of_its_commands_name() -> None:
    with conversing() as (world, wire):
        world.link.post(b'{"command":"done","data":1}')
        assert wire.frame() == (TEXT, True, b'42["done",{"command":"done","data":1}]')
        world.link.post(b'{"data":1,"command":"errorMessage"}')
        assert wire.frame() == (TEXT, True, b'42["errorMessage",{"data":1,"command":"errorMessage"}]')


class InMemory:
    """A message that is not in the link's memory."""

    def __init__(self, data: bytes) -> None:
        self.data, self.size, self.closed = data, len(data), 0

    def read(self, offset: int, length: int) -> bytes:
        assert offset + length <= self.size and length > 0
        return self.data[offset : offset + length]

    def close(self) -> None:
        self.closed += 1


def test_a_large_message_outside_our_memory_is_one_event() -> None:
    source = InMemory(b'{"command":"done","data":"' + bytes(range(32, 127)) * 3000 + b'"}')
    with conversing() as (world, wire):
        world.link.post(b"", source)
        assert wire.message() == source.data
        assert source.closed == 1


@pytest.mark.parametrize(
    "packet",
    [
        b'42["stop",message]',
        b'42[ "stop" , message]',
        b'42["st\\"op",message]',
        b'4217["stop",message]',
        b'42/,["stop",message]',
        b'450-["stop",message]',
    ],
)
def test_an_event_may_be_written_in_other_ways(packet: bytes) -> None:
    with conversing() as (world, wire):
        wire.send(frame(TEXT, packet) + frame(TEXT, b"6") + frame(TEXT, b"3") + frame(TEXT, b"430[]"))
        world.until(lambda: world.listener.messages, "the message")
        assert [one.strip() for one in world.listener.messages] == [b"message"]
        assert world.link.is_open


HEADER = (
    b'453-["initialize",{"a":{"_placeholder":true,"num":2},"b":[{"_placeholder":true,"num":0}],"c":'
    b'{"_placeholder":true,"num":1},"d":"{\\"_placeholder\\":true,\\"num\\":0}"}]'
)


@pytest.mark.parametrize("encoding", ["json", "socket.io"])
@pytest.mark.parametrize("size", [10, 300_000])
def test_bytes_arrive_in_their_places(encoding: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_peer, "with_attachments", encoding == "socket.io")
    last = bytes(size) + b"\x01"
    with conversing() as (world, wire):
        wire.send(frame(TEXT, HEADER) + frame(BINARY, b"\x04"))
        wire.send(frame(BINARY, b"\x04" + last, last=False) + frame(CONTINUATION, b"\x02"))
        assert world.listener.messages == []
        wire.send(frame(PING, b"") + frame(BINARY, b"\x04\x00\xff"))
        world.until(lambda: world.listener.messages, "the message")
        parts = [b"\x00\xff", b"", last + b"\x02"]
        values = parts if encoding == "socket.io" else [base64.b64encode(one).decode() for one in parts]
        assert codec.decode(encoding, world.listener.messages[0]) == {
            "a": values[0],
            "b": [values[1]],
            "c": values[2],
            "d": '{"_placeholder":true,"num":0}',
        }
        assert world.listener.kinds == ["blob" if size > links.BLOB_MIN else "bytes"]


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize("in_memory", [True, False])
def test_bytes_are_sent_as_attachments(size: int, in_memory: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_peer, "with_attachments", True)
    values = [os.urandom(size), b"", b"\0"]
    data = codec.encode("socket.io", {"command": "done", "data": values})
    with conversing() as (world, wire):
        if in_memory:
            world.link.post(data, final=True)
        else:
            world.link.post(b"", InMemory(data), final=True)
        world.link.post(b'{"command":"alive"}')
        holders = b",".join(b'{"_placeholder":true,"num":%d}' % number for number in range(3))
        assert wire.frame() == (TEXT, True, b'453-["done",{"command":"done","data":[%b]}]' % holders)
        for value in values:
            assert wire.whole(BINARY) == b"\x04" + value
        assert wire.frame() == (TEXT, True, b'42["alive",{"command":"alive"}]')
        # An answer that may be lost is repeated whole.
        wire.reset()
        world.until(lambda: world.listener.drops, "the drop")
        again = world.accept()
        world.link._send_again()
        assert again.frame()[2].startswith(b"453-")
        assert [again.whole(BINARY) for _ in values] == [b"\x04" + value for value in values]


def test_an_answer_whose_attachments_are_cut_is_an_error_of_its_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_peer, "with_attachments", True)
    data = codec.encode("socket.io", {"command": "done", "data": [b"bytes"]})
    with conversing() as (world, wire):
        for wrong in (data[1:], b"\0", bytes(8), data[:-5] + b"\x0a\0\0\0\0"):
            world.link.post(wrong, final=True)
            if len(wrong) >= 5:
                message = json.loads(wire.message())
                assert message["error"]["message"] == (
                    "RESULT_INVALID: the message cannot be sent over socket.io: its attachments are cut"
                )
            else:
                assert wire.message() == wrong


BAD_PACKETS = [
    (frame(TEXT, b""), "the worker sent what is no packet of socket.io 2: an empty message"),
    (frame(TEXT, b"4"), "no packet of socket.io 2: '4'"),
    (frame(TEXT, b'{"command":"initialize"}'), 'no packet of socket.io 2: \'{"command":"initialize"}\''),
    (frame(TEXT, b"0{}"), "no packet of socket.io 2: '0{}'"),
    (frame(TEXT, b"2"), "a ping, which it does only from socket.io 3 on"),
    (frame(TEXT, b"46"), "no packet of socket.io 2: '46'"),
    (frame(TEXT, b"4\x1b[2J"), "no packet of socket.io 2: '4\\\\x1b[2J'"),
    (frame(BINARY, b"\x04bytes"), "the worker sent an attachment that belongs to no message"),
    (frame(BINARY, b"\x09bytes"), "no packet of socket.io 2: "),
    (frame(TEXT, b"42"), "no event of socket.io 2: '42'"),
    (frame(TEXT, b'42["initialize",{"half"'), "no event of socket.io 2: "),
    (frame(TEXT, b"42{}"), "no event of socket.io 2: '42{}'"),
    (frame(TEXT, b"42[7]"), "no event of socket.io 2: '42[7]'"),
    (frame(TEXT, b'42/other,["stop",1]'), "no event of socket.io 2: "),
    (frame(TEXT, b'42["' + b"x" * 300_000), "no event of socket.io 2: "),
    (frame(TEXT, b'45["stop",1]'), "no event of socket.io 2: "),
    (frame(TEXT, b'45999999999-["stop",1]'), "no event of socket.io 2: "),
    (
        frame(TEXT, b'452-["stop",1]') + frame(BINARY, b"\x04a") + frame(TEXT, b'42["a",1]'),
        "another packet where attachments of a message were due",
    ),
    (
        frame(TEXT, b'451-["a",{"_placeholder":true,"num":5}]') + frame(BINARY, b"\x04a"),
        "a message without its attachment no. 5",
    ),
    (
        frame(TEXT, b'451-["a",1]') + b"\x82\x7f" + struct.pack("!Q", 10 * 2**30),
        "announced a message of 10,737,418,240",
    ),
    (frame(TEXT, b"41"), "the worker closed the connection (41: socket.io's disconnect)"),
    (frame(TEXT, b"1"), "the worker closed the connection (1: Engine.IO's close)"),
    (
        frame(TEXT, b'44{"message":"full"}'),
        'reported an error and ended the conversation: {"message":"full"}',
    ),
]


def test_each_wrong_packet_is_reported_in_one_sentence_and_loses_nothing() -> None:
    with connected() as (world, wire):
        world.ticks = True
        for data, sentence in BAD_PACKETS:
            wire.send(text(b"hello"))
            world.until(lambda: world.listener.messages, "the first message")
            world.listener.drops.clear()
            wire.sock.sendall(data)
            world.until(lambda: world.listener.drops, sentence)
            (reason,) = world.listener.drops
            assert sentence in reason and "\n" not in reason and "\x1b" not in reason, (data, reason)
            world.link.post(b"an answer", final=True)
            world.listener.messages.clear()
            wire.close()
            wire = world.accept()
            # The same worker, which has not closed its port: it gets the answer at once.
            assert wire.message() == b"an answer"
            world.pass_time(5.0)


# ---- pings


def test_the_link_pings_when_the_worker_wants_it_and_before_it_has_spoken() -> None:
    with connected() as (world, wire):
        world.link.post(b"early")
        world.pass_time(INTERVAL_S - 1)
        assert wire.is_silent()
        for _ in range(3):
            world.pass_time(INTERVAL_S + 1)
            assert wire.frame() == (TEXT, True, b"2")
            wire.send(frame(TEXT, b"3"))
            world.pass_time(TIMEOUT_S + 1)
            assert wire.is_silent() and world.listener.drops == []


def test_a_worker_that_answers_no_ping_is_gone() -> None:
    with conversing() as (world, wire):
        world.pass_time(INTERVAL_S)
        assert wire.frame() == (TEXT, True, b"2")
        world.pass_time(TIMEOUT_S - 1)
        assert world.listener.drops == []
        world.pass_time(2)
        assert world.listener.drops == ["the worker answered no ping within 30 s"]


def test_any_sign_of_life_is_as_good_as_an_answer() -> None:
    message = text(b"x" * 600_000)
    with conversing() as (world, wire):
        for part in (message[:1000], message[1000:2000], message[2000:]):
            world.pass_time(INTERVAL_S)
            assert wire.frame() == (TEXT, True, b"2")
            wire.send(part)
            world.pass_time(TIMEOUT_S)
        world.until(lambda: world.listener.messages, "the message")
        assert world.listener.drops == []


def test_a_message_whose_attachments_never_come_ends_the_connection_in_spite_of_pongs() -> None:
    with conversing() as (world, wire):
        wire.send(frame(TEXT, b'452-["stop",1]') + frame(BINARY, b"\x04a"))
        world.pass_time(INTERVAL_S)
        assert wire.frame() == (TEXT, True, b"2")
        wire.send(frame(TEXT, b"3"))
        world.pass_time(TIMEOUT_S)
        assert world.listener.drops == ["the worker sent half a message: attachments are missing (1)"]


def test_a_ping_waits_for_the_end_of_a_message_that_is_being_sent() -> None:
    payload = b"x" * 8_000_000
    with conversing() as (world, wire):
        world.link.post(payload)
        world.turn()
        assert not world.link._sender.idle
        for _ in range(3):  # no pong can come, and none is missed
            world.pass_time(INTERVAL_S + TIMEOUT_S)
        assert world.listener.drops == []
        assert wire.message() == payload
        assert wire.frame() == (TEXT, True, b"2")


def test_the_end_says_goodbye_in_both_languages() -> None:
    with conversing() as (world, wire):
        world.link.close()
        assert wire.frame() == (TEXT, True, b"41")
        assert wire.frame() == (CLOSE, True, struct.pack("!H", 1000))
        world.pass_time(INTERVAL_S * 3)
