"""What can go wrong, whose fault it is, and hkrunner's exit status for it.

HkrunnerError
  SettingsError      a bad option, variable or file                       2
  EntryNotFound      there is no such code                                3
  EntryUnusable      the code cannot be loaded                            4
  LinkError          no worker                                            5
  BoardFailed        a board cannot do what was asked                     6
  ProtocolError      the worker said what the protocol does not know
"""

from __future__ import annotations


class HkrunnerError(Exception):
    """One clear sentence for the user; `exit_status` is what hkrunner ends with."""

    exit_status = 1


class SettingsError(HkrunnerError):
    """A bad option, variable or file."""

    exit_status = 2


class EntryNotFound(HkrunnerError):
    """There is no code where the user said."""

    exit_status = 3


class EntryUnusable(HkrunnerError):
    """The code is there and cannot be loaded."""

    exit_status = 4


class LinkError(HkrunnerError):
    """The worker cannot be reached, or not any more."""

    exit_status = 5


class BoardFailed(HkrunnerError):
    """A board cannot do what was asked."""

    exit_status = 6


class ProtocolError(HkrunnerError):
    """The worker said something that the protocol does not know: the text names it."""
