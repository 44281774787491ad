"""The interface of the loop that the handles on a child need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Cancellable(Protocol):
    """A call in the future."""

    def cancel(self) -> None: ...


class LoopProtocol(Protocol):
    """Calls back from one thread, one after the other."""

    def on_readable(
        self, fd: int, callback: Callable[[], None] | None, *, can_wait: bool = False
    ) -> None: ...
    def on_writable(self, fd: int, callback: Callable[[], None] | None) -> None: ...
    def after(self, seconds: float, callback: Callable[[], None]) -> Cancellable: ...
