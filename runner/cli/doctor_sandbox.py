"""Which levels of --sandbox strict this machine can provide, each found by trying it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ...sandbox.isolation.remedies import not_prevented, remedy_of
from ...sandbox.isolation.trial import why_not
from ...sandbox.linux import landlock
from ...sandbox.parent.private_folders import PrivateFolders
from ...sandbox.shared.isolation_policy import LEVELS, Isolation
from .doctor_finding import Finding, Machine


def check_sandbox(machine: Machine) -> Iterator[Finding]:
    """Try each level in a process that is thrown away."""
    folders = PrivateFolders(machine.environ.get("TMPDIR") or "/tmp", None)
    with contextlib.ExitStack() as stack:
        stack.callback(folders.remove)
        for level in LEVELS:
            isolation = Isolation(
                levels=[level],
                readable=["/usr", "/lib", "/lib64"],
                writable=[],
                hidden=[],
                network=False,
                temporary=folders.temporary,
                shared_memory=folders.shared_memory,
                new_root=folders.new_root,
                targets=[],
            )
            refused = why_not(level, isolation)
            name = f"sandbox {level}"
            if refused:
                remedy = remedy_of(f"{level}: {refused}") or "hkrunner explain SANDBOX"
                yield Finding(name, False, f"refused: {refused}", remedy)
            else:
                open_to_it = not_prevented(level, landlock.abi(), network=False)
                text = f"not prevented: {'; '.join(open_to_it)}" if open_to_it else "all of --sandbox strict"
                yield Finding(name, True, text)
