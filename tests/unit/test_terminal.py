"""The writer: everything, in order, or counted; never a wait for the reader."""

from __future__ import annotations

import os
import pty
import re
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hkrunner.runner.console.terminal import Output
from hkrunner.runner.io.loop import Loop
from hkrunner.runner.io.nonblocking_writer import BUFFER_MAX, NonblockingWriter, WriterState

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


def read_all(loop: Loop, reading: int, writer: NonblockingWriter) -> bytes:
    """Read until nothing waits any more."""
    got = bytearray()

    def nothing_is_left() -> bool:
        try:
            got.extend(os.read(reading, 1 << 20))
        except BlockingIOError:
            return not writer.waiting
        return False

    turn_until(loop, nothing_is_left)
    return bytes(got)


def fill(writer: NonblockingWriter, line: bytes, state: WriterState) -> int:
    """Write lines until the writer is in that state; return how many."""
    count = 0
    while writer.state is not state:
        writer.write(line)
        count += 1
    return count


def test_everything_arrives_in_order(loop: Loop, pipe: tuple[int, int]) -> None:
    writer = NonblockingWriter(loop, pipe[1])
    pieces = [b"%d " % number * (number % 5000) for number in range(300)]
    for piece in pieces:
        writer.write(piece)
    assert read_all(loop, pipe[0], writer) == b"".join(pieces)
    writer.close()


def test_a_write_never_waits_and_the_descriptor_stays_blocking(loop: Loop, pipe: tuple[int, int]) -> None:
    writer = NonblockingWriter(loop, pipe[1])
    writer.write(b"x" * BUFFER_MAX)
    assert os.get_blocking(pipe[1]) and writer.waiting > 0
    writer.close(wait_s=0)


def test_a_full_buffer_holds_the_algorithm_and_releases_it_when_it_is_read(
    loop: Loop, pipe: tuple[int, int]
) -> None:
    writer = NonblockingWriter(loop, pipe[1], buffer_max=100_000, stall_s=60)
    released: list[WriterState] = []
    writer.on_release = lambda: released.append(writer.state)
    count = fill(writer, b"a line\n", WriterState.HOLDING)
    writer.write(b"what was on its way\n")
    assert not released
    assert read_all(loop, pipe[0], writer) == b"a line\n" * count + b"what was on its way\n"
    assert released == [WriterState.WRITING]
    writer.close()


def test_a_reader_that_has_stopped_holds_the_algorithm_for_the_cap_only(
    loop: Loop, pipe: tuple[int, int]
) -> None:
    writer = NonblockingWriter(loop, pipe[1], buffer_max=100_000, stall_s=CAP_S)
    released: list[WriterState] = []
    writer.on_release = lambda: released.append(writer.state)
    kept = fill(writer, b"a line\n", WriterState.HOLDING)
    writer.write(b"begun, ")
    turn_until(loop, lambda: bool(released))
    assert released == [WriterState.DROPPING]
    writer.write(b"and ended\nlost\n")
    for _ in range(1233):
        writer.write(b"lost\n")
    writer.write(b"lost, and its en")
    shown = bytearray()
    while writer.state is not WriterState.WRITING:
        turn_until(loop, lambda: bool(select.select([pipe[0]], [], [], 0)[0]))
        shown += os.read(pipe[0], 65536)
        loop.turn(0.01)
    writer.write(b"d\nnext\n")
    shown += read_all(loop, pipe[0], writer)
    text = shown.decode()
    note = re.search(r"^\[hkrunner: ([\d,]+) lines were dropped here \(([\d,]+) bytes\).*\n", text, re.M)
    assert note is not None and int(note[1].replace(",", "")) == 1235
    assert text[: note.start()] == "a line\n" * kept + "begun, and ended\n"
    assert text[note.end() :] == "next\n"
    writer.close()


def test_hkrunners_own_lines_are_not_dropped_with_the_algorithms(loop: Loop, pipe: tuple[int, int]) -> None:
    writer = NonblockingWriter(loop, pipe[1], buffer_max=100_000, stall_s=CAP_S)
    fill(writer, b"a line\n", WriterState.HOLDING)
    turn_until(loop, lambda: writer.state is WriterState.DROPPING)
    writer.write(b"lost")
    writer.write(b"task t1 failed\n", ours=True)
    assert read_all(loop, pipe[0], writer).endswith(b": the reader is too slow]\ntask t1 failed\n")
    writer.close()


def test_what_waits_is_bounded_in_small_pieces_too(loop: Loop, pipe: tuple[int, int]) -> None:
    writer = NonblockingWriter(loop, pipe[1], buffer_max=200_000, stall_s=60)
    for _ in range(500_000):
        writer.write(b"x")
    assert writer.waiting <= 400_000 and len(writer._buffer) < 20
    writer.close(wait_s=0)


def test_without_a_limit_nothing_is_dropped(loop: Loop, pipe: tuple[int, int]) -> None:
    writer = NonblockingWriter(loop, pipe[1], buffer_max=None)
    drained: list[bool] = []
    writer.on_drained = lambda: drained.append(True)
    for _ in range(3):
        writer.write(b"r" * BUFFER_MAX)
    assert len(read_all(loop, pipe[0], writer)) == 3 * BUFFER_MAX and drained == [True]
    writer.close()


def test_a_reader_that_disconnects_releases_the_algorithm(loop: Loop) -> None:
    reading, writing = os.pipe()
    writer = NonblockingWriter(loop, writing, buffer_max=100_000, stall_s=60)
    released: list[bool] = []
    writer.on_release = lambda: released.append(True)
    fill(writer, b"a line\n", WriterState.HOLDING)
    os.close(reading)
    turn_until(loop, lambda: writer.broken)
    writer.write(b"to nobody\n")
    assert released == [True] and writer.waiting == 0
    writer.close()
    os.close(writing)


def test_a_file_takes_everything_at_once_and_where_others_append(loop: Loop, tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    writer = NonblockingWriter(loop, fd)
    writer.write(b"x" * 5_000_000)
    turn_until(loop, lambda: not writer.waiting)
    os.write(fd, b"end")
    writer.close()
    os.close(fd)
    assert (tmp_path / "file").read_bytes() == b"x" * 5_000_000 + b"end"


def test_close_gives_a_stopped_reader_no_more_than_its_time(loop: Loop, pipe: tuple[int, int]) -> None:
    writer = NonblockingWriter(loop, pipe[1])
    writer.write(b"x" * 1_000_000)
    began = time.monotonic()
    writer.close(wait_s=0.1)
    assert time.monotonic() - began < 5


def test_a_line_that_may_wait_is_written_with_the_next_or_by_itself(
    loop: Loop, pipe: tuple[int, int]
) -> None:
    reading, writing = pipe
    output = Output(loop, local=False)
    output.err = NonblockingWriter(loop, writing)
    output.say("begins")
    output.say("ends")
    with pytest.raises(BlockingIOError):
        os.read(reading, 100)
    output.user("stderr", b"a word of the algorithm's\n")
    assert os.read(reading, 100) == b"begins\nends\na word of the algorithm's\n"
    output.say("alone")
    turn_until(loop, lambda: bool(select.select([reading], [], [], 0)[0]))
    assert os.read(reading, 100) == b"alone\n"
    output.say("before")
    output.warn("at once")
    assert os.read(reading, 100) == b"before\nat once\n"
    output.say("last")
    output.close()
    assert os.read(reading, 100) == b"last\n"


def test_every_waiting_callback_is_called_once_when_pipes_may_be_read_again(
    loop: Loop, pipe: tuple[int, int]
) -> None:
    reading, writing = pipe
    output = Output(loop, local=True)
    output.err = NonblockingWriter(loop, writing)
    output.err.on_release = output.out.on_release
    output.user("stderr", b"x" * (BUFFER_MAX + 1_000_000))
    assert output.holding
    called: list[str] = []
    output.when_released(lambda: called.append("first"))
    output.when_released(lambda: called.append("second"))

    def reads() -> bool:
        while select.select([reading], [], [], 0)[0]:
            os.read(reading, 1_000_000)
        return len(called) >= 2

    turn_until(loop, reads)
    output.user("stderr", b"x" * (BUFFER_MAX + 1_000_000))
    turn_until(loop, lambda: (reads(), not output.holding)[1])
    assert called == ["first", "second"]
    turn_until(loop, lambda: (reads(), not output.err.waiting)[1])
    output.close()


def write_result(loop: Loop, fd: int, *, encoding: str = "utf-8", to_file: bool = False) -> None:
    """Write RESULT to this descriptor, as to stdout or as to the file of --output-file."""
    output = Output(loop, local=True, encoding=encoding, results=fd if to_file else 1)
    if not to_file:
        output.out.close()
        output.out = NonblockingWriter(loop, fd, buffer_max=None)
    output.result(RESULT)
    output.close()


RESULT = '{"é":"日本 \u009b31m\u202e"}'.encode()


@pytest.mark.parametrize(
    ("encoding", "to_file", "line"),
    [
        ("utf-8", False, RESULT),
        ("UTF8", False, RESULT),
        ("iso8859-1", False, b'{"\\u00e9":"\\u65e5\\u672c \\u009b31m\\u202e"}'),
        ("no encoding", False, b'{"\\u00e9":"\\u65e5\\u672c \\u009b31m\\u202e"}'),
        ("iso8859-1", True, RESULT),
    ],
    ids=["utf-8", "its other name", "latin-1", "unknown", "a file"],
)
def test_a_result_has_its_characters_where_utf_8_is_read(
    loop: Loop, pipe: tuple[int, int], encoding: str, to_file: bool, line: bytes
) -> None:
    reading, writing = pipe
    write_result(loop, writing, encoding=encoding, to_file=to_file)
    assert os.read(reading, 100) == line + b"\n"


def test_a_terminal_gets_no_control_characters_in_a_result(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen, terminal = pty.openpty()
    try:
        monkeypatch.setattr("os.isatty", lambda _fd: True)
        write_result(loop, terminal)
        assert os.read(screen, 100).strip() == '{"é":"日本 \\u009b31m\\u202e"}'.encode()
    finally:
        os.close(screen)
        os.close(terminal)


def test_a_line_about_a_task_has_no_control_characters_of_an_errors_text(
    loop: Loop, pipe: tuple[int, int]
) -> None:
    reading, writing = pipe
    output = Output(loop, local=True)
    output.err.close()
    output.err = NonblockingWriter(loop, writing)
    output.warn("✘ \x1b[31mred\x9b0m\rover\tkept\n  next é")
    assert os.read(reading, 200).decode() == "✘ \\x1b[31mred\\x9b0m\\rover\tkept\n  next é\n"
    output.close()
