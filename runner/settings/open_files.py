"""How many files this process may open."""

from __future__ import annotations

import resource

from ..errors import SettingsError

#: Files that hkrunner has open besides those for each process.
OPEN_FILES = 64


def check_open_files(who_needs: str, processes: int, of_each: int) -> None:
    """Raise SettingsError if too few open files are allowed. `who_needs` begins the sentence."""
    needed = OPEN_FILES + processes * of_each
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed != resource.RLIM_INFINITY and needed > allowed:
        raise SettingsError(f"{who_needs} {needed} open files, and {allowed} are allowed: ulimit -n {needed}")


def allow_most_open_files() -> None:
    """Raise the soft limit to the hard one. Not where select(2) is used: it takes 1,024 files at most."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
