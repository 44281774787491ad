"""The part of the api object that sends and receives messages of a stream pipeline, with HKube's names.

A task of a stream has a Stream. Without one, HKube's debug server carries the messages over the worker's
WebSocket. Runs in the child, on Python 3.8 and newer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Optional

from .api_answers import Calls
from .api_call import ApiError

if TYPE_CHECKING:
    from .stream import Stream


class StreamCalls(Calls):
    """What an algorithm can ask of a stream."""

    #: The stream of the task; None in a batch pipeline, and with HKube's debug server.
    _stream: Optional[Stream] = None

    def registerInputListener(self, onMessage: Callable[..., Any]) -> None:
        """Call onMessage(message, origin) for each message of the stream; `origin` names its node."""
        if not callable(onMessage):
            raise ApiError(f"registerInputListener needs a function, not {type(onMessage).__name__}")
        if _is_coroutine_function(onMessage):
            raise ApiError("registerInputListener needs a plain function: nobody awaits an async one")
        if self._stream is not None:
            self._stream.register(onMessage)
        self._listener = onMessage

    def startMessageListening(self) -> None:
        """Begin to deliver messages."""
        if self._stream is not None:
            self._stream.listen()
            return
        with self._lock:
            self._listening = True
            waiting, self._waiting_messages = self._waiting_messages, []
        for one in waiting:
            self._deliver(one)

    def isListeningToMessages(self) -> bool:
        """Whether messages are delivered."""
        return self._listening if self._stream is None else self._stream.is_listening

    def stopStreaming(self, force: bool = True) -> None:
        """Deliver no more messages, and send none; with force=False, first those that are on their way."""
        self._listening = False
        if self._stream is not None:
            self._stream.stop(force=force)

    def sendMessage(self, msg: Any, flowName: Optional[str] = None) -> None:
        """Send a message to the next nodes of a flow: the named one, else that of the message which is being
        handled, else the pipeline's default flow."""
        if self._stream is not None:
            self._stream.send(msg, flowName)
            return
        self._send(
            {
                "command": "streamingOutMessage",
                "data": {"message": msg, "flowName": flowName, "sendMessageId": str(next(self._ids))},
            }
        )


def _is_coroutine_function(function: Callable[..., Any]) -> bool:
    code = getattr(function, "__code__", None)
    return code is not None and bool(code.co_flags & 0x80)  # inspect.CO_COROUTINE
