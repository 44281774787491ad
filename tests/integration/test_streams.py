"""Tasks of stream pipelines: every node is an hkrunner of its own, which its own worker serves."""

from __future__ import annotations

import signal
from pathlib import Path

from support.ports import free_port
from support.streams import node
from support.waiting import wait_until

SECOND_S = 20.0


def test_messages_pass_through_a_stateless_node(tmp_path: Path) -> None:
    values = [1, "ü", {"deep": [None, 1.5, {}]}, "raw", list(range(1000))]
    with node("A", tmp_path) as first, node("B", tmp_path) as middle, node("C", tmp_path) as last:
        first.begin("produces", values, children=["B"])
        middle.begin("gives_back", parents=["A"], children=["C"], state="stateless")
        last.begin("collects", len(values), parents=["B"])
        middle.connect_to("A", first.port)
        last.connect_to("B", middle.port)
        assert last.result() == [[value, "B"] for value in values]
        # The producer's task ends once every message was taken, not when start() has returned.
        assert first.result() == len(values)
        (told,) = first.statistics or [{"nodeName": "B", "queueSize": 0, "dropped": 0}]
        assert (told["nodeName"], told["queueSize"], told["dropped"]) == ("B", 0, 0)
        # Stopped gracefully, a stateless node ends without an answer of its own.
        middle.client.stop({"command": "stop", "data": {"forceStop": False}})
        assert middle.answer()["command"] == "stopped"
        (told,) = middle.statistics
        assert (told["sent"], told["responses"], told["queueSize"]) == (len(values), len(values), 0)
        assert len(told["netDurations"]) == len(values)


def test_a_killed_listener_is_reported_and_the_next_process_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "got"
    messages = ["one", "raise", "two", "die", "three", "hang", "four"]
    with node("A", tmp_path) as first, node("B", tmp_path, "--timeout", "2") as last:
        first.begin("produces", messages, children=["B"])
        last.begin("misbehaves", str(file), parents=["A"])
        last.connect_to("A", first.port)
        died = last.answer()
        assert died["error"]["code"] == "KILLED_BY_SIGNAL", died
        last.program.wait_for_line("ValueError: a bad message")
        last.program.wait_for_line("the message of A that was being handled is lost")
        # HKube begins the task again.
        last.begin("misbehaves", str(file), parents=["A"])
        hung = last.answer()
        assert hung["error"]["code"] == "TASK_TIMEOUT", hung
        assert "2 s for one message of the stream" in hung["error"]["message"]
        assert "streams.py" in hung["error"]["details"]  # where it hung
        last.begin("misbehaves", str(file), parents=["A"])
        wait_until(lambda: file.read_text().split() == messages, deadline_s=SECOND_S, what="all messages")
        assert first.result() == len(messages)
        last.client.stop()
        assert last.answer()["command"] == "stopped"
        assert file.read_text().split() == messages


def test_a_consumer_finds_a_producer_that_was_restarted(tmp_path: Path) -> None:
    port = free_port()
    with node("B", tmp_path) as last:
        last.begin("collects", 2, parents=["A"])
        last.connect_to("A", port)
        for number in (1, 2):
            with node("A", tmp_path, port=port) as first:
                first.begin("produces", [number], children=["B"])
                assert first.result() == 1
                first.program.kill()
        assert last.result() == [[1, "A"], [2, "A"]]


def test_a_graceful_stop_loses_nothing_that_was_accepted(tmp_path: Path) -> None:
    with node("A", tmp_path) as first, node("B", tmp_path) as last:
        first.begin("counts", 1_000_000, 0.0005, children=["B"])
        first.program.wait_for_line("sent 100", stream="stdout")
        first.client.stop({"command": "stop", "data": {"forceStop": False}})
        first.program.wait_for_line("ended after", stream="stdout")
        # The queue is still there: no next node was connected until now.
        (line,) = [one for one in first.program.stdout if "ended after" in one]
        count = int(line.split()[-1])
        last.begin("collects", count, parents=["A"])
        last.connect_to("A", first.port)
        got = last.result()
        assert [message["number"] for message, _ in got] == list(range(count))
        assert first.answer()["command"] == "stopped"


def test_a_full_queue_drops_the_oldest_messages_and_says_so(tmp_path: Path) -> None:
    with node("A", tmp_path, STREAMING_MAX_BUFFER_MB="1") as first, node("B", tmp_path) as last:
        first.begin("sends_large", 5, 600_000, children=["B"])
        first.program.wait_for_line("the oldest messages were dropped")
        last.begin("measures", 2, parents=["A"])
        last.connect_to("A", first.port)
        assert last.result() == [[3, 600_000], [4, 600_000]]
        first.result()
        (told,) = first.statistics
        assert (told["dropped"], told["queueSize"]) == (3, 0)


def test_a_port_in_use_fails_the_task_and_names_the_port(tmp_path: Path) -> None:
    with node("A", tmp_path, "--grace", "0.5") as first, node("B", tmp_path, port=first.port) as second:
        first.begin("counts", 1, children=["B"])
        first.client.expect("streamingStatistics")
        second.initialize("counts", 1, children=["C"])
        refused = second.answer()
        if refused["command"] == "initialized":
            second.client.start()  # with one core, the task waits for this
            refused = second.answer()
        assert refused["error"]["code"] == "STREAM_UNAVAILABLE"
        assert f"port {first.port} for the next nodes: Address already in use" in refused["error"]["message"]
        second.program.stop()


def test_a_socket_process_that_is_killed_fails_its_task(tmp_path: Path) -> None:
    with node("A", tmp_path, "--grace", "0.5") as first:
        first.begin("counts", 1_000_000, 0.01, children=["B"])
        first.program.wait_for_line("sent 100", stream="stdout")
        (sockets,) = [
            one for one in first.program.family() if "streaming/start.py" in " ".join(one.cmdline())
        ]
        sockets.send_signal(signal.SIGKILL)
        assert first.answer()["error"]["code"] == "STREAM_LOST"


def test_a_listener_may_misuse_the_api_and_stop_the_stream(
    tmp_path: Path,
) -> None:
    with (
        node("A", tmp_path) as first,
        node("B", tmp_path) as middle,
        node("C", tmp_path) as last,
    ):
        last.begin("collects", 20, parents=["B"])
        middle.begin("abuses", 2, parents=["A"], children=["C"])
        first.begin("produces", list(range(100)), children=["B"])
        last.connect_to("B", middle.port)
        middle.connect_to("A", first.port)
        refused = middle.result()
        once = ["ResultInvalid", "ApiError: No such flow no flow", "ApiError: No such flow ['chain']"]
        expected = [*once, *once, "ApiError: Trying to send"]
        assert all(one.startswith(text) for one, text in zip(refused, expected, strict=True)), refused
        # Ten threads have sent large messages at once, twice.
        got = sorted(message for message, _ in last.result())
        assert got == sorted(f"{one}" * 70_000 for one in range(10) for _ in range(2))
        first.client.stop()
        assert first.answer()["command"] == "stopped"
