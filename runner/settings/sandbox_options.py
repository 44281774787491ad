"""The options for code that is not trusted, and their values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from ...sandbox.shared.isolation_policy import LEVELS
from ...sandbox.shared.net_target import MOST_TARGETS, net_target
from ..errors import SettingsError
from .option import Option

_PATHS = "Sequence[str | os.PathLike[str]] | None"

_SANDBOX = Option(
    "sandbox",
    ("--sandbox",),
    "basic: the code may do what you may do. strict: it reads its own code and its interpreter, writes to"
    " temporary folders, and has no network.",
    ("HKRUNNER_SANDBOX",),
    default_text="basic",
    kind="choice",
    choices=("basic", "strict"),
    python="str | None",
    in_validate=True,
    in_worker=True,
    is_recorded=True,
)
_LEVEL = Option(
    "sandbox_level",
    ("--sandbox-level",),
    "The weakest level of --sandbox strict that is accepted; the strongest possible one is used. If this"
    " machine cannot provide it, the code is not started.",
    ("HKRUNNER_SANDBOX_LEVEL",),
    default_text="full",
    kind="choice",
    choices=LEVELS,
    python="str | None",
    in_validate=True,
    in_worker=True,
    is_recorded=True,
)
_READ = Option(
    "read",
    ("--read",),
    "With --sandbox strict: a file or folder that the code may read, too; repeatable.",
    kind="many",
    metavar="PATH",
    python=_PATHS,
    in_validate=True,
    in_worker=True,
    is_recorded=True,
)
_WRITE = Option(
    "write",
    ("--write",),
    "With --sandbox strict: a file or folder that the code may read and write, too; repeatable.",
    kind="many",
    metavar="PATH",
    python=_PATHS,
    in_validate=True,
    in_worker=True,
    is_recorded=True,
)
_NET = Option(
    "net",
    ("--net",),
    "With --sandbox strict: what the code may connect to, by TCP; repeatable. all: the whole network.",
    ("HKRUNNER_NET",),
    default_text="none",
    kind="many",
    metavar="none|all|HOST:PORT",
    python="str | Sequence[str] | None",
    in_validate=True,
    in_worker=True,
    is_recorded=True,
)
SANDBOX_OPTIONS = (_SANDBOX, _LEVEL, _READ, _WRITE, _NET)


class Sandbox(NamedTuple):
    """What code that is not trusted may do in addition to the least. Paths are absolute, and exist."""

    least: str = LEVELS[0]  #: the weakest level that is accepted
    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    network: bool = False  #: whether it may use the network of the machine
    targets: tuple[str, ...] = ()  #: what it may connect to without that, as NetTarget shows it


def sandbox_of(values: Mapping[str, Any], environ: Mapping[str, str]) -> Sandbox | None:
    """Return the sandbox that is wanted; None: the code may do what its user may do. Raises SettingsError."""
    if values.get("sandbox") != "strict":
        for option in SANDBOX_OPTIONS[1:]:
            # A variable may say what holds for those runs that are strict.
            is_of_variable = any(environ.get(name) for name in option.env)
            if values.get(option.name) and not is_of_variable:
                raise SettingsError(f"{option.flag} is for --sandbox strict: give it, or leave this out")
        return None
    return Sandbox(
        values.get("sandbox_level") or LEVELS[0],
        _paths(values, _READ),
        _paths(values, _WRITE),
        *_network(tuple(values.get("net") or ())),
    )


def _network(words: tuple[str, ...]) -> tuple[bool, tuple[str, ...]]:
    """Return whether all may be reached, and what else. Raises SettingsError."""
    if words and set(words) <= {"none"}:
        return False, ()
    if words and set(words) <= {"all"}:
        return True, ()
    found = []
    for word in words:
        if word in ("none", "all"):
            raise SettingsError(f"--net {word} contradicts --net {next(one for one in words if one != word)}")
        try:
            found.append(str(net_target(word)))
        except ValueError as error:
            raise SettingsError(f"--net wants none, all or HOST:PORT, not {word!r}: {error}") from None
    targets = tuple(dict.fromkeys(found))
    if len(targets) > MOST_TARGETS:
        raise SettingsError(f"--net {len(targets)} times: {MOST_TARGETS} targets are possible")
    return False, targets


def _paths(values: Mapping[str, Any], option: Option) -> tuple[str, ...]:
    found = []
    for text in values.get(option.name) or ():
        path = os.path.abspath(os.path.expanduser(text))
        if not os.path.exists(path):
            folder = os.path.dirname(path)
            is_there = folder != "/" and os.path.isdir(folder)
            to_make = f"; to have the code make it, give --write {folder}" if is_there else ""
            raise SettingsError(f"{option.flag} {text}: there is no such file or folder{to_make}")
        if path == "/":
            raise SettingsError(f"{option.flag} /: that is everything; leave --sandbox strict out")
        found.append(path)
    return tuple(found)
