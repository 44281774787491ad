"""--env-file: environment variables in a file, one NAME=VALUE per line, in the syntax of .env files.

    # a comment
    MODEL=small                 # a comment after a value
    export PATH_TO=/data        `export` is ignored
    TOKEN='a $literal'          single quotes: no escapes
    TEXT="two\\nlines"           double quotes: the escapes are \\n \\t \\r \\" \\\\
    EMPTY=

References to other variables are not expanded, and nothing is executed.
"""

from __future__ import annotations

import os
import re

from ..errors import SettingsError

_NAME = re.compile(r"(?:export[ \t]+)?([^\s=#'\"]+)[ \t]*=(.*)", re.DOTALL)
_QUOTED = {
    "'": re.compile(r"'([^']*)'[ \t]*(?:#.*)?"),
    '"': re.compile(r'"((?:[^"\\]|\\.)*)"[ \t]*(?:#.*)?'),
}
_COMMENT = re.compile(r"[ \t]+#.*")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}
_SIZE_MAX = 1024 * 1024


def read_variables(path: str) -> dict[str, str]:
    """Return the variables; the last one of a name counts. Raises SettingsError with file and line."""
    try:
        with open(os.path.expanduser(path), encoding="utf-8-sig", newline=None) as file:
            text = file.read(_SIZE_MAX + 1)
    except UnicodeDecodeError:
        raise SettingsError(f"--env-file {path}: not UTF-8 text") from None
    except OSError as error:
        raise SettingsError(f"--env-file {path}: {error.strerror}") from None
    if len(text) > _SIZE_MAX:
        raise SettingsError(f"--env-file {path}: larger than 1 MiB")
    found: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        try:
            name, value = _variable(stripped)
        except ValueError as error:
            raise SettingsError(f"--env-file {path}, line {number}: {error}") from None
        found[name] = value
    return found


def _variable(line: str) -> tuple[str, str]:
    # Error messages do not contain the line, which may contain a secret.
    match = _NAME.fullmatch(line)
    if match is None:
        raise ValueError("not NAME=VALUE")
    name, value = match[1], match[2]
    quote = value.strip()[:1]
    if quote in _QUOTED:
        value = value.strip()
        quoted = _QUOTED[quote].fullmatch(value)
        if quoted is None:
            end = value.find(quote, 1)
            what = "the quote does not end on its line" if end < 0 else "something follows the closing quote"
            raise ValueError(f"{name}: {what}")
        value = quoted[1]
        if quote == '"':
            value = re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), value)
    else:
        value = _COMMENT.sub("", value, count=1).strip()
    if "\0" in name + value:
        raise ValueError(f"{name}: a variable cannot hold a null character")
    return name, value
