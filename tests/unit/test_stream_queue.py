"""The queue of a producer, and the frames of the data socket."""

from __future__ import annotations

import socket
import weakref

import pytest
from hkrunner.runner.streaming.message_queue import OVERHEAD_BYTES, MessageQueue, QueuedMessage
from hkrunner.runner.streaming.stream_settings import from_environment, largest_message
from hkrunner.sandbox.shared import stream_frames
from hkrunner.sandbox.shared.stream_frames import StreamFrame, StreamReader, frame
from hypothesis import given, settings
from hypothesis import strategies as st


def message(name: int, size: int = 1) -> QueuedMessage:
    return QueuedMessage(b"%d" % name, b"", b"x" * size, 0.0)


class TrackedMessage(QueuedMessage):
    """A message that a weak set can hold."""

    __slots__ = ("__weakref__",)


def test_a_message_leaves_when_each_of_its_nodes_has_taken_it() -> None:
    queue = MessageQueue(["B", "C"], 1000)
    queue.append(message(1, 10), ["B", "C", "unknown", "B"])
    size = OVERHEAD_BYTES + 10 + 1
    assert (queue.bytes, queue.size) == (size, 2)
    assert queue.take("B") and queue.bytes == size
    assert queue.take("C") and queue.bytes == 0
    assert queue.take("B") is None
    queue.append(message(2), ["unknown"])
    assert (queue.bytes, queue.size) == (0, 0)


def test_the_oldest_messages_are_dropped_and_counted_for_each_node_that_has_not_taken_them() -> None:
    queue = MessageQueue(["B", "C"], 2 * (OVERHEAD_BYTES + 11))
    for number in range(3):
        assert queue.append(message(number, 10), ["B", "C"]) == 0  # one more than the limit, as HKube has it
    assert queue.take("B") is not None
    assert queue.append(message(3, 10), ["B", "C"]) == 1
    assert (queue.nodes["B"].dropped, queue.nodes["C"].dropped) == (0, 1)
    left = {node: [one.flow for one in iter(lambda node=node: queue.take(node), None)] for node in "BC"}  # type: ignore[misc]
    assert left == {"B": [b"1", b"2", b"3"], "C": [b"1", b"2", b"3"]}


def test_what_one_node_has_taken_is_not_kept_behind_what_another_one_leaves() -> None:
    queue = MessageQueue(["B", "C"], 1 << 20)
    queue.append(message(0), ["C"])
    taken = weakref.WeakSet[TrackedMessage]()
    for _ in range(1000):
        one = TrackedMessage(b"", b"", b"x" * 1000, 0.0)
        taken.add(one)
        queue.append(one, ["B"])
        del one
        assert queue.take("B") is not None
    assert (len(taken), queue.size) == (0, 1)


def test_a_dropped_message_is_dropped_for_those_only_who_have_not_taken_it() -> None:
    queue = MessageQueue(["B", "C"], 0)
    queue.append(message(0), ["B", "C"])
    taken = queue.take("B")
    assert taken is not None
    assert queue.append(message(1), ["B", "C"]) == 1
    queue.give_back("B", taken)  # its consumer is gone: the next one gets it
    assert [one.flow for one in iter(lambda: queue.take("B"), None)] == [b"0", b"1"]
    assert (queue.nodes["B"].dropped, queue.nodes["C"].dropped) == (0, 1)
    assert queue.take("C") is not None
    assert queue.bytes == 0


STEPS = st.tuples(
    st.sampled_from(["append", "take", "give back"]), st.sampled_from(["B", "C", "BC"]), st.integers(0, 9)
)


@given(st.lists(STEPS, max_size=80))
def test_a_message_is_never_lost_or_doubled_or_out_of_order_whoever_gives_it_back(
    steps: list[tuple[str, str, int]],
) -> None:
    queue, count = MessageQueue(["B", "C"], 1 << 20), 0
    sent: dict[str, list[int]] = {"B": [], "C": []}
    taken: dict[str, list[QueuedMessage]] = {"B": [], "C": []}
    for step, nodes, at in steps:
        for node in nodes:
            if step == "append":
                sent[node].append(count)
            elif step == "take":
                found = queue.take(node)
                if found is not None:
                    taken[node].append(found)
            elif taken[node]:  # several replicas have some each, and vanish in any order
                queue.give_back(node, taken[node].pop(at % len(taken[node])))
        if step == "append":
            queue.append(message(count), list(nodes))
            count += 1
        for node, queued in queue.nodes.items():
            assert queued.size == len(sent[node]) - queued.sent == len(sent[node]) - len(taken[node])
    for node in "BC":
        left = [int(one.flow) for one in iter(lambda node=node: queue.take(node), None)]  # type: ignore[misc]
        assert left == sorted(left)
        assert sorted(left + [int(one.flow) for one in taken[node]]) == sent[node]
    assert queue.bytes == queue.size == 0


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


@pytest.mark.parametrize("length", [1_000_001, 1 << 62, (1 << 64) - 1])
def test_no_memory_is_taken_for_a_frame_that_announces_too_much(length: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader = StreamReader(theirs)
        reader.most_bytes = 1_000_000
        ours.sendall(stream_frames.HEAD.pack(length, stream_frames.SEND, 0))
        with pytest.raises(ValueError, match="at most 1,000,000 are read"):
            reader.read()


def test_a_reader_without_memory_loses_only_the_frame_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refusals = [MemoryError()]

    def scarce(data: bytearray) -> bytes:
        if refusals:
            raise refusals.pop()
        return bytes(data)

    def refuse(size: int) -> bytearray:
        raise MemoryError

    wire = frame(stream_frames.SEND, 1, b"a" * 300_000) + frame(stream_frames.SEND, 2, b"b")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader = StreamReader(theirs)
        found: list[StreamFrame] = []
        monkeypatch.setattr(stream_frames, "bytes", scarce, raising=False)
        monkeypatch.setattr(stream_frames, "bytearray", refuse, raising=False)
        ours.sendall(wire[:50_000])
        with pytest.raises(MemoryError):
            reader.read()
        for at in range(50_000, len(wire), 50_000):
            assert reader.is_within_large == (at > 50_000)
            found += reader.read()
            ours.sendall(wire[at : at + 50_000])
        while len(found) < 2:
            found += reader.read()
    length = stream_frames.LENGTH.pack(300_000)
    assert found == [(stream_frames.LOST, 1, length), (stream_frames.SEND, 2, b"b")]


def test_the_variables_are_those_of_hkubes_wrappers() -> None:
    assert from_environment({}).port == 9022
    assert from_environment({"STREAMING_MAX_BUFFER_MB": "2"}).buffer_bytes == 2 << 20
    assert largest_message(2 << 20, 64 << 30) == 1500 << 20  # those of other nodes may be larger
    assert largest_message(3000 << 20, 4 << 30) == 2 << 30
    assert from_environment({"STREAMING_STATISTICS_INTERVAL": "3"}).statistics_s == 3
    assert from_environment({"STREAMING_STATISTICS_INTERVAL": "2000"}).statistics_s == 2
    assert from_environment({"STREAMING_DISCOVERY_PORT": "x"}).port == 9022
    hosts = [from_environment({"POD_IP": one}).host for one in ("10.0.0.1", "fd00::1", "")]
    assert hosts == ["*", "[::]", "*"]  # of a cluster with IPv6
    assert from_environment({"STREAMING_MAX_BUFFER_MB": "1e308"}).buffer_bytes == 1500 << 20
