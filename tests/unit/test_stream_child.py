"""The child's side of a stream: what becomes of the messages that it gets."""

from __future__ import annotations

import contextlib
import socket

from hkrunner.sandbox.child import stream_serving
from hkrunner.sandbox.child.stream import Stream
from hkrunner.sandbox.shared import stream_frames
from hkrunner.sandbox.shared.stream_frames import MESSAGE_HEAD, StreamReader, frame

HEADER = b"\1\10\2\3\0\0HK"


def test_a_message_that_has_no_value_is_reported_once_and_the_next_one_is_handled() -> None:
    with contextlib.ExitStack() as stack:
        ours, theirs = (stack.enter_context(one) for one in socket.socketpair())
        theirs.sendall(frame(stream_frames.OPENED, body=b"msgpack"))
        said: list[str] = []
        args = {"nodeName": "B", "stateType": "stateless"}
        stream = Stream(
            ours, args, report=lambda text, error: said.append(text), before_waiting=lambda fd: None
        )
        for number, payload in enumerate((b"\xc1", b"\x92\x01", b"\x07")):
            body = MESSAGE_HEAD.pack(1, 1, 1) + b"A\x90" + HEADER + payload
            theirs.sendall(frame(stream_frames.MESSAGE, number, body))
        theirs.sendall(frame(stream_frames.QUIESCED))
        handled: list[object] = []
        stream_serving.serve(stream, args, lambda args: handled.append(args["streamInput"]["message"]))
        assert handled == [7]
        assert said == ["a message of A cannot be read"]
        kinds = [one.kind for one in StreamReader(theirs).read()]
        assert kinds == [stream_frames.LISTEN, *[stream_frames.DONE] * 3]
