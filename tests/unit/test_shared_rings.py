"""The memory by which large payloads of a stream travel."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from hkrunner.runner.streaming.child_link import ChildLink
from hkrunner.sandbox.shared import shared_rings, stream_frames
from hkrunner.sandbox.shared.shared_rings import LARGEST, PLACE, RING_BYTES, SMALLEST, SharedRings
from hkrunner.sandbox.shared.stream_frames import StreamReader


@pytest.fixture
def fd() -> Iterator[int]:
    fd = shared_rings.create()
    yield fd
    os.close(fd)


def payload(number: int, size: int) -> bytes:
    return number.to_bytes(8, "little") * (size // 8) + b"x" * (size % 8)


def test_payloads_come_out_as_they_went_in_at_any_place_and_both_ways(fd: int) -> None:
    sockets, child = SharedRings(fd, is_child=False), SharedRings(fd, is_child=True)
    sizes = [SMALLEST, LARGEST, SMALLEST + 1, 3_000_001, LARGEST - 7]
    for number in range(25):
        value = payload(number, sizes[number % 5])
        there, back = child.put(value), sockets.put(value[:5], memoryview(value)[5:])
        assert there is not None and back is not None
        assert sockets.take(there) == value == child.take(back)


def test_nobody_waits_for_room(fd: int) -> None:
    sockets, child = SharedRings(fd, is_child=False), SharedRings(fd, is_child=True)
    assert child.put(b"x" * (SMALLEST - 1)) is None
    assert child.put(bytearray(LARGEST + 1)) is None
    places = [child.put(payload(number, LARGEST)) for number in range(3)]
    assert places[2] is None  # the ring is full
    first, second = places[:2]
    assert first is not None and second is not None
    assert sockets.take(first) == payload(0, LARGEST)
    assert child.put(payload(2, LARGEST)) is not None
    found = sockets.at(second)
    assert child.put(payload(3, LARGEST)) is None  # what is being read stays
    assert found == payload(1, LARGEST)
    sockets.free(second)
    assert child.put(payload(3, LARGEST)) is not None


def test_a_child_can_neither_cut_the_memory_nor_lead_outside_of_it(fd: int) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    sockets = SharedRings(fd, is_child=False)
    top = 2**64 - 1
    outside = [(0, 1), (top, top), (RING_BYTES + 1, 10), (5, LARGEST), (top, LARGEST + 1)]
    for end, size in outside:
        with pytest.raises(ValueError, match="no place"):
            sockets.take(PLACE.pack(end, size))


def test_a_child_that_does_not_map_the_memory_gets_payloads_by_the_socket() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        link = ChildLink(ours.detach())
        link.open("msgpack", 1 << 30)
        reader = StreamReader(theirs)
        (opened,), fd = reader.read_with_fd()
        assert (opened.kind, bytes(opened.body)) == (stream_frames.OPENED, b"msgpack")
        assert fd is not None
        child = SharedRings(fd, is_child=True)
        os.close(fd)
        with pytest.raises(ValueError, match="not shared"):
            link.payload_at(PLACE.pack(SMALLEST, SMALLEST))
        value = payload(7, SMALLEST)
        for is_shared in (False, True):
            if is_shared:
                link.share()
            link.post_payload(1, (b"head",), value)
            link.flush()
            found = reader.read()
            while not found:
                found = reader.read()
            (one,) = found
            if is_shared:
                assert one.kind == stream_frames.MESSAGE_PLACE
                assert child.take(bytes(one.body[4:])) == value
            else:
                assert (one.kind, bytes(one.body[4:])) == (stream_frames.MESSAGE, value)
        link.close()
