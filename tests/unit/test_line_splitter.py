"""Lines are whole and bounded, however the bytes come."""

from __future__ import annotations

from hkrunner.runner.io.line_splitter import LINE_MAX, LineSplitter


def test_lines_are_whole_however_the_bytes_are_cut() -> None:
    text = b"one\ntwo\n\nthree\xff\nfour"
    for size in range(1, len(text) + 1):
        lines = LineSplitter()
        got = [line for at in range(0, len(text), size) for line in lines.feed(text[at : at + size])]
        assert got == ["one", "two", "", "three\ufffd"]
        assert lines.finish() == ["four"]
        assert lines.finish() == []


def test_a_long_line_keeps_its_beginning_and_says_what_was_cut() -> None:
    lines = LineSplitter()
    assert lines.feed(b"a" + b"b" * LINE_MAX) == []
    assert lines.feed(b"c" * 9) == []
    (line,) = lines.feed(b"\n")
    assert line == "a" + "b" * (LINE_MAX - 1) + " [hkrunner: 10 bytes cut]"
    assert lines.feed(b"next\n") == ["next"]
