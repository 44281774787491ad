"""Serves a task of a stream pipeline: gets its data socket, and calls a stateless algorithm for each message.

Python 3.8 and newer.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Callable, Dict, Mapping, Optional, Tuple

from ..shared import entry as entries
from ..shared.message_format import Memfd, ProcessMessage
from ..shared.messages import Start
from ..shared.stream_messages import AskStream, StreamRefused, UseStream
from .event_loop import EventLoop
from .frame_socket import move_high

if TYPE_CHECKING:
    from .stream import Stream as Stream  # part of what this module offers


def request(args: Mapping[str, Any]) -> AskStream:
    """Return what the parent needs to know of the task's stream."""
    return AskStream(
        job=str(args.get("jobId")),
        node=str(args.get("nodeName")),
        parents=[str(one) for one in args.get("parents") or ()],
        children=[str(one) for one in args.get("childs") or ()],
        in_turn=args.get("stateType") == "stateless",
    )


def answer_of(wait_for: Callable[[Any], Any]) -> Tuple[ProcessMessage, bool]:
    """Return the parent's answer to the request, and whether Start came before it.

    `wait_for`: returns the next message, which is to be of one of these types.
    """
    answer = wait_for((UseStream, StreamRefused, Start))
    if isinstance(answer, Start):
        return wait_for((UseStream, StreamRefused)), True
    return answer, False


def open_stream(
    answer: ProcessMessage,
    args: Mapping[str, Any],
    report: Callable[[str, Optional[BaseException]], None],
    loop: EventLoop,
) -> Optional[Stream]:
    """Return the stream that the parent's answer opens; None where HKube's debug server carries the messages.

    `report`: see Stream. `loop`: the user's, which runs while the main thread waits for messages. Raises
    EntryError where there is no stream.
    """
    if isinstance(answer, StreamRefused):
        if answer.text:
            raise entries.EntryError("STREAM_UNAVAILABLE", answer.text)
        return None
    assert isinstance(answer, UseStream) and isinstance(answer.wire, Memfd), "the descriptor comes as a memfd"
    import _socket  # not `socket`, which gevent replaces: its sockets wait for greenlets of one thread

    from .stream import Stream

    data = _socket.socket(fileno=move_high(answer.wire.fd))
    data.settimeout(None)  # the user's code may have set a default
    return Stream(data, args, report=report, before_waiting=loop.run_until_readable)


def serve(stream: Stream, args: Dict[str, Any], call: Callable[[Dict[str, Any]], Any]) -> Any:
    """Return what start() returns, once all that it has sent is taken by the next nodes.

    The start() of a stateless algorithm is called for each message, and what it returns is sent on. As in
    HKube's wrapper for Python, any other algorithm is stateful. Raises StreamLost.
    """
    result = None
    if args.get("stateType") == "stateless":
        _serve_messages(stream, args, call)
    else:
        result = call(args)
    stream.finish()
    return result


def _serve_messages(stream: Stream, args: Dict[str, Any], call: Callable[[Dict[str, Any]], Any]) -> None:
    from .stream import MessageInvalid  # late, as above

    sends = bool(args.get("childs"))
    for message in stream.messages():
        began = time.perf_counter()
        stream.handle(message)
        try:
            value = stream.value_of(message)
        except MessageInvalid:
            stream.done(message, began)
            continue
        result = call({**args, "streamInput": {"message": value, "origin": message.origin}})
        if sends:
            stream.send(result)
        stream.done(message, began)
