"""The rules of .hkubeignore, with the meaning that hkubectl gives them.

hkubectl reads the file with the npm packages ignore-walk 3 and minimatch 3, and that is not quite gitignore:
case is ignored; `name/` names a folder beside the file only, while `name` and `*.pyc` apply at any depth;
another pattern with a slash begins at the folder of the file; the last rule that applies decides, and `!`
includes a file again.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from ..errors import SettingsError

IGNORE_FILE = ".hkubeignore"
_ANY_DEPTH = "**"
_EXTENDED = re.compile(r"[?*+@!]\(")
_RANGE = re.compile(r"\{[^{},]+\.\.[^{},]+\}")


class IgnoreRule(NamedTuple):
    """One line. `patterns`: its alternatives, each split at the slashes."""

    patterns: tuple[tuple[str, ...], ...]
    includes: bool  #: whether it begins with `!`

    def applies(self, path: str, *, to_folder: bool) -> bool:
        """Whether the line is about this path, which is relative to the folder of the file."""
        tried = [f"/{path}", path]
        if to_folder:
            tried += [f"/{path}/", f"{path}/"]
        if any(self._matches(one, begins=False) for one in tried):
            return True
        return to_folder and self.includes and any(self._matches(one, begins=True) for one in tried[:2])

    def _matches(self, path: str, *, begins: bool) -> bool:
        parts = tuple(re.split("/+", path))
        name = next((part for part in reversed(parts) if part), "")
        return any(
            _fits((name,) if len(pattern) == 1 else parts, pattern, begins=begins)
            for pattern in self.patterns
        )


def read_rules(file: str) -> list[IgnoreRule]:
    """Return the rules of the file. Raises SettingsError with the line of one that is not understood."""
    try:
        # hkubectl trims the mark that editors of Windows put before the first line.
        with open(file, encoding="utf-8-sig", errors="surrogateescape") as stream:
            lines = re.split(r"\r?\n", stream.read())
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror}") from None
    rules = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if _EXTENDED.search(text.lstrip("!")) or _RANGE.search(text):
            raise SettingsError(
                f"{file}:{number}: {text}: patterns like +(a|b) and {{1..3}} are not supported; write a line"
                " for each"
            )
        pattern = text.lstrip("!")
        includes = (len(text) - len(pattern)) % 2 == 1  # `!!` is no negation
        rules.append(IgnoreRule(tuple(tuple(re.split("/+", one)) for one in _braces(pattern)), includes))
    return rules


def _braces(pattern: str) -> Iterator[str]:
    """Yield the patterns that `a{b,c}` stands for."""
    depth, start = 0, -1
    commas: list[int] = []
    for at, sign in enumerate(pattern):
        if sign == "{":
            depth += 1
            start = at if depth == 1 else start
            commas = [] if depth == 1 else commas
        elif sign == "," and depth == 1:
            commas.append(at)
        elif sign == "}" and depth:
            depth -= 1
            if not depth and commas:
                cuts = [start, *commas, at]
                for left, right in itertools.pairwise(cuts):
                    yield from _braces(pattern[:start] + pattern[left + 1 : right] + pattern[at + 1 :])
                return
    yield pattern


def _fits(parts: tuple[str, ...], pattern: tuple[str, ...], *, begins: bool) -> bool:
    """Whether the parts of a path fit the pattern; `begins`: whether a path that begins with them may fit."""
    for at, piece in enumerate(pattern):
        if piece == _ANY_DEPTH:
            rest = pattern[at + 1 :]
            if not rest:
                return at < len(parts) or begins
            for skipped in range(at, len(parts)):
                if _fits(parts[skipped:], rest, begins=begins):
                    return True
                if parts[skipped] in (".", ".."):
                    break
            return begins
        if at == len(parts):
            return begins
        if not _segment(piece).fullmatch(parts[at]):
            return False
    left = parts[len(pattern) :]
    # As with minimatch, one slash at the end of the path may be more than the pattern has.
    return not left or left == ("",)


@cache
def _segment(piece: str) -> re.Pattern[str]:
    """Return the expression for one part of a path. Stars match at least one character together."""
    found, at = "", 0
    while at < len(piece):
        sign = piece[at]
        closing = piece.find("]", at + 2)
        if sign == "*":
            found += "[^/]*?"
        elif sign == "?":
            found += "[^/]"
        elif sign == "[" and closing > 0:
            inner = piece[at + 1 : closing]
            negated, inner = inner[:1] in ("!", "^"), inner.lstrip("!^") if inner[:1] in ("!", "^") else inner
            found += "[" + ("^" if negated else "") + inner.replace("\\", r"\\").replace("[", r"\[") + "]"
            at = closing
        elif sign == "\\" and at + 1 < len(piece):
            at += 1
            found += re.escape(piece[at])
        else:
            found += re.escape(sign)
        at += 1
    wild = piece[:1] in ("*", "?", "[")
    try:
        return re.compile((r"(?!\.{1,2}$)(?=.)" if wild else "") + found, re.IGNORECASE)
    except re.error:
        return re.compile(re.escape(piece), re.IGNORECASE)  # [z-a]: minimatch takes it literally as well


def rule_files_of(folder: str) -> str | None:
    """Return the .hkubeignore of this folder; None if it has none."""
    file = os.path.join(folder, IGNORE_FILE)
    return file if os.path.isfile(file) else None
