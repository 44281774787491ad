"""The keywords of hkrunner.run() and hkrunner.Pool(): options of `hkrunner run`, by the same names."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, TypedDict

from ...sandbox.shared.limits import LEAST_MEMORY_BYTES, MI
from ..errors import SettingsError
from ..settings.option import Option
from ..settings.options import OPTIONS

KEYWORDS: dict[str, Option] = {option.keyword: option for option in OPTIONS if option.python}
#: Keywords of a Pool, whose tasks run on this machine. --cpu-time and --disk are not among them: they limit
#: the whole life of a process, and that of a worker has no end.
POOL_KEYWORDS = {
    name: option
    for name, option in KEYWORDS.items()
    if name not in ("algorithm", "command", "cpu_time", "disk", "install", "on", "parallel")
}
#: What runner/settings/env_file.py reads as one character between double quotes.
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})


class PoolOptions(TypedDict, total=False):
    """POOL_KEYWORDS for type checkers, which cannot read them from the table; a test compares the two."""

    path: str | os.PathLike[str] | None
    file: str | os.PathLike[str] | None
    python: str | os.PathLike[str] | None
    env: Mapping[str, str] | None
    grace: float | None
    cpu: float | str | None
    mem: int | str | None
    mem_mode: str | None
    pids: int | None
    timeout: float | None
    start_timeout: float | None
    files: int | None
    no_limits: bool
    total_mem: int | str | None
    total_cpu: float | str | None
    gpu: int | None
    state_dir: str | os.PathLike[str] | None
    sandbox: str | None
    sandbox_level: str | None
    read: Sequence[str | os.PathLike[str]] | None
    write: Sequence[str | os.PathLike[str]] | None
    net: str | Sequence[str] | None


class RunOptions(PoolOptions, total=False):
    """KEYWORDS in the same way."""

    command: str | Sequence[str] | None
    install: bool
    cpu_time: float | None
    disk: int | str | None
    parallel: int | None
    algorithm: str | Sequence[str] | None
    on: str | None


def complete_signature(run: Callable[..., Any], options: Mapping[str, Option] = KEYWORDS) -> None:
    """Make `**options` explicit in the signature and the docstring, for editors and notebooks."""
    signature = inspect.signature(run)
    keywords = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=_default(option), annotation=option.python
        )
        for name, option in options.items()
    ]
    own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    at = len([one for one in own if one.kind is not inspect.Parameter.KEYWORD_ONLY])
    parameters = [*own[:at], *keywords, *own[at:]]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    rows = [
        textwrap.fill(
            option.python_help or option.help,
            98,
            initial_indent=f"        {name:<15}",
            subsequent_indent=" " * 23,
        )
        for name, option in options.items()
    ]
    run.__doc__ = (run.__doc__ or "").replace("        (see KEYWORDS)", "\n".join(rows))


def _default(option: Option) -> bool | None:
    # None: as if the option was not given, so that the descriptor or a variable decides.
    return False if option.kind == "flag" else None


def arguments(
    options: Mapping[str, Any], known: Mapping[str, Option] = KEYWORDS, *, of: str = "run"
) -> Iterator[str]:
    """Return the options as arguments of the command; `env` is left out: see variables_file().

    Raises TypeError for an unknown keyword, and SettingsError for a value that the option cannot have.
    """
    for name, value in options.items():
        option = known.get(name)
        if option is None:
            from difflib import get_close_matches  # late: only a mistake needs it

            close = [f", did you mean {one!r}?" for one in get_close_matches(name, known, 1)]
            raise TypeError(f"{of}() got an unexpected keyword argument {name!r}{''.join(close)}")
        if value is None or value is False or name == "env":
            continue
        _check(name, option, value)
        # The value is in the same word: it may begin with a dash.
        if name == "command" and not isinstance(value, str):
            value = shlex.join(map(os.fspath, value))
        if option.kind == "many" and not isinstance(value, (str, os.PathLike)):
            yield from (f"{option.flag}={_text(name, option, one)}" for one in value)
            continue
        yield option.flag if value is True else f"{option.flag}={_text(name, option, value)}"


def _check(name: str, option: Option, value: Any) -> None:
    """Raise SettingsError for a value of the wrong type; the command reports every other mistake."""
    if option.kind == "flag":
        if value is not True:
            raise SettingsError(f"{name} wants True or False, not {value!r}")
    elif isinstance(value, (bool, bytes)):
        raise SettingsError(f"{name} cannot be {value!r}")
    elif option.metavar == "SIZE":
        if not isinstance(value, (int, float, str)):
            raise SettingsError(f"{name} wants a size, such as '512Mi', not {value!r}")
        if isinstance(value, int) and 0 < value < LEAST_MEMORY_BYTES and name in ("mem", "total_mem"):
            unit = "Gi" if value * MI < LEAST_MEMORY_BYTES else "Mi"
            raise SettingsError(
                f"{name}={value} is {value} bytes, and at least 4 MiB are needed:"
                f" did you mean '{value}{unit}'?"
            )
    elif option.kind == "many" and not isinstance(value, (str, os.PathLike, Iterable)):
        raise SettingsError(f"{name} wants one or more texts or paths, not {value!r}")
    elif name == "command" and not isinstance(value, str):
        words = value if isinstance(value, (list, tuple)) else ()
        if not words or not all(isinstance(one, (str, os.PathLike)) for one in words):
            raise SettingsError(f"command wants a text such as 'node app.js', or its words, not {value!r}")
    elif (option.python or "").startswith("str | os.PathLike") and not isinstance(value, (str, os.PathLike)):
        raise SettingsError(f"{name} wants a path, not {value!r}")


def _text(name: str, option: Option, value: Any) -> str:
    if option.metavar == "SIZE" and isinstance(value, int):
        # A number of bytes, written in the smallest unit of the option: m, a thousandth of a byte.
        return f"{value // 1024}Ki" if value % 1024 == 0 else f"{value * 1000}m"
    text = str(os.fspath(value) if isinstance(value, os.PathLike) else value)
    check_text(name, text)
    return text


def check_text(name: str, text: str) -> None:
    """Raise SettingsError for a text that no argument of a process can hold."""
    try:
        can_be = b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # half of a surrogate pair
        can_be = False
    if not can_be:
        raise SettingsError(f"{name} cannot be {text!r}: no argument can hold a NUL, or half of a character")


def check_variables(env: Mapping[str, str]) -> None:
    """Raise SettingsError for a name or a value that no variable can have."""
    if not isinstance(env, Mapping):
        raise SettingsError(f"env wants a dict of variables, not {type(env).__name__}")
    for name, value in env.items():
        if not isinstance(name, str) or not re.fullmatch(r"[^\s=#'\"\0]+", name):
            raise SettingsError(f"env: {name!r} is no name of a variable")
        if "\0" in str(value):
            raise SettingsError(f"env: the value of {name} has a NUL character, which no variable can have")


def variables_file(env: Mapping[str, str]) -> IO[bytes]:
    """Return a memory file with the variables, for --env-file: arguments are world-readable.

    Raises SettingsError for a name or a value that no variable can have.
    """
    check_variables(env)
    lines: list[bytes] = []
    for name, value in env.items():
        text = str(value).translate(_ESCAPES)
        try:
            lines.append(f'{name}="{text}"\n'.encode())
        except UnicodeEncodeError as error:
            raise SettingsError(f"env: the value of {name} is no text: {error.reason}") from None
    file = os.fdopen(os.memfd_create("hkrunner-env", os.MFD_CLOEXEC), "wb")
    file.write(b"".join(lines))
    file.flush()
    return file
