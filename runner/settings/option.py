"""The declaration of one option, from which the command line, hkrunner.run() and the reference follow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


class Option(NamedTuple):
    """One option of `hkrunner run`, and of each other command or interface that it names."""

    name: str
    flags: tuple[str, ...]
    help: str
    env: tuple[str, ...] = ()
    default: Any = None
    default_text: str = ""  #: description of the default where it is no fixed value
    kind: str = "text"  #: text, many (repeatable text), seconds, flag, or choice
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    group: str = "Algorithm"
    python: str = ""  #: type of the keyword of hkrunner.run(); "": there is no such keyword
    python_help: str = ""  #: what it means there, if that is something else
    in_validate: bool = False  #: also an option of `hkrunner validate`
    in_worker: bool = False  #: also an option of `hkrunner worker`
    worker_help: str = ""  #: what it means there, if that is something else
    is_recorded: bool = False  #: part of a task's record, and so used again by `hkrunner runs again`
    in_cluster: bool = False  #: also for a run with --on, whose tasks run in a cluster
    needs_process: bool = False  #: only for a process that hkrunner has started, so not with --in-process

    @property
    def flag(self) -> str:
        """The long form, as messages name the option."""
        return self.flags[-1]

    @property
    def keyword(self) -> str:
        """The name as a keyword of hkrunner.run()."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def placeholder(self) -> str:
        """The placeholder for the value in help texts; "" for a flag."""
        if self.kind == "flag":
            return ""
        return self.metavar or "|".join(self.choices) or ("SECONDS" if self.kind == "seconds" else "TEXT")


def flag(name: str, flags: tuple[str, ...], help: str, env: tuple[str, ...] = (), **more: Any) -> Option:
    """Return an option without a value, which is off by default."""
    return Option(name, flags, help, env, default=False, kind="flag", **more)


def in_group(title: str, options: Iterable[Option]) -> list[Option]:
    """Return the options in the group of this title."""
    return [option._replace(group=title) for option in options]
