"""The queue of a producer, and the frames of the data socket."""

from __future__ import annotations

import socket
from collections import deque

from hkrunner.runner.streaming.message_queue import MessageQueue, QueuedMessage
from hkrunner.runner.streaming.stream_settings import from_environment
from hkrunner.sandbox.shared import stream_frames
from hkrunner.sandbox.shared.stream_frames import StreamReader, frame
from hypothesis import given, settings
from hypothesis import strategies as st


def message(name: int, size: int = 1) -> QueuedMessage:
    return QueuedMessage(b"%d" % name, b"", b"x" * size, 0.0)


def test_a_message_leaves_when_each_of_its_nodes_has_taken_it() -> None:
    queue = MessageQueue(["B", "C"], 1000)
    queue.append(message(1, 10), ["B", "C", "unknown"])
    assert (queue.bytes, queue.size) == (10, 2)
    assert queue.take("B") and queue.bytes == 10
    assert queue.take("C") and queue.bytes == 0
    assert queue.take("B") is None
    queue.append(message(2), ["unknown"])
    assert (queue.bytes, queue.size) == (0, 0)


def test_the_oldest_messages_are_dropped_and_counted_for_each_node_that_has_not_taken_them() -> None:
    queue = MessageQueue(["B", "C"], 20)
    for number in range(3):
        assert queue.append(message(number, 10), ["B", "C"]) == 0  # one more than the limit, as HKube has it
    assert queue.take("B") is not None
    assert queue.append(message(3, 10), ["B", "C"]) == 1
    assert (queue.nodes["B"].dropped, queue.nodes["C"].dropped) == (0, 1)
    left = {node: [one.flow for one in iter(lambda node=node: queue.take(node), None)] for node in "BC"}  # type: ignore[misc]
    assert left == {"B": [b"1", b"2", b"3"], "C": [b"1", b"2", b"3"]}


@given(st.lists(st.sampled_from(["append", "take", "give back", "give all back"]), max_size=60))
def test_a_message_is_never_lost_or_doubled_or_out_of_order(steps: list[str]) -> None:
    queue, count = MessageQueue(["B"], 1 << 20), 0
    taken: deque[QueuedMessage] = deque()
    for step in steps:
        if step == "append":
            queue.append(message(count), ["B"])
            count += 1
        elif step == "take":
            found = queue.take("B")
            if found is not None:
                taken.append(found)
        else:
            for _ in range(len(taken) if step == "give all back" else min(1, len(taken))):
                queue.give_back("B", taken.pop())
        assert queue.bytes == queue.size == count - len(taken)
    rest = [*taken, *iter(lambda: queue.take("B"), None)]
    assert [int(one.flow) for one in rest if one is not None] == list(range(count))


@settings(max_examples=30)
@given(st.lists(st.integers(0, 200_000), max_size=4), st.integers(4_000, 100_000))
def test_frames_come_out_as_they_went_in_wherever_they_are_cut(sizes: list[int], cut: int) -> None:
    wire = b"".join(frame(stream_frames.SEND, i, bytes([i]) * size) for i, size in enumerate(sizes))
    ours, theirs = socket.socketpair()
    found = []
    with ours, theirs:
        reader = StreamReader(theirs)
        for at in range(0, len(wire), cut):
            ours.sendall(wire[at : at + cut])
            found += reader.read()
        ours.close()
        try:
            while True:
                found += reader.read()
        except EOFError:
            pass
    assert [(one.kind, one.number, bytes(one.body)) for one in found] == [
        (stream_frames.SEND, i, bytes([i]) * size) for i, size in enumerate(sizes)
    ]


def test_the_variables_are_those_of_hkubes_wrappers() -> None:
    assert from_environment({}).port == 9022
    assert from_environment({"STREAMING_MAX_BUFFER_MB": "2"}).buffer_bytes == 2 << 20
    assert from_environment({"STREAMING_STATISTICS_INTERVAL": "3"}).statistics_s == 3
    assert from_environment({"STREAMING_STATISTICS_INTERVAL": "2000"}).statistics_s == 2
    assert from_environment({"STREAMING_DISCOVERY_PORT": "x"}).port == 9022
