"""What the child says of imports. Python 3.8 and newer."""

from __future__ import annotations

from .message_format import ProcessMessage


class DeepImport(ProcessMessage):
    """The user's line that has begun a deep import: `file:line in function`. Sent when it changes."""

    kind = 30
    place: str
