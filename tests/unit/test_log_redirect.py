"""Lines for HKube's logData: whole, bounded, counted where they are missing."""

from __future__ import annotations

from hkrunner.runner.serving.log_redirect import LINE_MAX, LogLines


def test_lines_are_whole_however_the_bytes_are_cut() -> None:
    text = b"one\ntwo\n\nthree\xff\nfour"
    for size in range(1, len(text) + 1):
        lines = LogLines()
        got = [line for at in range(0, len(text), size) for line in lines.feed(text[at : at + size])]
        assert got == ["one", "two", "", "three\ufffd"]
        assert lines.finish() == ["four"]
        assert lines.finish() == []


def test_a_long_line_keeps_its_beginning_and_says_what_was_cut() -> None:
    lines = LogLines()
    assert lines.feed(b"a" + b"b" * LINE_MAX) == []
    assert lines.feed(b"c" * 9) == []
    (line,) = lines.feed(b"\n")
    assert line == "a" + "b" * (LINE_MAX - 1) + " [hkrunner: 10 bytes cut]"
    assert lines.feed(b"next\n") == ["next"]


def test_lines_that_could_not_be_sent_are_counted_once() -> None:
    lines = LogLines()
    lines.drop(2)
    lines.drop(1)
    assert lines.missed() == ["[hkrunner: 3 lines were dropped here: the worker is too slow]"]
    assert lines.missed() == []
