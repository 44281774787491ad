"""Frames cut anywhere come out whole; what is no frame is refused without being believed."""

from __future__ import annotations

import array
import itertools
import os
import socket
import tempfile
from collections.abc import Iterator

import pytest
from hkrunner.sandbox.linux import procfs
from hkrunner.sandbox.shared.channel import (
    BLOB_LIMIT,
    HEADER,
    INLINE_LIMIT,
    INLINE_MAX,
    ChannelError,
    Frame,
    FrameReader,
    blob_problem,
    encode,
    fds_of,
    header,
    read_buffer,
    seal,
)
from hypothesis import given
from hypothesis import strategies as st

#: Kinds of messages; their numbers stand in messages.py.
INITIALIZE, INITIALIZED, DONE, PROBLEM = 2, 19, 20, 24
FRAMES = [
    Frame(INITIALIZE, 1, b'{"command":"initialize"}', None, 24),
    Frame(INITIALIZED, 2**32 - 1, b"", None, 0),
    Frame(DONE, 3, bytes(range(256)), None, 256),
]
STREAM = b"".join(encode(one.kind, one.task, one.body) for one in FRAMES)


@pytest.fixture
def memory() -> Iterator[int]:
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    yield fd
    os.close(fd)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("cut", range(len(STREAM) + 1))
def test_frames_cut_in_two_come_out_whole(cut: int) -> None:
    reader = FrameReader()
    assert reader.feed(STREAM[:cut]) + reader.feed(STREAM[cut:]) == FRAMES
    assert reader.partial == 0


def test_frames_byte_by_byte_come_out_whole() -> None:
    reader = FrameReader()
    assert [frame for byte in STREAM for frame in reader.feed(bytes([byte]))] == FRAMES


@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, 2**32 - 1), st.binary(max_size=300)), max_size=8),
    st.lists(st.integers(0, 3000), max_size=12),
)
def test_any_frames_cut_anywhere_come_out_as_they_went_in(
    frames: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(encode(*one) for one in frames)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = [stream[one:other] for one, other in itertools.pairwise(places)]
    reader = FrameReader()
    out = [frame for piece in pieces for frame in reader.feed(piece)]
    assert [(frame.kind, frame.task, frame.body) for frame in out] == frames


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_garbage_is_refused_or_waits_and_never_grows(pieces: list[bytes]) -> None:
    reader = FrameReader()
    try:
        for piece in pieces:
            reader.feed(piece)
    except ChannelError:
        assert reader.partial == 0
    assert reader.partial <= sum(map(len, pieces))


@pytest.mark.parametrize("size", [0, 1, INLINE_MAX - 1, INLINE_MAX])
def test_a_body_up_to_its_limit_travels_in_the_stream(size: int) -> None:
    (frame,) = FrameReader().feed(encode(DONE, 1, bytes(size)))
    assert (len(frame.body), frame.size, frame.fd) == (size, size, None)


def test_a_body_above_its_limit_is_refused_by_the_sender() -> None:
    with pytest.raises(AssertionError, match="memfd"):
        encode(DONE, 1, bytes(INLINE_MAX + 1))


@pytest.mark.parametrize(
    ("length", "blob", "sentence"),
    [
        (INLINE_LIMIT + 1, False, "frame of 1.05 MB, limit 1.05 MB"),
        (2**60, False, "frame of 1.15 EB, limit 1.05 MB"),
        (2**64 - 1, False, "frame of 18.4 EB, limit 1.05 MB"),
        (BLOB_LIMIT + 1, True, "frame of 17.6 TB, limit 17.6 TB"),
    ],
)
def test_a_frame_with_too_large_a_size_is_refused_at_its_header(
    length: int, blob: bool, sentence: str
) -> None:
    with pytest.raises(ChannelError, match=f"^{sentence}$"):
        FrameReader().feed(header(DONE, 1, length, blob=blob))


@pytest.mark.parametrize("start", [b"\x02", b"{", b"\x00"])
def test_bytes_that_are_no_frame_are_reported_with_their_place(start: bytes) -> None:
    good = encode(PROBLEM, 0, b"{}")
    with pytest.raises(ChannelError, match=rf"^bad frame at byte {len(good)}: {start.hex()}"):
        FrameReader().feed(good + start + bytes(20))


def test_the_place_counts_from_the_beginning_of_the_stream() -> None:
    reader = FrameReader()
    good = encode(PROBLEM, 0, b"{}")
    reader.feed(good)
    reader.feed(good)
    with pytest.raises(ChannelError, match=f"at byte {2 * len(good)}"):
        reader.feed(b"\xff" * 16)


def test_an_unknown_flag_is_refused() -> None:
    with pytest.raises(ChannelError, match="bad frame"):
        FrameReader().feed(HEADER.pack(1, DONE, 2, 1, 0))


def test_a_large_frame_takes_the_descriptor_that_came_with_it(memory: int) -> None:
    reader, given_fd = FrameReader(), os.dup(memory)
    data = header(DONE, 7, 5_000_000, blob=True)
    assert reader.feed(data[:3], [given_fd]) == []
    assert reader.feed(data[3:]) == [Frame(DONE, 7, b"", given_fd, 5_000_000)]
    reader.close()
    assert is_open(given_fd)  # it is the taker's now
    os.close(given_fd)


def test_a_large_frame_without_a_descriptor_is_refused() -> None:
    with pytest.raises(ChannelError, match="frame at byte 0 came without its memory"):
        FrameReader().feed(header(DONE, 1, 10, blob=True))


def test_descriptors_are_closed_after_an_error(memory: int) -> None:
    taken, left = os.dup(memory), os.dup(memory)
    with pytest.raises(ChannelError):
        FrameReader().feed(header(DONE, 1, 10, blob=True) + bytes(16), [taken, left])
    assert not is_open(taken) and not is_open(left)


def test_descriptors_that_were_not_taken_are_closed_with_the_reader(memory: int) -> None:
    reader, fd = FrameReader(), os.dup(memory)
    assert reader.feed(b"", [fd]) == []
    reader.close()
    assert not is_open(fd)


def test_memory_is_accepted_only_when_it_is_sealed_against_shrinking(memory: int) -> None:
    os.ftruncate(memory, 100)
    assert blob_problem(memory, 100) == "not sealed against truncation"
    seal(memory)
    assert blob_problem(memory, 100) is None
    assert blob_problem(memory, 101) == "100 bytes where 101 were announced"
    with pytest.raises(PermissionError):
        os.ftruncate(memory, 99)
    os.ftruncate(memory, 200)


def test_a_descriptor_that_is_not_a_memfd_is_refused() -> None:
    read, write = os.pipe()
    assert blob_problem(read, 0) == "not a memory file"
    os.close(read)
    os.close(write)
    with tempfile.TemporaryFile() as file:
        assert blob_problem(file.fileno(), 0) is not None


def test_descriptors_come_out_of_the_message_they_came_in(memory: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [memory, memory]))])
        _, ancillary, _, _ = theirs.recvmsg(10, 256, socket.MSG_CMSG_CLOEXEC)
    found = fds_of(ancillary)
    assert [os.fstat(fd).st_ino for fd in found] == [os.fstat(memory).st_ino] * 2
    for fd in found:
        os.close(fd)
    assert fds_of([(1, 2, b"1234")]) == []


def test_a_buffer_takes_no_memory_before_it_is_read_into() -> None:
    before = procfs.rss(os.getpid())
    buffer = read_buffer(64 << 20)
    assert procfs.rss(os.getpid()) - before < 32 << 20
    buffer[:3] = b"abc"
    assert (len(buffer), buffer[:4]) == (64 << 20, b"abc\0")


def test_descriptors_that_no_frame_takes_are_refused_before_they_are_many(memory: int) -> None:
    reader = FrameReader()
    sent = [os.dup(memory) for _ in range(3)]
    assert reader.feed(encode(2, 1, b"{}"), sent[:1])  # as if the rest of its header were still to come
    with pytest.raises(ChannelError, match="descriptors without a frame at byte"):
        reader.feed(encode(2, 1, b"{}"), sent[1:])
    for fd in sent:
        with pytest.raises(OSError):
            os.fstat(fd)
