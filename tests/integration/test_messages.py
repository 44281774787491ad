"""Messages of the worker in every shape that it is known to send, and in some that no worker should send."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hkrunner.runner.protocol.messages import exit_code_of
from support.scripted_client import Client
from support.served import serving_worker
from support.waiting import wait_until
from support.worker_wire import BINARY, TASK, TEXT, encode, frame


def to_answer(client: Client, message: dict[str, Any]) -> dict[str, Any]:
    """Take a task from its initialize, as it stands here, to its answer."""
    client.send_initialize(message)
    client.expect("initialized")
    client.start()
    return client.answer()


def still_serves(client: Client) -> None:
    """The next task succeeds, and there were no other messages."""
    assert client.run(["give", "next"])["data"] == "next"
    client.nothing_more()


# ---- initialize


#: Messages that begin a task, and what its start() gets.
BEGINNINGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"command": "initialize"}, {"input": []}),
    ({"command": "initialize", "data": None}, {"input": []}),
    ({"command": "initialize", "data": {}}, {"input": []}),
    ({"command": "initialize", "data": {"input": []}, "error": None}, {"input": []}),
    ({"data": {"input": [1]}, "more": {"command": "stop"}, "command": "initialize"}, {"input": [1]}),
    ({"command": "initialize", "data": {"input": None}}, {"input": None}),
    ({"command": "initialize", "data": [1, 2]}, {"input": [1, 2]}),
]


def test_an_initialize_of_any_shape_begins_a_task(tmp_path: Path) -> None:
    entry = tmp_path / "alg.py"
    entry.write_text("def start(args, api):\n    return args\n")
    with serving_worker(tmp_path, entry=entry) as (client, _):
        for message, args in BEGINNINGS:
            assert to_answer(client, message)["data"] == args, message
            client.nothing_more()


def test_every_key_of_the_worker_reaches_the_algorithm_as_it_is(tmp_path: Path) -> None:
    more: dict[str, Any] = {
        **{"batchIndex": 3, "metrics": {"tensorboard": True}, "ttl": 60, "stateType": "stateless"},
        **{"retry": {"policy": "Never", "limit": 1}, "execId": "7", "parentNodeName": "red"},
        **{"isScaled": True, "parsedFlow": {}, "spec": {"a": [None]}, "nobodyKnowsThis": {"command": "exit"}},
    }
    data = {**TASK, **more, "input": ["args"]}
    with serving_worker(tmp_path) as (client, _):
        assert to_answer(client, {"command": "initialize", "data": data})["data"] == data


VALUES = [
    "ünïcödé \U0001f600   \x00 end",
    {"deep": {"er": [[[{"command": "stop"}]]]}, "": None, "ключ": True},
    [9007199254740993, -9223372036854775808, 18446744073709551615, 0.1, 1e308, -0.0, 5e-324],
    '</script>\\"\b\f\n\r\t',
    [[]] * 100,
]


def test_a_value_comes_back_as_it_went(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, _):
        for value in VALUES:
            assert client.run(["give", value])["data"] == value


#: Ids of a task, as paths, empty, of other types, long and strange, and null.
IDS: list[dict[str, Any]] = [
    {"taskId": "../../outside", "jobId": "/etc", "nodeName": "..", "pipelineName": "a/b"},
    {"taskId": "", "jobId": "", "nodeName": "", "pipelineName": ""},
    {"taskId": 7, "jobId": 8.5, "nodeName": ["n"], "pipelineName": {"p": 1}},
    {"taskId": "x" * 5000, "jobId": "ä\n\x00", "nodeName": "n\\m", "pipelineName": "p q"},
    {"taskId": None, "jobId": None, "nodeName": None, "pipelineName": None},
]


def test_ids_of_any_kind_are_served_and_stay_inside_the_record(tmp_path: Path) -> None:
    work = tmp_path / "a" / "b" / "c"
    work.mkdir(parents=True)
    with serving_worker(work) as (client, _):
        for ids in IDS:
            for number in range(2):
                assert client.run(["give", number], **ids)["data"] == number, ids
            still_serves(client)
    assert {path.name for path in work.iterdir()} == {".hkrunner"}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_a_large_initialize_with_its_command_last(tmp_path: Path) -> None:
    text = "l" * 3_000_000
    with serving_worker(tmp_path) as (client, _):
        message = {"data": {**TASK, "input": ["measure", text]}, "command": "initialize"}
        assert to_answer(client, message)["data"] == len(text)


def test_white_space_and_escapes_in_the_envelope(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, _):
        data = json.dumps({**TASK, "input": ["give", 5]}, indent=8)
        client.worker.state = "init"
        client.send_payload(
            f'\n {{ "comm\\u0061nd"\t: "initiali\\u007ae" ,\r\n "data" : {data} }} \n'.encode()
        )
        client.expect("initialized")
        client.send_payload(b" " * 1000 + b'{"command":"start"}')
        assert client.answer()["data"] == 5


def test_json_in_a_binary_frame_is_read_all_the_same(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, _):
        client.worker.state = "init"
        client.speaks()
        client.send_bytes(frame(BINARY, encode("json", {"command": "initialize", "data": TASK})))
        client.expect("initialized")
        assert client.opcode == TEXT
        client.start()
        client.answer()


# ---- start, stop, exit


STARTS: list[dict[str, Any]] = [
    {"command": "start"},
    {"command": "start", "data": None},
    {"command": "start", "data": {}},
    {"command": "start", "data": {"spanId": None, "unknown": [1]}},
    {"command": "start", "data": {**TASK, "input": ["give", "another"]}},
    {"data": {"spanId": {}}, "command": "start"},
    {"command": "start", "data": "text"},
]


def test_a_start_of_any_shape_starts(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, _):
        for message in STARTS:
            client.initialize(["give", 1])
            client.expect("initialized")
            client.send(message)
            assert client.answer()["data"] == 1, message
            still_serves(client)


#: Messages that stop a task, and what its stop() gets for certain; None: that is not promised.
STOPS: list[tuple[dict[str, Any], str | None]] = [
    ({"command": "stop"}, None),
    ({"command": "stop", "data": None}, None),
    ({"command": "stop", "data": {"forceStop": True}}, "'forceStop': True"),
    ({"command": "stop", "data": {"forceStop": False, "new": 1}}, "'forceStop': False"),
    ({"data": [], "command": "stop"}, None),
]


def test_a_stop_of_any_shape_stops(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, program):
        for number, (message, options) in enumerate(STOPS):
            client.initialize(["wait for stop"])
            client.expect("initialized")
            client.start()
            starts = 2 * number + 1  # each task before it was followed by one that shows that all is well
            wait_until(
                lambda count=starts: program.stdout.count("start") == count, what="the task is at work"
            )
            client.stop(message)
            client.expect("stopped")
            stops = wait_until(
                lambda count=number: [line for line in program.stdout if line.startswith("stop {")][count:],
                what=f"stop() is called for {message}",
            )
            assert options is None or options in stops[0]
            still_serves(client)


#: Messages that end hkrunner, and its exit status.
EXITS: list[tuple[dict[str, Any], int]] = [
    ({"command": "exit"}, 0),
    ({"data": {"exitCode": 4, "more": None}, "command": "exit"}, 4),
    ({"command": "exit", "data": [5]}, 0),
    ({"command": "exit", "data": None}, 0),
    ({"command": "exit", "data": {}}, 0),
    ({"command": "exit", "data": {"exitCode": 255}}, 255),
    ({"command": "exit", "data": {"exitCode": None}}, 0),
    ({"command": "exit", "data": {"exitCode": "7"}}, 0),
    ({"command": "exit", "data": {"exitCode": True}}, 0),
]


def test_an_exit_has_the_status_that_it_asks_for_or_none() -> None:
    assert [exit_code_of(message) for message, _ in EXITS] == [status for _, status in EXITS]


@pytest.mark.parametrize(("message", "status"), EXITS[:3])
def test_an_exit_of_any_shape_ends(tmp_path: Path, message: dict[str, Any], status: int) -> None:
    with serving_worker(tmp_path) as (client, program):
        client.exit(message)
        assert program.wait() == status


# ---- what is not served, what makes no sense


def test_unexpected_commands_are_ignored_and_unknown_ones_are_reported_once(
    tmp_path: Path,
) -> None:
    commands = [
        *("cleanup", "subPipelineStarted", "subPipelineDone", "subPipelineError", "subPipelineStopped"),
        *("subPiplineStopped", "algorithmExecutionDone", "algorithmExecutionError", "dataSourceResponse"),
        *("serviceDiscoveryUpdate", "streamingInMessage", "alreadyConnectedError"),
        *("neverHeardOf", "", "x" * 5000, "ünïcödé", "\x1b[31mred", "toString", "__proto__"),
    ]
    with serving_worker(tmp_path) as (client, program):
        for _ in range(2):
            for command in commands:
                client.send({"command": command, "data": {"command": "exit"}})
        client.initialize(["wait for stop"])
        client.expect("initialized")
        client.start()
        for command in commands:
            client.send({"command": command})
        client.stop()
        client.expect("stopped")
        still_serves(client)
        program.wait_for_line("'__proto__'")  # the last one: what is printed is read by another thread
        said = "\n".join(program.stderr)
        assert said.count("'neverHeardOf'") == 1
        assert "\x1b" not in said
        assert max(len(line) for line in program.stderr) < 300


INVALID = [
    *(b"", b" ", b"{", b"null", b"7", b'"stop"', b"[]", b"{}", b'{"command":null}', b'{"command":7}'),
    *(b'{"command":"stop"', b"\xff\xfe\x00", b'{"command":["stop"]}', b'{"data":{"command":"exit"}}'),
    *(b'{"command":"st\xffop"}', b'{"a":' + b"[" * 200_000),
    b'{"data":' + b"[" * 200_000 + b"]" * 200_000 + b',"command":"x"}',
]


def test_an_invalid_message_is_reported_and_changes_nothing(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, program):
        for number, payload in enumerate(INVALID, 1):
            client.send_payload(payload)
            wait_until(
                lambda count=number: sum("cannot be read" in line for line in program.stderr) >= count,
                what=f"a report of {payload[:24]!r}",
            )
            still_serves(client)
        assert "Traceback" not in "\n".join(program.stderr)


@pytest.mark.parametrize(
    "payload",
    [b'{"command":"exit"}}', b'{"command":"exit","data":' + b"[" * 200_000 + b"]" * 200_000 + b"}"],
    ids=["a brace too many", "too deep"],
)
def test_an_exit_is_obeyed_however_odd_what_follows(tmp_path: Path, payload: bytes) -> None:
    with serving_worker(tmp_path) as (client, program):
        client.send_payload(payload)
        assert program.wait() == 0


UNREADABLE = [
    b'{"command":"initialize","data":{"input":[1',
    b'{"command":"initialize","data":{"input":["\xff"]}}',
    b'{"command":"initialize","data":{"input":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
]


def test_an_initialize_that_the_child_cannot_read_is_answered(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, _):
        for payload in UNREADABLE:
            client.worker.state = "init"
            client.send_payload(payload)
            assert client.expect("errorMessage")["error"]["message"]
            still_serves(client)


def test_messages_out_of_their_turn_change_nothing(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, program):
        client.start()
        client.start()
        client.initialize(["give", 1])
        client.expect("initialized")
        client.start()
        client.start()
        assert client.answer()["data"] == 1
        client.start()
        still_serves(client)
        # The answer comes by the network, what was printed by a pipe that the test's own thread reads.
        wait_until(lambda: len(program.stdout) >= 2, what="both tasks printed")
    assert program.stdout.count("start") == 2


def test_many_messages_in_one_packet_are_taken_in_order(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, _):
        client.worker.state = "init"
        known = encode("json", {"command": "initialize", "data": {**TASK, "input": ["give", 3]}})
        noise = encode("json", {"command": "subPipelineDone", "data": {}})
        client.speaks()
        client.send_bytes(
            b"".join([frame(TEXT, noise)] * 50 + [frame(TEXT, known)] + [frame(TEXT, noise)] * 50)
        )
        client.expect("initialized")
        client.start()
        assert client.answer()["data"] == 3
        still_serves(client)
