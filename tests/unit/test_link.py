"""The link, with a server played by the test in the same thread, and a clock that the test turns."""

from __future__ import annotations

import _thread
import contextlib
import os
import socket
import struct
import threading
import time
import tracemalloc
from typing import Any

import pytest
from hkrunner.runner.link import connection as links
from hkrunner.runner.link.connection import SILENT_S, ConnectionState
from hkrunner.runner.link.connector import STEADY_S
from hkrunner.runner.link.frames import MESSAGE_MAX
from hkrunner.runner.link.message_memory import KEEP_BLOB_S, MessageMemory
from hkrunner.runner.link.outbox import PIECE
from hypothesis import given, settings
from hypothesis import strategies as st
from support.link_peer import DEADLINE_S, PONG, World, connected, conversing
from support.worker_wire import BINARY, CLOSE, CONTINUATION, PING, TEXT, frame

# ---- receiving


SIZES = [0, 1, 125, 126, 65535, 65536, links.BLOB_MIN - 1, links.BLOB_MIN, links.BLOB_MIN + 1, 3_000_000]


@pytest.mark.parametrize("size", SIZES)
def test_a_message_of_any_size_arrives_as_it_is(size: int) -> None:
    payload = os.urandom(size)
    with conversing() as (world, wire):
        wire.send(frame(TEXT, payload) + frame(TEXT, b"after"))
        world.until(lambda: len(world.listener.messages) == 2, "both messages")
        assert world.listener.messages == [payload, b"after"]
        assert world.listener.kinds == ["blob" if size >= links.BLOB_MIN else "bytes", "bytes"]


def test_what_a_tls_socket_holds_is_read_before_the_loop_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    held, beneath = bytearray(), socket.socket.recv_into

    def recv_into(sock: socket.socket, buffer: Any) -> int:
        if not held:  # as OpenSSL: take a whole record from the kernel, and hold what there is no room for
            record = bytearray(1000)
            held.extend(record[: beneath(sock, record)])
        count = min(len(held), len(buffer), 10)
        buffer[:count] = held[:count]
        del held[:count]
        return count

    monkeypatch.setattr(links, "TURN_BYTES", 30)
    monkeypatch.setattr(socket.socket, "recv_into", recv_into)
    monkeypatch.setattr(socket.socket, "pending", lambda _sock: len(held), raising=False)
    with conversing() as (world, wire):
        wire.send(frame(TEXT, b"x" * 100) + frame(TEXT, b"after"))
        world.until(lambda: world.listener.messages == [b"x" * 100, b"after"], "both messages")


def test_frames_may_be_cut_at_every_byte() -> None:
    data = frame(TEXT, b"a") + frame(PING, b"p") + frame(BINARY, b"x" * 130) + frame(TEXT, b"")
    with conversing() as (world, wire):
        inside = len(data) // 2  # in a payload, where one byte is like another
        for at in (*range(1, inside - 50), *range(inside + 50, len(data))):
            world.listener.messages.clear()
            wire.send(data[:at])
            wire.send(data[at:])
            world.until(lambda: len(world.listener.messages) == 3, "the messages")
            assert world.listener.messages == [b"a", b"x" * 130, b""]
            assert wire.frame() == (PONG, True, b"p")


piece = st.integers(0, 3) | st.integers(120, 130) | st.just(links.BLOB_MIN + 7) | st.integers(0, 70_000)


@settings(max_examples=40)
@given(
    sizes=st.lists(piece, min_size=1, max_size=6),
    pings=st.booleans(),
    cuts=st.lists(st.integers(1, 100_000), max_size=8),
)
def test_a_message_may_come_in_any_fragments_and_any_packets(
    sizes: list[int], pings: bool, cuts: list[int]
) -> None:
    parts = [bytes([65 + i]) * size for i, size in enumerate(sizes)]
    data = b""
    for i, part in enumerate(parts):
        data += frame(TEXT if i == 0 else CONTINUATION, part, last=i == len(parts) - 1)
        if pings and i < len(parts) - 1:
            data += frame(PING, bytes([i]))
    with conversing() as (world, wire):
        at = 0
        for cut in sorted(cut % len(data) for cut in cuts):
            wire.send(data[at:cut])
            at = max(at, cut)
        wire.send(data[at:])
        world.until(lambda: world.listener.messages, "the message")
        assert world.listener.messages == [b"".join(parts)]
        for i in range(len(parts) - 1 if pings else 0):
            assert wire.frame() == (PONG, True, bytes([i]))


@pytest.mark.parametrize(
    "data",
    [
        frame(TEXT, b"x")[:1] + b"\x81\0\0\0\0x",
        b"\xc1\x01x",
        frame(3, b"x"),
        frame(0xB, b"x"),
        frame(CONTINUATION, b"x"),
        # Refused by its head: its payload would have memory of its own, which nobody would give back.
        frame(CONTINUATION, bytes(links.BLOB_MIN)),
        frame(TEXT, b"x", last=False) + frame(TEXT, b"y"),
        frame(PING, b"x", last=False),
        frame(PING, b"x" * 126),
        b"\x81\x7f" + struct.pack("!Q", MESSAGE_MAX + 1),
    ],
    ids=[
        *("masked", "reserved bit", "unknown opcode", "unknown control frame", "continuation of nothing"),
        *("a large one", "message in a message", "ping in pieces", "large ping", "too large"),
    ],
)
def test_what_rfc_6455_forbids_ends_the_connection_and_begins_another(data: bytes) -> None:
    with conversing() as (world, wire):
        wire.send(data)
        world.until(lambda: world.listener.drops, "the drop")
        world.until(wire.has_ended, "the end of the connection")
        assert not world.listener.messages
        again = world.accept()
        again.send(frame(TEXT, b"well"))
        world.until(lambda: world.listener.messages == [b"well"], "the next message")


def test_memory_for_a_message_that_the_system_refuses_leaves_no_descriptor() -> None:
    with pytest.raises(OSError):
        MessageMemory(2**47)  # more addresses than a process has


# ---- posting


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, PIECE, PIECE + 1, 5_000_000])
def test_a_post_of_any_size_is_masked_and_whole(size: int) -> None:
    payload = os.urandom(size)
    with conversing() as (world, wire):
        world.link.post(payload)
        world.link.post(b"after")
        assert wire.message() == payload
        assert wire.message() == b"after"
        assert world.link._sender.idle


def test_a_pong_goes_between_the_pieces_of_a_large_post() -> None:
    with conversing() as (world, wire):
        world.link.post(b"x" * 20_000_000)
        wire.sock.setblocking(True)
        wire.sock.sendall(frame(PING, b"now"))
        opcodes = []
        last = False
        while not last:
            opcode, final, _ = wire.frame()
            opcodes.append(opcode)
            last = final and opcode != PONG
        assert PONG in opcodes[:-1]


def test_a_worker_that_does_not_read_does_not_block_the_loop() -> None:
    with conversing() as (world, _):
        world.link.post(b"x" * 50_000_000)
        began = time.process_time()
        for _ in range(100):
            world.turn()  # which would not return
        assert time.process_time() - began < 1
        assert not world.link._sender.idle


def test_a_post_that_was_cut_goes_out_again_whole() -> None:
    payload = os.urandom(10_000_000)
    with conversing() as (world, wire):
        world.link.post(payload)
        world.link.post(b"after")
        wire.frame()
        wire.close()
        world.until(lambda: world.listener.drops, "the drop")
        again = world.accept()
        world.pass_time(SILENT_S)
        assert again.message() == payload
        assert again.message() == b"after"


def test_a_source_is_closed_once_it_is_sent_or_cleared() -> None:
    class Source:
        size = 300_000
        closed = 0

        def read(self, offset: int, length: int) -> bytes:
            return b"s" * length

        def close(self) -> None:
            self.closed += 1

    sent, cleared, closed = Source(), Source(), Source()
    with conversing() as (world, wire):
        world.link.post(b"", sent)
        assert wire.message() == b"s" * 300_000
        wire.close()
        world.until(lambda: world.listener.drops, "the drop")
        world.link.post(b"", cleared)
        world.link.clear()
        assert cleared.closed == 1
        world.link.close()
        world.link.post(b"", closed)
        assert closed.closed == 1
    assert sent.closed == 1


def test_clear_drops_messages_whose_sending_has_not_begun() -> None:
    with conversing() as (world, wire):
        wire.close()
        world.until(lambda: world.listener.drops, "the drop")
        world.link.post(b"of an old task")
        world.link.clear()
        again = world.accept()
        again.send(frame(TEXT, b"new"))
        world.link.post(b"new")
        assert again.message() == b"new"


# ---- coming back


@pytest.mark.parametrize("code", [1000, 1001, 1009, 1011, 1013, 3000])
def test_a_close_is_answered_and_the_next_connection_made(code: int) -> None:
    with conversing() as (world, wire):
        wire.send(frame(CLOSE, struct.pack("!H", code) + b"why"))
        assert wire.frame()[2][:2] == struct.pack("!H", code)
        world.until(wire.has_ended, "the end of the connection")
        assert str(code) in world.listener.drops[0]
        assert "why" in world.listener.drops[0]
        world.accept()


def test_a_worker_that_hangs_up_at_once_meets_growing_pauses_and_one_socket_at_a_time() -> None:
    with conversing() as (world, wire):
        begun, world.ticks = world.clock.now, True
        for _ in range(8):
            wire.send(frame(CLOSE, struct.pack("!H", 1001)))
            gone, wire = wire, world.accept()
            world.until(gone.has_ended, "the end of the connection before")
            wire.send(frame(TEXT, b"hello"))
        assert world.clock.now - begun > 0.4
        world.pass_time(STEADY_S)
        begun = world.clock.now
        wire.send(frame(CLOSE, struct.pack("!H", 1001)))
        world.accept()
        assert world.clock.now - begun < 0.1, "it has been up for long enough"


def test_refused_connections_are_tried_again_with_growing_bounded_pauses_for_ever() -> None:
    world = World()
    try:
        world.refuse()
        world.link.open()
        pauses = []
        for number in range(1, 40):
            world.until(lambda n=number: len(world.listener.unreachable) >= n, "a try")  # type: ignore[misc]
            waited = 0.0
            while world.link.state is ConnectionState.BACKOFF:
                world.pass_time(0.005)
                waited += 0.005
                assert waited < 5, "it does not try any more"
            pauses.append(waited)
        assert sum(pauses[:4]) <= 0.2
        assert max(pauses) <= 1.25
        assert min(pauses[-20:]) >= 0.75
        assert set(world.listener.unreachable) == {"connection refused"}
    finally:
        world.close()


def test_an_attempt_for_which_there_is_no_thread_is_made_again_but_not_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(function: object, args: object) -> None:
        raise RuntimeError("can't start new thread")

    world = World()
    try:
        with monkeypatch.context() as without_threads:
            without_threads.setattr(_thread, "start_new_thread", refuse)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                world.link.open()
    finally:
        world.close()
    world = World()
    try:
        world.link.open()
        wire = world.accept()
        with monkeypatch.context() as without_threads:
            without_threads.setattr(_thread, "start_new_thread", refuse)
            wire.close()
            world.until(lambda: world.listener.unreachable, "the attempt")
        world.pass_time(1.0)
        world.accept()
        assert set(world.listener.unreachable) == {"can't start new thread"}
    finally:
        world.close()


def test_a_harness_that_raises_at_the_beginning_of_each_thread_does_not_keep_it_from_connecting() -> None:
    """It ended the thread before its first line, and each attempt took the whole time for an answer."""
    world = World()
    threading.setprofile(lambda *_: 1 / 0)
    try:
        world.link.open()
        world.accept()
    finally:
        threading.setprofile(None)
        world.close()


def test_the_connect_timeout_holds_for_a_server_that_answers_in_small_pieces() -> None:
    world = World(connect_timeout_s=3.0)
    try:
        world.link.open()
        wire = world.accept_raw()
        for byte in b"HTTP/1.1 ":
            wire.sock.sendall(bytes([byte]))
            world.pass_time(0.1)
        assert not world.listener.given_up
        world.pass_time(3.0)
        assert world.listener.given_up == ["no answer in time"]
        world.until(wire.has_ended, "the end of the connection")
    finally:
        world.close()


def test_a_handshake_without_an_end_is_given_up_before_the_next_one_begins() -> None:
    world = World()
    try:
        world.link.open()
        first = world.accept_raw()
        world.pass_time(10.1)
        world.until(first.has_ended, "the end of the first connection")
        assert world.listener.unreachable == ["no answer in time"]
        world.pass_time(1.0)
        world.accept()
        assert world.link.state is ConnectionState.OPEN
    finally:
        world.close()


def test_a_message_in_a_hundred_thousand_fragments_is_put_together_at_once() -> None:
    count = 100_000
    with conversing() as (world, wire):
        began = time.process_time()
        wire.send(frame(TEXT, b"x", last=False) + frame(CONTINUATION, b"y", last=False) * count)
        wire.send(frame(CONTINUATION, b"z"))
        world.until(lambda: world.listener.messages, "the message")
        assert world.listener.messages[-1] == b"x" + b"y" * count + b"z"
        assert time.process_time() - began < DEADLINE_S


def test_what_has_come_of_a_message_takes_no_memory_for_each_of_its_fragments() -> None:
    count = 20_000
    with conversing() as (world, wire):
        data = frame(TEXT, b"x", last=False) + frame(CONTINUATION, b"y", last=False) * count
        tracemalloc.start()
        try:
            wire.send(data + frame(CONTINUATION, b"", last=False) * count)
            world.until(lambda: world.link._reader.position == (0, 0, count + 1), "all fragments")
            assert tracemalloc.get_traced_memory()[0] < 500_000
        finally:
            tracemalloc.stop()


def test_large_fragments_take_no_descriptor_each() -> None:
    with conversing() as (world, wire):
        part = os.urandom(300_000)
        before = len(os.listdir("/proc/self/fd"))
        wire.send(frame(TEXT, part, last=False))
        for _ in range(20):
            wire.send(frame(CONTINUATION, part, last=False))
        assert len(os.listdir("/proc/self/fd")) <= before + 2
        wire.send(frame(CONTINUATION, b""))
        world.until(lambda: world.listener.messages, "the message")
        assert world.listener.messages[-1] == part * 21


def test_the_connect_timeout_is_reported_once_and_ends_it() -> None:
    world = World(connect_timeout_s=3.0)
    try:
        world.refuse()
        world.link.open()
        began = world.clock.now
        world.ticks = True
        world.until(lambda: world.listener.given_up, "the end of trying")
        assert world.listener.given_up == ["connection refused"]
        assert world.clock.now - began >= 3.0
        assert world.link.state is ConnectionState.CLOSED
    finally:
        world.close()


def test_a_refusal_with_4001_is_retried_later() -> None:
    with connected() as (world, wire):
        wire.send(frame(CLOSE, struct.pack("!H", 4001)))
        world.until(lambda: world.listener.drops, "the drop")
        world.pass_time(links.REFUSED_S * 0.7)
        assert world.nobody_knocks()
        world.pass_time(links.REFUSED_S)
        world.accept()


@pytest.mark.parametrize("length", [10, 122, 123, 124, 1000])
def test_close_in_the_middle_of_a_task_says_that_we_go_away_and_why(length: int) -> None:
    with conversing() as (world, wire):
        world.link.close("é" + "x" * (length - 2))
        code, is_last, data = wire.frame()
        assert (code, is_last, data[:2]) == (CLOSE, True, struct.pack("!H", 1001))
        assert data[2:].decode() == ("é" + "x" * (length - 2)).encode()[:123].decode()


def test_close_sends_1000_and_ends_the_connection() -> None:
    with conversing() as (world, wire):
        world.link.post(b"last word")
        world.link.close()
        assert wire.message() == b"last word"
        assert wire.frame() == (CLOSE, True, struct.pack("!H", 1000))
        world.until(wire.has_ended, "the end of the connection")
        world.pass_time(10)
        assert world.nobody_knocks()


def test_close_while_connecting_leaves_no_socket() -> None:
    world = World()
    try:
        world.link.open()
        wire = world.accept_raw()
        world.link.close()
        wire.sock.sendall(b"HTTP/1.1 503 no\r\n\r\n")
        world.until(wire.has_ended, "the end of the connection")
    finally:
        world.close()


def test_the_memory_kept_for_large_messages_is_given_back() -> None:
    with conversing() as (world, wire):
        wire.send(frame(TEXT, b"x" * 3_000_000))
        world.until(lambda: world.listener.messages, "the message")
        assert _memfds() > 0
        world.pass_time(KEEP_BLOB_S + 0.1)
        assert _memfds() == 0


def _memfds() -> int:
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += "memfd:hkrunner" in os.readlink(f"/proc/self/fd/{name}")
    return count
