"""Reads the inputs of a local run, JSON from options, files and stdin, and checks them before it starts."""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import sys
from collections.abc import Callable, Iterator

from ...sandbox.codec import unreadable
from ..errors import SettingsError
from ..io.loop import Loop


def read_inputs(values: tuple[str, ...], tasks: str | None, cwd: str) -> Iterator[bytes]:
    """Yield the input of each task, as JSON text of a list. Raises SettingsError for invalid JSON."""
    if "-" in values and tasks == "-":
        raise SettingsError("both --input - and --tasks - read stdin: use a file for one of them")
    if values.count("-") > 1:
        raise SettingsError("--input - can be given once: use --tasks - for several inputs from stdin")
    for value in values:
        yield as_list(*_value(value, cwd))
    if tasks is not None:
        yield from _lines(tasks, cwd)


def check_encoding(inputs: list[bytes], encoding: str) -> None:
    """Raise SettingsError for an input that cannot be sent in this encoding."""
    from ...sandbox.codec import codec  # late: not needed for json

    for number, data in enumerate(inputs, 1):
        message = {"command": "initialize", "data": codec.decode("json", data)}
        try:
            codec.encode(encoding, message, name=f"input {number}", most=None)
        except codec.ResultInvalid as error:
            raise SettingsError(f"--encoding {encoding}: {error}") from None


def _value(value: str, cwd: str) -> tuple[bytes, str]:
    if value == "-":
        return _stdin(), "stdin (--input -)"
    if value.startswith("@"):
        return _file(value[1:], cwd, "--input"), f"the file {value[1:]} (--input)"
    return os.fsencode(value), "--input"


def _lines(name: str, cwd: str) -> Iterator[bytes]:
    data = _stdin() if name == "-" else _file(name, cwd, "--tasks")
    shown = "stdin" if name == "-" else name
    for number, line in enumerate(data.splitlines(), 1):
        if line.strip():
            yield as_list(line, f"line {number} of {shown} (--tasks)")


class StdinTasks:
    """Reads inputs from stdin, line by line, while the loop runs."""

    def __init__(
        self,
        loop: Loop,
        on_line: Callable[[bytes, int], None],
        on_problem: Callable[[str], None],
        on_end: Callable[[], None],
    ) -> None:
        """`on_line` gets each line that is not blank, with its number; `on_end` is called last."""
        self._loop = loop
        self._on_line = on_line
        self._on_problem = on_problem
        self._on_end = on_end
        self._rest = bytearray()  # the beginning of a line whose end was not read yet
        self._number = 0
        try:
            loop.on_readable(0, self._on_readable)
        except OSError:
            # A regular file or /dev/null: epoll refuses both, and both can be read at once.
            loop.after(0, self._read_all)

    def _on_readable(self) -> None:
        self._read()

    def _read(self) -> bool:
        try:
            data = os.read(0, 65536)
        except BlockingIOError:
            return True
        except OSError as error:
            self._on_problem(f"stdin cannot be read: {error.strerror}")
            data = b""
        # Appended, and not joined anew: a line of 100 MB comes in 1,600 pieces.
        *ends, rest = data.split(b"\n")
        for end in ends if data else [b""]:
            line = bytes(self._rest) + end
            self._rest.clear()
            self._number += 1
            if line.strip():
                self._on_line(line, self._number)
        self._rest += rest
        if not data:
            self._loop.on_readable(0, None)
            self._on_end()
        return bool(data)

    def _read_all(self) -> None:
        while self._read():
            pass


def _stdin() -> bytes:
    """Return all of stdin. Raises SettingsError.

    sys.stdin would return a part where another program has set O_NONBLOCK on what it shares with this one.
    """
    parts: list[bytes] = []
    while True:
        try:
            part = os.read(0, 1 << 20)
        except BlockingIOError:
            select.select([0], [], [])
            continue
        except OSError as error:
            raise SettingsError(f"stdin cannot be read: {error.strerror}") from None
        if not part:
            return b"".join(parts)
        parts.append(part)


def _file(name: str, cwd: str, flag: str) -> bytes:
    if not name:
        raise SettingsError(f"{flag} @ wants the name of a file: @FILE")
    path = os.path.join(cwd, os.path.expanduser(name))
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise SettingsError(f"{flag}: cannot read {name}: {error.strerror}") from None


def as_list(data: bytes, what: str) -> bytes:
    """Return the JSON text of a list: the value itself, or a list of it. Raises SettingsError."""
    try:
        text = data.decode("utf-8-sig")
        # Only an exponent makes a number too large, and a function for each number takes time.
        floats = _finite if "e" in text or "E" in text else None
        value = json.loads(text, parse_constant=_no_constant, parse_float=floats)
    except UnicodeDecodeError as error:
        raise SettingsError(f"{what} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise SettingsError(f"{what} is JSON nested too deeply") from None
    except ValueError as error:
        wrong = unreadable.why(error, f"is not JSON: {_found(data)}")
        raise SettingsError(f"{what} {wrong}{_hint(error, what)}") from None
    stripped = text.strip().encode()
    return stripped if isinstance(value, list) else b"[" + stripped + b"]"


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON; write null")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):  # the code would get Infinity, and the record null
        raise ValueError(f"{text[:30]} is larger than any number of a program, {sys.float_info.max:.2g}")
    return number


def _found(data: bytes) -> str:
    text = data.decode("utf-8", "replace").strip()
    return repr(text if len(text) <= 60 else text[:57] + "...") if text else "nothing"


def _hint(error: ValueError, what: str) -> str:
    """Return what helps against an error of the JSON parser, "" where nothing is certain."""
    if not isinstance(error, json.JSONDecodeError):
        return ""
    text, rest, is_typed = error.doc.strip(), error.doc[error.pos :], what == "--input"
    if "\n" in text and error.msg == "Extra data" and error.colno == 1:
        return "; a file with one input per line is for --tasks"
    if text[:1] in ("[", "{") and not rest.strip() and what.startswith("line 1 of "):
        return "; a file with one value over several lines is for -i @FILE"
    if text[:1] in ("[", "{", "'") and "'" in text and '"' not in text:
        return "; JSON strings need double quotes"
    if rest.startswith(("True", "False", "None")):
        return "; JSON writes true, false and null"
    if text and text[0] not in "[{\"'-0123456789":
        if what.startswith("the file "):
            return """; if the code is to read the file itself, give its path as a string: -i '"PATH"'"""
        if "\n" in text or len(text) >= 200:
            return ""
        if not is_typed:
            return f"""; a string needs quotes: "{text}\""""
        file = "" if text.startswith("@") else f", a file an @: @{text}"  # @@ has no meaning
        return f"""; a string needs quotes: '"{text}"'{file}"""
    if is_typed and '"' not in text and rest[:1].isalpha():
        return """; the shell removes double quotes unless single ones surround them: -i '{"a": 1}'"""
    if "," in text and len(text) < 200:
        with contextlib.suppress(ValueError):
            json.loads(f"[{text}]")
            return (
                f"; a list needs brackets: '[{text}]'" if is_typed else f"; a list needs brackets: [{text}]"
            )
    return ""
