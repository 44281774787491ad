"""The pump: all of it, in order, or counted; never a wait for the reader."""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hkrunner.runner.console.terminal import BUFFER_MAX, Flow, Output, Pump
from hkrunner.runner.io.loop import Loop

CAP_S = 0.05


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    yield reading, writing
    os.close(reading)
    os.close(writing)


def turn_until(loop: Loop, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        loop.turn(0.01)


def read_all(loop: Loop, reading: int, pump: Pump) -> bytes:
    """Read until nothing waits any more."""
    got = bytearray()

    def nothing_is_left() -> bool:
        try:
            got.extend(os.read(reading, 1 << 20))
        except BlockingIOError:
            return not pump.waiting
        return False

    turn_until(loop, nothing_is_left)
    return bytes(got)


def fill(pump: Pump, line: bytes, flow: Flow) -> int:
    """Write lines until the pump is in that state; return how many."""
    count = 0
    while pump.flow is not flow:
        pump.write(line)
        count += 1
    return count


def test_everything_arrives_in_order(loop: Loop, pipe: tuple[int, int]) -> None:
    pump = Pump(loop, pipe[1])
    pieces = [b"%d " % number * (number % 5000) for number in range(300)]
    for piece in pieces:
        pump.write(piece)
    assert read_all(loop, pipe[0], pump) == b"".join(pieces)
    pump.close()


def test_a_write_never_waits_and_the_descriptor_stays_blocking(loop: Loop, pipe: tuple[int, int]) -> None:
    pump = Pump(loop, pipe[1])
    pump.write(b"x" * BUFFER_MAX)
    assert os.get_blocking(pipe[1]) and pump.waiting > 0
    pump.close(wait_s=0)


def test_a_full_buffer_holds_the_algorithm_and_releases_it_when_it_is_read(
    loop: Loop, pipe: tuple[int, int]
) -> None:
    pump = Pump(loop, pipe[1], buffer_max=100_000, stall_s=60)
    released: list[Flow] = []
    pump.on_release = lambda: released.append(pump.flow)
    count = fill(pump, b"a line\n", Flow.HOLDING)
    pump.write(b"what was on its way\n")
    assert not released
    assert read_all(loop, pipe[0], pump) == b"a line\n" * count + b"what was on its way\n"
    assert released == [Flow.FLOWING]
    pump.close()


def test_a_reader_that_has_stopped_holds_the_algorithm_for_the_cap_only(
    loop: Loop, pipe: tuple[int, int]
) -> None:
    pump = Pump(loop, pipe[1], buffer_max=100_000, stall_s=CAP_S)
    released: list[Flow] = []
    pump.on_release = lambda: released.append(pump.flow)
    kept = fill(pump, b"a line\n", Flow.HOLDING)
    pump.write(b"begun, ")
    turn_until(loop, lambda: bool(released))
    assert released == [Flow.DROPPING]
    pump.write(b"and ended\nlost\n")
    for _ in range(1233):
        pump.write(b"lost\n")
    pump.write(b"lost, and its en")
    shown = bytearray()
    while pump.flow is not Flow.FLOWING:
        turn_until(loop, lambda: bool(select.select([pipe[0]], [], [], 0)[0]))
        shown += os.read(pipe[0], 65536)
        loop.turn(0.01)
    pump.write(b"d\nnext\n")
    shown += read_all(loop, pipe[0], pump)
    text = shown.decode()
    note = re.search(r"^\[hkrunner: ([\d,]+) lines were dropped here \(([\d,]+) bytes\).*\n", text, re.M)
    assert note is not None and int(note[1].replace(",", "")) == 1235
    assert text[: note.start()] == "a line\n" * kept + "begun, and ended\n"
    assert text[note.end() :] == "next\n"
    pump.close()


def test_lines_of_our_own_are_not_dropped_with_the_algorithms(loop: Loop, pipe: tuple[int, int]) -> None:
    pump = Pump(loop, pipe[1], buffer_max=100_000, stall_s=CAP_S)
    fill(pump, b"a line\n", Flow.HOLDING)
    turn_until(loop, lambda: pump.flow is Flow.DROPPING)
    pump.write(b"lost")
    pump.write(b"task t1 failed\n", ours=True)
    assert read_all(loop, pipe[0], pump).endswith(b": the reader is too slow]\ntask t1 failed\n")
    pump.close()


def test_what_waits_is_bounded_in_small_pieces_too(loop: Loop, pipe: tuple[int, int]) -> None:
    pump = Pump(loop, pipe[1], buffer_max=200_000, stall_s=60)
    for _ in range(500_000):
        pump.write(b"x")
    assert pump.waiting <= 400_000 and len(pump._buffer) < 20
    pump.close(wait_s=0)


def test_without_a_limit_nothing_is_dropped(loop: Loop, pipe: tuple[int, int]) -> None:
    pump = Pump(loop, pipe[1], buffer_max=None)
    drained: list[bool] = []
    pump.on_drained = lambda: drained.append(True)
    for _ in range(3):
        pump.write(b"r" * BUFFER_MAX)
    assert len(read_all(loop, pipe[0], pump)) == 3 * BUFFER_MAX and drained == [True]
    pump.close()


def test_a_reader_that_goes_releases_the_algorithm(loop: Loop) -> None:
    reading, writing = os.pipe()
    pump = Pump(loop, writing, buffer_max=100_000, stall_s=60)
    released: list[bool] = []
    pump.on_release = lambda: released.append(True)
    fill(pump, b"a line\n", Flow.HOLDING)
    os.close(reading)
    turn_until(loop, lambda: pump.broken)
    pump.write(b"to nobody\n")
    assert released == [True] and pump.waiting == 0
    pump.close()
    os.close(writing)


def test_a_file_takes_everything_at_once_and_where_others_append(loop: Loop, tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    pump = Pump(loop, fd)
    pump.write(b"x" * 5_000_000)
    turn_until(loop, lambda: not pump.waiting)
    os.write(fd, b"end")
    pump.close()
    os.close(fd)
    assert (tmp_path / "file").read_bytes() == b"x" * 5_000_000 + b"end"


def test_close_gives_a_stopped_reader_no_more_than_its_time(loop: Loop, pipe: tuple[int, int]) -> None:
    pump = Pump(loop, pipe[1])
    pump.write(b"x" * 1_000_000)
    began = time.monotonic()
    pump.close(wait_s=0.1)
    assert time.monotonic() - began < 5


def test_a_line_that_may_wait_goes_out_with_the_next_or_by_itself(loop: Loop, pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    output = Output(loop, local=False)
    output.err = Pump(loop, writing)
    output.say("begins")
    output.say("ends")
    with pytest.raises(BlockingIOError):
        os.read(reading, 100)
    output.user("stderr", b"a word of the algorithm's\n")
    assert os.read(reading, 100) == b"begins\nends\na word of the algorithm's\n"
    output.say("alone")
    loop.turn()
    assert os.read(reading, 100) == b"alone\n"
    output.say("before")
    output.warn("at once")
    assert os.read(reading, 100) == b"before\nat once\n"
    output.say("last")
    output.close()
    assert os.read(reading, 100) == b"last\n"
