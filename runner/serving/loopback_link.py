"""Connects a worker's session to a supervisor of this process, without a WebSocket."""

from __future__ import annotations

from collections.abc import Callable

from ...sandbox.shared.channel import INLINE_MAX
from ..io.loop import Loop
from ..link.answer_blob import AnswerBlob
from ..link.connection import MessageMemory, WorkerMessage
from .supervisor import Supervisor


class LoopbackLink:
    """Connects a session to a supervisor of this process: messages arrive in order, in a later turn."""

    encoding = "json"
    url = "this process"

    def __init__(self, loop: Loop, supervisor: Supervisor) -> None:
        self._loop = loop
        self._supervisor = supervisor
        self._closed = False
        self.on_relieved: Callable[[], None] | None = None
        self.on_post: Callable[[bytes], None] = lambda data: None

    def send(self, data: bytes) -> None:
        """Send a message from the worker's side."""
        self._loop.after(
            0, lambda: None if self._closed else self._supervisor.on_link_message(_message(data))
        )

    def post(
        self,
        data: bytes,
        source: AnswerBlob | None = None,
        *,
        final: bool = False,
        soon: bool = False,
        prelude: bytes = b"",
    ) -> bool:
        """Send a message from our side; return False: it is never congested."""
        if source is not None:
            data = source.read(0, source.size)
            source.close()
        assert not prelude, "only storage v3 has it, and this worker has v1"
        self._loop.after(0, lambda: None if self._closed else self.on_post(data))
        return False

    @property
    def is_open(self) -> bool:
        """Whether it is not closed."""
        return not self._closed

    @property
    def owes_answer(self) -> bool:
        """Whether an answer is on its way for long: never."""
        return False

    @property
    def congested(self) -> bool:
        """Whether messages wait: never."""
        return False

    def worker_spoke(self) -> None:
        """Send what waits: there is nothing."""

    def clear(self) -> None:
        """Do nothing: no messages wait."""

    def close(self, cut_short: str = "") -> None:
        """Drop the messages that have not arrived yet."""
        self._closed = True


def _message(data: bytes) -> WorkerMessage:
    if len(data) <= INLINE_MAX:
        return WorkerMessage(data)
    blob = MessageMemory(len(data))
    blob.map[:] = data
    blob.size = len(data)
    return WorkerMessage(b"", blob)
