"""The messages of the user's own process to its supervisor, with --in-process."""

from __future__ import annotations

from .message_format import ProcessMessage


class EndAsked(ProcessMessage):
    """The user, or the system, wants an end with this exit status (128 + signal)."""

    kind = 48
    status: int


class LastWord(ProcessMessage):
    """The process ends with this exit status; its supervisor is not its parent, and cannot know."""

    kind = 49
    status: int


#: What the supervisor takes: any other kind is a protocol error.
FROM_USER_PROCESS = {one.kind: one for one in (EndAsked, LastWord)}
