"""The errors of hkrunner, with the exit status of each.

HkrunnerError
  SettingsError      a bad option, variable or file          2
  EntryNotFound      the code was not found                  3
  EntryUnusable      the code could not be loaded            4
  LinkError          no worker                               5
  BoardFailed        a board cannot do what was asked        6
  InstallFailed      no environment could be made            7
  ClusterError       a cluster refused, or cannot be reached 8
"""

from __future__ import annotations


class HkrunnerError(Exception):
    """An error that hkrunner reports in one sentence, and ends with `exit_status`."""

    exit_status = 1


class SettingsError(HkrunnerError):
    """A bad option, variable or file."""

    exit_status = 2


class EntryNotFound(HkrunnerError):
    """There is no code at the place that the user named."""

    exit_status = 3


class EntryUnusable(HkrunnerError):
    """The code was found, but it cannot be loaded."""

    exit_status = 4


class LinkError(HkrunnerError):
    """The worker cannot be reached, or the connection to it was lost."""

    exit_status = 5


class BoardFailed(HkrunnerError):
    """A board cannot do what was asked."""

    exit_status = 6


class InstallFailed(HkrunnerError):
    """The environment of --install could not be made."""

    exit_status = 7


class ClusterError(HkrunnerError):
    """A cluster cannot be reached, refused what was asked, or lost it."""

    exit_status = 8


BY_EXIT_STATUS: dict[int, type[HkrunnerError]] = {
    kind.exit_status: kind
    for kind in (
        SettingsError,
        EntryNotFound,
        EntryUnusable,
        LinkError,
        BoardFailed,
        InstallFailed,
        ClusterError,
    )
}


def has_lost_error(error: BaseException) -> bool:
    """Whether CPython says that it has lost an exception in C code: without memory, a MemoryError."""
    text = str(error)
    return "without exception set" in text or "without setting an exception" in text
