"""The child's side of a stream: what becomes of the messages that it gets."""

from __future__ import annotations

import contextlib
import queue
import socket
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hkrunner.runner.streaming.child_link import ChildLink
from hkrunner.sandbox.child import listener_threads, stream_payload, stream_serving
from hkrunner.sandbox.child import stream as child_stream
from hkrunner.sandbox.child.api_call import ApiError
from hkrunner.sandbox.child.frame_socket import send_in_place
from hkrunner.sandbox.child.stream import Stream, StreamLost
from hkrunner.sandbox.child.stream_message import read_message
from hkrunner.sandbox.shared import stream_frames
from hkrunner.sandbox.shared.stream_frames import MESSAGE_HEAD, StreamFrame, StreamReader, frame
from support.waiting import wait_until

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


@pytest.mark.parametrize("state", ["stateless", "stateful"])
def test_a_message_that_finds_no_memory_is_reported_and_done_though_there_is_none_for_that_either(
    state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    without_memory = {"report", "done", "value of 0", "message 1"}

    def need_memory(step: str) -> None:
        if step in without_memory:
            without_memory.remove(step)
            raise MemoryError

    def report(text: str, error: object) -> None:
        need_memory("report")
        said.append(text)

    def decode(encoding: str, payload: Any) -> Any:
        need_memory(f"value of {payload[0]}")
        return payload[0]

    def read(one: StreamFrame, rings: Any) -> Any:
        need_memory(f"message {one.number}")
        return read_message(one, rings)

    def write_done(number: int, duration_ms: float) -> None:
        need_memory("done")
        done.append(number)

    with contextlib.ExitStack() as stack:
        ours, theirs = (stack.enter_context(one) for one in socket.socketpair())
        theirs.sendall(frame(stream_frames.OPENED, body=b"msgpack"))
        args = {"nodeName": "B", "stateType": state}
        one = Stream(ours, args, report=report, before_waiting=lambda fd: None)
        done: list[int] = []
        handled: list[object] = []
        monkeypatch.setattr(one, "_write_done", write_done)
        monkeypatch.setattr(stream_payload.codec, "decode", decode)
        monkeypatch.setattr(child_stream, "read_message", read)

        def send_all() -> None:
            for number in range(3):
                body = MESSAGE_HEAD.pack(1, 1, 1) + b"A\x90" + HEADER + bytes([number])
                theirs.sendall(frame(stream_frames.MESSAGE, number, body))
            theirs.sendall(frame(stream_frames.QUIESCED))

        def start(args: dict[str, Any]) -> None:
            if state == "stateless":
                handled.append(args["streamInput"]["message"])
            else:
                one.register(lambda value, origin: handled.append(value))
                one.listen()
                send_all()  # no process of sockets says QUIESCED to one that has not said LISTEN

        if state == "stateless":
            send_all()  # read after LISTEN, by the same thread

        stream_serving.serve(one, args, start)
        one.close()
        assert handled == [2] and done == [0, 1, 2] and not without_memory
        assert said == [
            "there is no memory for a message of A",
            "there is no memory for a message, which is lost",
        ]


@contextlib.contextmanager
def opened(most_bytes: int, said: list[str], **args: Any) -> Iterator[tuple[Stream, ChildLink]]:
    """Yield the stream of a node B, and the other end of its data socket."""
    ours, theirs = socket.socketpair()
    link = ChildLink(theirs.detach())
    link.open("msgpack", most_bytes)
    link.flush()
    given = {"nodeName": "B", "parents": ["A"], **args}

    def report(text: str, error: object) -> None:
        said.append(text)

    stream = Stream(ours, given, report=report, before_waiting=lambda fd: None)
    try:
        yield stream, link
    finally:
        stream.close()
        ours.close()
        link.close()


def test_a_message_that_is_too_large_is_refused_and_the_stream_goes_on() -> None:
    flow = {"childs": ["C"], "defaultFlow": "f", "parsedFlow": {"f": [{"source": "B", "next": ["C"]}]}}
    with opened(1000, [], **flow) as (stream, link):
        with pytest.raises(ApiError, match=r"has 1,000 bytes, and at most 9\d\d can be sent \(STREAMING_MAX"):
            stream.send(b"x" * 1000)
        stream.send(b"x" * 900)
        assert [one.kind for one in link.read()] == [stream_frames.SHARES, stream_frames.SEND]


@pytest.mark.parametrize("size", [200, 70_000, 5_000_000])
@pytest.mark.parametrize("as_view", [False, True])
def test_bytes_of_a_message_that_cannot_be_sent_may_be_changed_as_the_error_is_handled(
    size: int, as_view: bool
) -> None:
    flow = {"childs": ["C"], "defaultFlow": "f", "parsedFlow": {"f": [{"source": "B", "next": ["C"]}]}}
    for most_bytes, lost in ((100, False), (10_000_000, True)):
        with opened(most_bytes, [], **flow) as (stream, link):
            if lost:
                link.close()
            data = bytearray(size)
            for value in (memoryview(data) if as_view else data, [1, data]):
                try:
                    stream.send(value)
                except (ApiError, StreamLost):
                    if isinstance(value, memoryview):
                        assert value.nbytes == size, "the user's own view stays usable"
                        value.release()
                    data += b"x"
                else:
                    pytest.fail("sent")
    with socket.socket() as unconnected:
        try:
            send_in_place(unconnected, data)
        except OSError:
            data.clear()
    assert not data


def test_messages_that_find_no_listener_memory_or_thread_are_said_and_the_next_one_is_handled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    handled: queue.SimpleQueue[object] = queue.SimpleQueue()
    got: list[StreamFrame] = []

    def refuse(*_: object, **__: object) -> Any:
        raise RuntimeError("can't start new thread")

    def no_memory(size: int) -> Any:
        raise MemoryError

    with opened(1 << 30, said, parents=["A", "Z"]) as (stream, link):

        def send(number: int, payload: bytes) -> None:
            link.post(stream_frames.MESSAGE, number, (MESSAGE_HEAD.pack(1, 1, 1), b"A\x90", HEADER, payload))

            def is_done() -> bool:
                link.flush()
                got.extend(link.read())
                return (stream_frames.DONE, number) in [one[:2] for one in got]

            wait_until(is_done, what=f"the end of message {number}")

        monkeypatch.setattr(listener_threads, "new_thread", refuse)
        stream.listen()
        send(1, b"\x05")
        stream.register(lambda value, origin: handled.put(value))
        monkeypatch.setattr(stream_frames, "bytearray", no_memory, raising=False)
        # However much of it the first reading finds, more is missing than may come by further readings.
        send(2, bytes(stream_frames.READ_BYTES + 2 * stream_frames.LARGE_BYTES))
        stream.register(lambda value, origin: (one for one in ()))
        send(3, b"\x07")
        assert handled.get(timeout=10) == 7 and handled.empty()
    assert said == [
        "no further thread: messages of all nodes are handled in turn",
        "messages come, and are lost: no listener is registered (registerInputListener)",
        "there is no memory for a message, which is lost",
        "a listener is a coroutine or has a yield: nothing of it was run",
    ]


@pytest.mark.parametrize("parents", [["A"], ["A", "Z"]])
def test_large_messages_arrive_whole_by_the_shared_memory_which_is_used_again(
    parents: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handled: queue.SimpleQueue[object] = queue.SimpleQueue()
    kinds: list[int] = []

    def read(one: StreamFrame, rings: Any) -> Any:
        kinds.append(one.kind)
        return read_message(one, rings)

    monkeypatch.setattr(child_stream, "read_message", read)
    parts = [bytes([number]) * 1_000_000 for number in range(12)]  # more than the memory holds at a time
    values = [{"data": one, "more": [msgspec.msgpack.Ext(5, one[:9]), str(one[:9])]} for one in parts]
    with opened(1 << 30, [], parents=parents) as (stream, link):
        stream.register(lambda value, origin: handled.put(value))
        assert [one.kind for one in link.read()] == [stream_frames.SHARES]
        link.share()
        stream.listen()

        def are_done(most: int) -> bool:
            link.flush()
            return handled.qsize() >= most

        for number, value in enumerate(values, 1):
            head = (MESSAGE_HEAD.pack(1, 1, 1), b"A\x90", HEADER)
            link.post_payload(number, head, msgspec.msgpack.encode(value))
            wait_until(lambda: are_done(number - 4), what="the message four before it")  # noqa: B023
        wait_until(lambda: are_done(len(values)), what="all messages")
        assert [handled.get() for _ in values] == values
        assert set(kinds) == {stream_frames.MESSAGE_PLACE}
