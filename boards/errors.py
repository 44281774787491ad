"""The errors of boards and records: one sentence that names the thing, and what to do about it."""

from __future__ import annotations


class BoardError(Exception):
    """A board or a record cannot do what was asked. `hint`: what to do, or empty."""

    def __init__(self, sentence: str, *, hint: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.sentence}; {self.hint}" if self.hint else self.sentence


class NotFound(BoardError):
    """There is no such task, job, node or board."""


class StillStarting(BoardError):
    """The board's process has not written its pid to the record yet; in a moment it will have."""


class StoreError(BoardError):
    """A task's record cannot be read, changed or removed."""
