"""Whether --sandbox strict lets the algorithm use a path or an address, and by which rule."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from ...sandbox.shared.isolation_policy import Isolation, is_below
from ...sandbox.shared.net_target import NetTarget
from ..settings.settings import Settings
from .prepare import prepare
from .sandbox_policy import PathRule, environment_of, isolation_of, readable_paths

#: Folders of which the algorithm has its own.
_OWN = {"/tmp": "temporary folder", "/var/tmp": "temporary folder", "/dev/shm": "shared memory"}
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
#: What no option opens.
_NEVER = ("/proc", "/sys", "/dev")


class Verdict(NamedTuple):
    """Whether the algorithm may do this, and why."""

    action: str  #: read, write or connect
    is_allowed: bool
    rule: str
    option: str = ""  #: what would allow it; "": it is allowed, or nothing would

    def facts(self) -> dict[str, Any]:
        """Return what --json shows."""
        allowed, option = self.is_allowed, self.option or None
        return {"action": self.action, "allowed": allowed, "rule": self.rule, "option": option}


class SandboxReasons:
    """Explains what the sandbox of one run allows, by its settings, its code and this machine's files."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        """Find the code. Raises the HkrunnerError that the run would raise before its start."""
        assert settings.sandbox is not None, "the caller has looked"
        self._sandbox = settings.sandbox
        with contextlib.ExitStack() as stack:
            looked = settings._replace(records=settings.records._replace(state_dir=None))
            ready, where = prepare(looked, environ, stack, runs=False)
            ready = ready._replace(records=settings.records)
            env = {**environment_of(environ), **ready.code.variables}
            self._isolation: Isolation = isolation_of(ready, where, env)
            self._rules: list[PathRule] = readable_paths(ready, where, env)

    def of_path(self, path: str) -> list[Verdict]:
        """Return whether the file or folder may be read and written."""
        named, real = os.path.abspath(path), os.path.realpath(path)
        if rule := self._rule_for_both(named, real):
            return [_by_mode(Verdict(action, True, rule), real) for action in ("read", "write")]
        if is_below(real, self._isolation.hidden):
            rule = "the records of tasks are hidden from the code"
            return [Verdict("read", False, rule), Verdict("write", False, rule)]
        if named != "/proc" and is_below(named, ["/proc"]):
            weak = " at the level full" if self._sandbox.least != "full" else ""
            read = Verdict("read", True, f"/proc, which shows its own processes{weak}")
        elif rule := self._rule_for_reading(named, real):
            read = _by_mode(Verdict("read", True, rule), real)
        else:
            read = Verdict("read", False, "no rule opens it", f"--read {named}")
        write = Verdict("write", False, "no rule opens it for writing", f"--write {named}")
        if is_below(named, _NEVER):
            write = write._replace(option="")
        return [read, write]

    def of_target(self, target: NetTarget) -> Verdict:
        """Return whether a TCP connection to the target is possible."""
        if self._sandbox.network:
            return Verdict("connect", True, "--net all")
        if str(target) in self._sandbox.targets:
            return Verdict("connect", True, f"--net {target}{self._not_at_landlock}")
        rule = "no rule opens it"
        if target.host == "localhost" or (target.address is not None and target.address.is_loopback):
            rule = "the algorithm's own servers are there, not those of the machine"
            rule += self._not_at_landlock
        return Verdict("connect", False, rule, f"--net {target}")

    @property
    def _not_at_landlock(self) -> str:
        return " at the levels full and ns" if self._sandbox.least == "landlock" else ""

    def _rule_for_both(self, named: str, real: str) -> str:
        """Return the rule by which the path may be read and written; "": there is none."""
        if is_below(real, self._isolation.writable):
            return "--write"
        if named in _OWN:
            return f"{_OWN[named]} of its own, not that of the machine{self._not_at_landlock}"
        if os.path.dirname(named) == "/dev" and os.path.basename(named) in _DEVICES:
            return "a device that keeps nothing"
        return ""

    def _rule_for_reading(self, named: str, real: str) -> str:
        """Return the first rule for this path, or for a folder that it is in; "": there is none."""
        # A link is there by its own rule; where it leads to needs one as well.
        rules = [[rule for rule in self._rules if is_below(path, [rule.path])] for path in (named, real)]
        if not all(rules):
            return ""
        return f"{rules[0][0].reason}: {rules[0][0].path}"


def _by_mode(answer: Verdict, path: str) -> Verdict:
    """Return the verdict, or a refusal if the file's mode forbids it: root has no capabilities in there."""
    try:
        facts = os.stat(path)
    except OSError:
        return answer
    shift = 6 if facts.st_uid == os.geteuid() else 3 if facts.st_gid in (os.getegid(), *os.getgroups()) else 0
    wanted = 4 if answer.action == "read" else 2
    if facts.st_mode >> shift & wanted:
        return answer
    return Verdict(
        answer.action, False, f"{answer.rule}; but its mode refuses it, with the sandbox to root, too"
    )
