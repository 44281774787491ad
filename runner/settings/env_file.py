"""--env-file: variables in a file, NAME=VALUE a line, as .env files are written.

    # a comment
    MODEL=small                 # and one behind a value
    export PATH_TO=/data        as a shell reads it
    TOKEN='as it $stands'       single quotes: nothing is replaced
    TEXT="two\\nlines"           double quotes: \\n \\t \\r \\" \\\\ are one character each
    EMPTY=

Nothing is replaced by other variables, nothing is executed.
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
    """Return what the file sets, the last of a name. Raises SettingsError with the file and the line."""
    try:
        with open(os.path.expanduser(path), encoding="utf-8-sig", newline=None) as file:
            text = file.read(_SIZE_MAX + 1)
    except UnicodeDecodeError:
        raise SettingsError(f"--env-file {path}: it is no UTF-8 text") from None
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
    # The line itself is not told: it may hold a secret.
    match = _NAME.fullmatch(line)
    if match is None:
        raise ValueError("it is no NAME=VALUE")
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
