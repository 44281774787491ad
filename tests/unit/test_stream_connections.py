"""The connections of a node of a stream, without a child: what others send, and when they come and go."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import zmq
from hkrunner.runner.streaming import consumer, producer, signals
from hkrunner.runner.streaming.child_link import ChildLink
from hkrunner.runner.streaming.message_queue import MessageQueue, QueuedMessage
from hkrunner.runner.streaming.parent_connections import ParentConnections, read_change
from hkrunner.runner.streaming.producer import ConnectedConsumer, Producer
from hkrunner.runner.streaming.socket_process import SocketProcess
from hkrunner.sandbox.codec import codec
from hkrunner.sandbox.shared import stream_frames
from hkrunner.sandbox.shared.channel import FrameReader
from hkrunner.sandbox.shared.message_format import decode, encode
from hkrunner.sandbox.shared.stream_messages import (
    FROM_SOCKET_PROCESS,
    EndStream,
    OpenStream,
    StreamProblem,
)
from support.bad_peers import EndlessSender
from support.ports import free_port
from support.waiting import wait_until

HEADER = b"\1\10\2\3\0\0HK"


class Nodes:
    """Parent node A, with a producer, and node B with its connections."""

    def __init__(self, context: zmq.Context[Any], *, in_turn: bool = False) -> None:
        codec.prepare("msgpack", later=False)
        self.context = context
        self.poller = zmq.Poller()
        self.problems: list[str] = []
        self.left: list[int] = []
        self.queue = MessageQueue(["B"], 8 << 20)
        self.port = free_port()
        self.producer = self.producer_of(self.queue, self.port)
        self.poller.register(self.producer.socket, zmq.POLLIN)
        self.poller.register(self.producer.monitor, zmq.POLLIN)
        self.parents = self.connections(in_turn=in_turn)

    def producer_of(self, queue: MessageQueue, port: int) -> Producer:
        on_problem = self.problems.append
        return Producer(self.context, queue, "msgpack", host="127.0.0.1", port=port, on_problem=on_problem)

    def connections(self, *, in_turn: bool = False) -> ParentConnections:
        return ParentConnections(
            self.context,
            self.poller,
            node="B",
            encoding="msgpack",
            in_turn=in_turn,
            message_bytes=200_000,
            on_problem=self.problems.append,
            on_left=self.left.append,
        )

    @staticmethod
    def is_quick(connections: ParentConnections) -> None:
        """Have messages fetched ahead, as for a child that takes 1 ms for one."""
        for one in connections._consumers.values():
            one._average_s = 0.001

    def send(self, *numbers: int) -> None:
        for number in numbers:
            self.producer.send(QueuedMessage(b"\x90", HEADER, b"%d" % number, 0.0), ["B"])

    def turn(self, *connections: ParentConnections) -> list[int]:
        """Do what the socket process does in a turn; return the messages that came."""
        ready = dict(self.poller.poll(5))
        if self.producer.socket in ready:
            self.producer.receive()
        if self.producer.monitor in ready:
            self.producer.look_at_connections()
        self.producer.look()
        found = []
        for one in connections or (self.parents,):
            for message in one.serve(ready):
                one.passed(message)
                found.append(int(message.frames[2].bytes))
            one.ask(time.monotonic())
        return found

    def until(self, condition: Any, what: str, *connections: ParentConnections) -> list[int]:
        found: list[int] = []

        def holds() -> bool:
            found.extend(self.turn(*connections))
            return bool(condition(found))

        wait_until(holds, deadline_s=20.0, what=what)
        return found


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with contextlib.ExitStack() as stack:
        context: zmq.Context[Any] = zmq.Context()
        stack.callback(context.destroy, 0)
        found = Nodes(context)
        stack.callback(found.producer.close, 0)
        stack.callback(lambda: found.parents.close())
        yield found


def change(
    kind: str = "Add", *, host: Any = "127.0.0.1", port: Any = 9022, node: Any = "A"
) -> dict[str, Any]:
    return {"type": kind, "nodeName": node, "address": {"host": host, "port": port}}


IMPOSSIBLE: list[Any] = [
    *(change(port=port) for port in (0, 70000, -1, "abc", "", "²", None, True, 1.5, [9022], "9" * 5000)),
    *(change(host=host) for host in ("a b", "", None, 7, "a\n", "a/b", "*", "tcp://x", "x" * 2000, "hß")),
    *(change(node=node) for node in (None, "", 5, "\ud800", "x" * 70_000)),
    change("Remove"),
    *("text", None, 7, [], {}, {"address": 1}, {"address": {"host": "a"}, "nodeName": "A", "type": "Add"}),
]


def test_an_impossible_item_of_a_discovery_update_is_one_warning_and_the_rest_goes_on(nodes: Nodes) -> None:
    for item in IMPOSSIBLE:
        with pytest.raises(ValueError, match=r"\w"):
            read_change(item)
    nodes.parents.fetch()
    nodes.parents.update([*IMPOSSIBLE, change(port=str(nodes.port))])
    (problem,) = nodes.problems
    assert f"and {len(IMPOSSIBLE) - 1} more" in problem
    nodes.send(1)
    assert nodes.until(lambda found: found, "a message") == [1]
    assert read_change(change(host="fd00::1")).address == "tcp://[fd00::1]:9022"


def test_a_producer_that_is_announced_while_the_node_leaves_keeps_it_from_nothing(nodes: Nodes) -> None:
    nodes.parents.fetch()
    nodes.parents.leave()
    nodes.parents.update([change(port=nodes.port)])
    nodes.send(1)
    nodes.until(lambda found: nodes.parents.have_left, "that it has left")
    nodes.parents.fetch()
    assert nodes.until(lambda found: found, "a message after all") == [1]


def test_what_two_vanished_replicas_had_is_handed_out_in_order_and_the_queue_drains(nodes: Nodes) -> None:
    replicas = [nodes.connections() for _ in range(3)]
    for one in replicas[:2]:
        one.update([change(port=nodes.port)])
        nodes.is_quick(one)
        one.fetch()
    nodes.until(lambda found: len(nodes.producer._ready["B"]) == 2, "both replicas", *replicas[:2])
    nodes.send(*range(12))
    had = nodes.until(lambda found: len(found) >= 4, "some messages", *replicas[:2])
    for one in replicas[:2]:
        one.close()
    nodes.until(lambda found: not nodes.producer._consumers, "that they are gone", replicas[2])
    replicas[2].update([change(port=nodes.port)])
    replicas[2].fetch()
    got: list[int] = []

    def drained(found: list[int]) -> bool:
        for number in list(replicas[2].fetched):
            replicas[2].done(number, 1.0)
        got[:] = found
        return nodes.producer.is_drained

    nodes.until(drained, "the end of the drain", replicas[2])
    assert got == list(range(12)), had  # they had done none of them
    replicas[2].close()


def test_hundreds_of_consumers_that_are_gone_at_once_give_all_that_they_had_back(nodes: Nodes) -> None:
    producer = nodes.producer
    nodes.send(*range(500))
    for number in range(500):
        one = ConnectedConsumer(signals.OURS + b"%d" % number, "B")
        producer._consumers[one.identity] = one
        message = nodes.queue.take("B")
        assert message is not None
        one.taken.append((message, 0.0))
        one.ready = 1
        producer._ready["B"].append(one)
    nodes.send(500)
    assert not producer._consumers and not producer._ready["B"]
    found = [nodes.queue.take("B") for _ in range(501)]
    assert [int(bytes(one.payload)) for one in found if one is not None] == list(range(501))


def test_what_each_connection_is_lost_with_is_dropped_in_the_end_and_nothing_else(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer, "LARGE_BYTES", 1000)

    def lose(sizes: tuple[int, ...], *, turned: int) -> str:
        for size in sizes:
            nodes.producer.send(QueuedMessage(b"\x90", HEADER, b"x" * size, 0.0), ["B"])
        for number in range(producer.RETURNS_MAX):
            gone = ConnectedConsumer(signals.OURS + b"%d" % number, "B")
            nodes.producer._consumers[gone.identity] = gone
            gone.taken.extend((one, 0.0) for one in nodes.producer._next_messages("B", 3))
            assert len(gone.taken) == 3
            gone.taken.rotate(turned * number)
            nodes.producer._gone(gone)
        return nodes.problems.pop()

    # The first one is what it was handling; a large one may have had no memory there.
    assert lose((10, 20, 10), turned=0).startswith("a message of 10 bytes for B is dropped: 5 times")
    queue = nodes.queue.nodes["B"]
    assert (queue.size, queue.sent, queue.dropped) == (2, 0, 1)
    nodes.producer._next_messages("B", 2)
    assert lose((1000, 1200, 10), turned=1).startswith("a message of 1,200 bytes for B is dropped: 5 times")
    assert (queue.size, queue.sent, queue.dropped) == (2, 2, 2)
    assert not nodes.problems


def test_a_message_that_is_lost_with_the_connections_of_one_node_stays_for_another_one(nodes: Nodes) -> None:
    queue = MessageQueue(["B", "C"], 1 << 20)
    both = nodes.producer_of(queue, free_port())
    try:
        both.send(QueuedMessage(b"\x90", HEADER, b"7", 0.0), ["B", "C"])
        for node in ["B"] * (producer.RETURNS_MAX - 1) + ["C", "B"]:
            gone = both._consumers[signals.OURS] = ConnectedConsumer(signals.OURS, node)
            gone.taken.extend((one, 0.0) for one in both._next_messages(node, 1))
            assert not nodes.problems
            both._gone(gone)
        assert [(one.size, one.dropped) for one in queue.nodes.values()] == [(0, 1), (1, 0)]
        assert len(nodes.problems) == 1
    finally:
        both.close(0)


@pytest.mark.parametrize("how", ["abandon", "close", "close while it is handled"])
def test_a_message_is_not_to_blame_for_the_end_of_replicas_that_had_not_begun_it(
    nodes: Nodes, how: str
) -> None:
    nodes.send(7)
    for _ in range(producer.RETURNS_MAX):
        replica = nodes.connections()
        replica.update([change(port=nodes.port)])
        replica.fetch()
        nodes.until(lambda found: found == [7], "the message", replica)
        if how != "close while it is handled":
            replica._passed.clear()  # it waits for the child
        if how == "abandon":
            replica.abandon()
        replica.close()
        nodes.until(lambda found: not nodes.producer._consumers, "that it is gone")
    is_dropped = how == "close while it is handled"
    assert (nodes.queue.size, nodes.queue.nodes["B"].dropped) == (int(not is_dropped), int(is_dropped))
    assert len(nodes.problems) == int(is_dropped)


@pytest.mark.parametrize("in_turn", [False, True])
def test_what_a_child_had_not_begun_goes_to_the_next_one(nodes: Nodes, in_turn: bool) -> None:
    nodes.parents.close()
    parents = nodes.parents = nodes.connections(in_turn=in_turn)
    queue = MessageQueue(["B"], 1 << 20)
    other = nodes.producer_of(queue, free_port())
    port = int(other.socket.getsockopt(zmq.LAST_ENDPOINT).rsplit(b":", 1)[1])
    nodes.poller.register(other.socket, zmq.POLLIN)
    try:
        parents.update([change(port=nodes.port), change(port=port, node="A2")])
        nodes.is_quick(parents)
        parents.fetch()
        nodes.send(1, 2)
        other.send(QueuedMessage(b"\x90", HEADER, b"3", 0.0), ["B"])
        other.send(QueuedMessage(b"\x90", HEADER, b"4", 0.0), ["B"])

        def all_came(found: list[int]) -> bool:
            other.receive()
            return len(found) == 4

        came = nodes.until(all_came, "all messages")
        parents.child_ended()  # while it handles one of each parent, or one only
        begun = {came[0]} if in_turn else {1, 3}
        assert len(nodes.problems) == len(begun)
        parents.child_ended()  # the next one ends in init: it has begun none
        again = [int(one.frames[2].bytes) for one in parents.fetch()]
        assert again == [number for number in came if number not in begun]
        assert len(nodes.problems) == len(begun)
    finally:
        other.close(0)


def test_stop_by_force_returns_what_is_not_begun_and_times_only_what_is(nodes: Nodes) -> None:
    nodes.parents.update([change(port=nodes.port)])
    nodes.is_quick(nodes.parents)
    nodes.parents.fetch()
    nodes.send(*range(4))
    nodes.until(lambda found: len(found) == 4, "four messages")
    first = next(iter(nodes.parents.fetched))
    nodes.parents.abandon()
    assert nodes.parents.overdue_at(3.0) < time.monotonic() + 3.0  # the first one is still being handled
    nodes.parents.done(first, 1.0)
    assert nodes.parents.overdue_at(3.0) == float("inf")
    nodes.until(lambda found: nodes.queue.size == 3, "the others back in the queue")
    assert nodes.parents.have_left
    assert not nodes.problems
    # Whoever comes next gets them.
    assert nodes.parents.fetch() == []
    assert nodes.until(lambda found: len(found) == 3, "the rest") == [1, 2, 3]


def test_a_connection_ends_with_its_producer(nodes: Nodes) -> None:
    nodes.parents.fetch()
    for number in range(1, 4):  # replicas come and go
        nodes.parents.update([change(port=nodes.port)])
        nodes.until(lambda found: nodes.producer._consumers, "a connection")
        nodes.parents.update([change("Del", port=nodes.port)])
        nodes.until(lambda found, number=number: nodes.left == list(range(1, number + 1)), "its end")
        assert len(nodes.parents) == 0


GARBAGE: list[list[bytes]] = [
    [b""],
    [b"\xff" * 1000],
    [signals.MESSAGE],
    [signals.MESSAGE, b"\x90", HEADER],
    [signals.MESSAGE, b"\x90", b"short", b"1"],
    [signals.MESSAGE, b"\x90", HEADER, b"1", b"\x90"],
    [signals.DONES, b"x"],
    [signals.MESSAGE, b"not a flow", HEADER, b"7"],
]


def test_a_message_that_came_before_its_connection_was_lost_is_handled(nodes: Nodes) -> None:
    with nodes.context.socket(zmq.ROUTER) as other:  # not hkrunner's: it sends no message twice
        port = other.bind_to_random_port("tcp://127.0.0.1")
        nodes.parents.update([change(port=port)])
        nodes.parents.fetch()
        nodes.until(lambda found: other.poll(0), "the request")
        other.send_multipart([other.recv_multipart()[0], signals.MESSAGE, b"\x90", HEADER, b"7"])
        (one,) = nodes.parents._consumers.values()
        wait_until(lambda: one.socket.poll(0), deadline_s=10, what="the message")
    wait_until(lambda: one.monitor.poll(0), deadline_s=10, what="the loss of the connection")
    (message,) = nodes.parents.serve({one.monitor: zmq.POLLIN})
    assert message.frames[2].bytes == b"7"


def test_an_address_may_be_that_of_another_nodes_producer_later(nodes: Nodes) -> None:
    nodes.parents.update([change(port=nodes.port), change("Del", port=nodes.port)])
    nodes.parents.update([change(port=nodes.port, node="C")])
    nodes.parents.fetch()
    nodes.until(lambda found: len(nodes.parents) == 1, "that the first one has left")
    nodes.send(1)
    nodes.until(lambda found: found == [1], "a message")
    (message,) = nodes.parents.fetched.values()
    assert message.consumer.parent == "C"


def test_a_producer_that_sends_garbage_harms_nobody(nodes: Nodes) -> None:
    with nodes.context.socket(zmq.ROUTER) as hostile:
        hostile.linger = 0
        port = hostile.bind_to_random_port("tcp://127.0.0.1")
        nodes.parents.update([change(port=port, node="X"), change(port=nodes.port)])
        nodes.parents.fetch()
        nodes.until(lambda found: hostile.poll(0), "the request")
        identity = hostile.recv_multipart()[0]
        for frames in GARBAGE:
            hostile.send_multipart([identity, *frames])
        nodes.send(1)
        found = nodes.until(lambda found: len(found) == 2, "both messages")
        assert sorted(found) == [1, 7]
        (problem,) = nodes.problems
        assert "X sends what is no message" in problem


def test_a_producer_that_sends_unasked_is_left_in_the_network(nodes: Nodes) -> None:
    with nodes.context.socket(zmq.ROUTER) as hostile:
        hostile.linger = 0
        hostile.sndhwm = 100
        port = hostile.bind_to_random_port("tcp://127.0.0.1")
        nodes.parents.update([change(port=port, node="X")])
        nodes.parents.fetch()
        nodes.until(lambda found: hostile.poll(0), "the request")
        identity = hostile.recv_multipart()[0]
        hostile.setsockopt(zmq.ROUTER_MANDATORY, 1)
        message = [identity, signals.MESSAGE, b"\x90", HEADER, b"7" * 1000]
        blocked = 0
        for _ in range(20_000):
            try:
                hostile.send_multipart(message, zmq.NOBLOCK)
            except zmq.Again:
                blocked += 1
                if blocked > 50:
                    break
                nodes.turn()
        assert blocked > 50
        assert len(nodes.parents.fetched) <= 300


def test_a_peer_that_sends_without_end_loses_its_connection_and_nobody_else_anything(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "INTAKE_MORE", 0)
    nodes.parents.update([change(port=nodes.port)])
    nodes.parents.fetch()
    nodes.until(lambda found: nodes.producer._consumers, "a connection")
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(("127.0.0.1", nodes.port)) as client,
    ):
        nodes.parents.update([change(port=listener.getsockname()[1], node="X")])
        accepted, _ = listener.accept()
        with accepted:
            senders = [EndlessSender(client, b"DEALER"), EndlessSender(accepted, b"ROUTER")]

            def are_closed(found: list[int]) -> bool:
                nodes.producer.intake.check()
                assert set(nodes.parents.check_intakes(0)) <= {"X"}
                senders[:] = [one for one in senders if one.goes_on()]
                return not senders

            nodes.until(are_closed, "the end of both")
    nodes.send(1)
    assert nodes.until(lambda found: found, "a message") == [1]


def test_a_consumer_may_ask_for_anything_and_gets_what_it_may_have(nodes: Nodes) -> None:
    with nodes.context.socket(zmq.DEALER) as hostile:
        hostile.linger = 0
        hostile.setsockopt(zmq.IDENTITY, signals.OURS + b"hostile")
        hostile.connect(f"tcp://127.0.0.1:{nodes.port}")
        nodes.send(*range(3000))
        name = codec.encode_value("msgpack", "B")
        nan = signals.READYS.pack(2**32 - 1) + signals.DURATION.pack(float("nan"))
        for data in (b"", b"\0", nan, nan[:-1], nan + signals.DURATION.pack(-1e300), nan):
            hostile.send_multipart([signals.DONES, name, data])
        hostile.send_multipart([signals.DONE, name, codec.encode_value("msgpack", {"duration": "1e999"})])
        hostile.send_multipart([signals.DONE, name, codec.encode_value("msgpack", {"duration": 2**63})])
        hostile.send_multipart([signals.DONE, name, b"\xc1garbage"])
        hostile.send_multipart([b"", b"", b"", b"", b""])
        nodes.until(lambda found: nodes.queue.nodes["B"].sent >= 1024, "messages")
        for _ in range(20):
            nodes.turn()
        assert nodes.queue.nodes["B"].sent < 1100
        report = nodes.producer.samples["B"].take()
        assert all(0 <= one < 1e12 for key in ("netDurations", "durations") for one in report[key])
    nodes.until(lambda found: nodes.queue.size >= 2990, "what it had, back in the queue")


def test_messages_that_are_done_at_once_share_their_time_and_no_message_takes_none(nodes: Nodes) -> None:
    one = nodes.producer._consumers[b"one"] = ConnectedConsumer(signals.OURS + b"one", "B")
    for waited_s, least_ms in ((1.0, 100.0), (-1.0, 0.01)):  # HKube's auto-scaler wants no replica for 0 ms
        nodes.send(*range(10))
        sent_at = time.monotonic() - waited_s
        one.taken.extend((message, sent_at) for message in nodes.producer._next_messages("B", 10))
        done = signals.READYS.pack(0) + signals.DURATION.pack(0.0) * 10
        nodes.producer._on_frames(b"one", signals.DONES, b"", done)
        times = nodes.producer.samples["B"].take()["durations"]
        assert len(times) == 10 and min(times) == max(times) >= least_ms


class Served:
    """A socket process, run by the test, of node A before B; the test has the sockets of parent and child."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.stack = stack
        self.parent, control = (stack.enter_context(one) for one in socket.socketpair())
        self.process = SocketProcess(control)
        self.process._open_node(
            OpenStream(
                node="A",
                children=["B"],
                encoding="msgpack",
                host="127.0.0.1",
                port=free_port(),
                buffer_bytes=2 << 20,
                statistics_s=60.0,
                in_turn=False,
                message_s=0.0,
            )
        )
        stack.callback(self.end)

    def attach(self) -> socket.socket:
        """Attach a child; return its data socket."""
        child, theirs = socket.socketpair()
        for one in (self.stack.enter_context(child), theirs):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)  # many machines allow a tenth of it
        self.process._attach(ChildLink(theirs.detach()))
        return child

    def read_rest(self) -> None:
        """Read all that the child has sent."""
        self.process._read_child(rest=True)

    def end(self) -> list[str]:
        """Run it until it ends by force; return the problems that it says."""
        if self.process._is_over:
            return []
        self.parent.sendall(encode(0, EndStream(0.0)))
        self.process.run()
        self.process._detach()
        return self.said()

    def said(self) -> list[str]:
        """Return the problems that it has said since the last call."""
        said = [decode(one, FROM_SOCKET_PROCESS) for one in FrameReader().feed(self.parent.recv(1 << 20), [])]
        return [one.text for one in said if isinstance(one, StreamProblem)]


@pytest.fixture
def served() -> Iterator[Served]:
    with contextlib.ExitStack() as stack:
        yield Served(stack)


#: Messages that a socket takes at once, on any machine, and that are more than is read at once.
MANY = [b"x" * 1000] * 300


def send(child: socket.socket, *payloads: bytes) -> None:
    head = stream_frames.SEND_HEAD.pack(1, 1) + b"B\x90" + HEADER
    child.sendall(b"".join(stream_frames.frame(stream_frames.SEND, body=head + one) for one in payloads))


def test_what_a_child_has_sent_counts_though_its_next_task_is_attached_at_once(served: Served) -> None:
    child = served.attach()
    child.sendall(stream_frames.frame(stream_frames.LISTEN))
    send(child, b"1")
    child.sendall(stream_frames.HEAD.pack(1000, stream_frames.SEND, 0) + b"x")  # the task has ended amid it
    served.attach()
    assert served.process._queue.size == 1
    # What the old task asks for, the new one does not get.
    assert served.process._parents is not None and not served.process._parents.is_fetching


def test_what_was_sent_before_a_stop_by_force_is_handed_out_or_said_to_be_lost(served: Served) -> None:
    send(served.attach(), *MANY)
    assert served.end() == ["300 messages were not taken by the next nodes, and are lost"]


def test_each_dropped_message_is_said_by_the_end(served: Served) -> None:
    child = served.attach()
    for _ in range(7):
        send(child, *MANY)
        served.read_rest()
    served.process._do_what_is_due()
    send(child, *MANY[:100])
    lost = [int(one.split()[0]) for one in served.said() + served.end()]
    assert len(lost) == 3 and sum(lost) == 2200


def test_a_child_that_writes_without_end_does_not_hold_a_stop_up(served: Served) -> None:
    child = served.attach()

    def write() -> None:
        with contextlib.suppress(OSError):
            while True:
                send(child, b"x" * 1000)

    writer = threading.Thread(target=write)
    writer.start()
    served.end()  # returns
    writer.join()


def test_the_socket_process_ends_with_an_hkrunner_that_is_killed_while_something_of_it_is_unread() -> None:
    ours, control = socket.socketpair()
    with control:
        process = SocketProcess(control)
        control.sendall(encode(0, StreamProblem("nobody reads this")))
        ours.close()
        process.run()  # its next read raises ConnectionResetError
