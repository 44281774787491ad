"""Looks, again and again, whether a peer of a stream sends more than it may: see ConnectionIntake."""

from __future__ import annotations

from collections.abc import Callable

from ..io.connection_intake import CHECK_S, private_bytes
from .parent_connections import ParentConnections
from .producer import Producer


class IntakeCheck:
    """Closes the connections of such peers, and tells of each kind once: they may come back."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._told: set[str] = set()
        self._next_at = 0.0

    def check_if_due(
        self, now: float, producer: Producer | None, parents: ParentConnections | None, queued_bytes: int
    ) -> float | None:
        """Return when to call again, None: there is no connection."""
        if now >= self._next_at:
            self._next_at = now + CHECK_S
            if producer is not None and producer.intake.check():
                self._tell_once("a peer sent more than a consumer may: its connection was closed")
            if parents:
                for node in parents.check_intakes(private_bytes() - queued_bytes):
                    most = f"the {parents.message_bytes:,} bytes that a message may have"
                    self._tell_once(f"{node} sent more than {most} at once: its connection was closed")
        return self._next_at if parents or (producer is not None and producer.intake) else None

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._tell(text)
