"""The events that a link reports."""

from __future__ import annotations

from typing import Protocol

from .message_memory import WorkerMessage


class LinkListener(Protocol):
    """What the link calls, from the loop."""

    def on_link_open(self) -> None: ...
    def on_link_message(self, message: WorkerMessage) -> None:
        """A message has arrived. The listener releases it, and calls worker_spoke() if HKube sent it."""

    def on_link_resumed(self, *, all_written: bool) -> None:
        """The same worker is back after a drop and sends nothing: it continues where it was.

        `all_written`: nothing waited to be sent when the connection was lost; what was sent last may be lost.
        """

    def on_link_answer_lost(self, why: str) -> None:
        """An answer that waited is dropped."""

    def on_link_drop(self, reason: str) -> None: ...
    def on_link_unreachable(self, reason: str) -> None:
        """An attempt has failed; the next one follows."""

    def on_link_given_up(self, reason: str) -> None:
        """No worker within the connect timeout; no further attempt follows."""
