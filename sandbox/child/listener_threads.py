"""The threads in which a stateful task's listeners are called: one for each connection to a parent node.

Python 3.8 and newer.
"""

from __future__ import annotations

import signal
from _queue import SimpleQueue  # gevent's is for greenlets of one thread
from typing import Callable, Dict, Optional

from ..shared.channel import LAST_STACK_SIGNAL, STACK_SIGNAL
from .own_threads import new_thread
from .stream_message import StreamMessage
from .stream_reports import with_memory


def leave_stacks_to_the_main_thread() -> None:
    """Block the signals that ask for stacks in this thread: the main thread runs the user's code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [STACK_SIGNAL, LAST_STACK_SIGNAL])


class ListenerThreads:
    """The threads of one stream; only the thread that reads the messages uses this."""

    def __init__(
        self,
        deliver: Callable[[StreamMessage], None],
        say_once: Callable[[str, Optional[BaseException]], None],
    ) -> None:
        """`deliver`: calls the listeners."""
        self._deliver = deliver
        self._say_once = say_once
        self._queues: Dict[int, SimpleQueue[Optional[StreamMessage]]] = {}

    @property
    def are_there(self) -> bool:
        """Whether there is any."""
        return bool(self._queues)

    def hand_over(self, message: StreamMessage) -> None:
        """Have the thread of the message's connection deliver it; without one, deliver it here."""
        waiting = self._queues.get(message.source)
        if waiting is None:
            try:
                waiting = self._queues[message.source] = SimpleQueue()
                name = f"hkrunner-stream-{message.origin}"
                new_thread(self._deliver_all, (waiting,), name).start()
            except (RuntimeError, MemoryError) as error:  # no process (--pids), or no memory for its stack
                self._queues.pop(message.source, None)
                self._say_once("no further thread: messages of all nodes are handled in turn", error)
                self._deliver(message)
                return
        with_memory(waiting.put, message)

    def _deliver_all(self, waiting: SimpleQueue[Optional[StreamMessage]]) -> None:
        leave_stacks_to_the_main_thread()
        while True:
            message = waiting.get()
            if message is None:
                return
            self._deliver(message)

    def end_of(self, source: int) -> None:
        """End the thread of this connection, if it has one, once it has delivered what it has."""
        waiting = self._queues.get(source)
        if waiting is not None:
            waiting.put(None)  # first: there may be no memory for it
            del self._queues[source]

    def end(self) -> None:
        """End all of them."""
        for source in list(self._queues):
            with_memory(self.end_of, source)
