"""Option values as text -> numbers and pairs; what is wrong is one sentence that names the option."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from ..errors import SettingsError
from .option import Option

Number = TypeVar("Number", int, float)

COUNT_MAX = 2**31 - 1
SECONDS_MAX = 10**9
PORT_MAX = 65535
_PATHS = ("FILE", "DIR", "PATH", "PYTHON", "FILE.jsonl", "[NAME=]FILE")


def refuse_empty_paths(values: Mapping[str, Any], options: Iterable[Option]) -> None:
    """Raise SettingsError for an empty path, as of "$UNSET", which would be the working folder."""
    for option in options:
        value = values.get(option.name)
        if option.metavar in _PATHS and (value == "" or (option.kind == "many" and "" in (value or ()))):
            raise SettingsError(f"{option.flag} wants {option.metavar}, not ''")


def parse_quantity(
    values: Mapping[str, Any], option: Option, parse: Callable[[str], Number]
) -> Number | None:
    """Return what `parse` makes of the value, None if there is none. Raises SettingsError."""
    value = values.get(option.name)
    if value is None:
        return None
    try:
        return parse(str(value))
    except ValueError as error:
        raise SettingsError(f"{option.flag} {value}: {error}") from None


def parse_count(
    values: Mapping[str, Any], option: Option, *, least: int = 1, most: int = COUNT_MAX
) -> int | None:
    """Return a whole number from `least` to `most`, None if there is none. Raises SettingsError."""
    value = values.get(option.name)
    if value is None:
        return None
    try:
        number = int(str(value))
    except ValueError:
        raise SettingsError(f"{option.flag} wants a whole number, not {value!r}") from None
    if number > most:
        raise SettingsError(f"{option.flag} wants a whole number up to {most}, not {value!r}")
    if number < least:
        raise SettingsError(f"{option.flag} wants a whole number from {least} on, not {value!r}")
    return number


def parse_seconds(values: Mapping[str, Any], option: Option, *, least: float) -> float | None:
    """Return a number of seconds from `least` on, None if there is none. Raises SettingsError."""
    value = values.get(option.name)
    if value is None:
        return None
    try:
        number = float(value)
    except OverflowError:  # 10**400 in a call of hkrunner.run()
        number = math.inf
    except ValueError:
        raise SettingsError(f"{option.flag} wants a number of seconds, not {value!r}") from None
    if number > SECONDS_MAX:
        raise SettingsError(f"{option.flag} wants a number of seconds up to {SECONDS_MAX}, not {value!r}")
    if not number >= least:  # `not >=` refuses nan too
        raise SettingsError(f"{option.flag} wants a number of seconds from {least:g} on, not {value!r}")
    return number


def parse_variables(pairs: Iterable[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of --env; one without a value has that of `environ`. Raises SettingsError."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name:
            raise SettingsError(f"--env wants NAME=VALUE or NAME, not {pair!r}")
        if not equals and name not in environ:
            raise SettingsError(f"--env {name}: there is no such variable here to pass on; give it a value")
        found[name] = value if equals else environ[name]
    return found


def parse_named_paths(values: Mapping[str, Any], option: Option) -> dict[str, str]:
    """Return name -> path, as written, for a repeatable NAME=FILE or NAME=DIR. Raises SettingsError."""
    found: dict[str, str] = {}
    for pair in values.get(option.name) or ():
        key, equals, value = pair.partition("=")
        if not equals or not key or not value:
            raise SettingsError(f"{option.flag} wants {option.metavar}, not {pair!r}")
        if key in found:
            raise SettingsError(f"{option.flag}: {key} is given twice")
        found[key] = value
    return found
