"""Serving HKube's worker: the rules that decide whether a runner survives a real one.

Most rules are held by the scripted worker itself: a test fails when it would have died.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.local import ALGORITHMS
from support.processes import runs
from support.programs import run_hkrunner, serving
from support.scripted_worker import ScriptedWorker, encode, frame
from support.served import OBEYS, serving_worker
from support.waiting import wait_until

#: The grace given where the algorithm is to be killed.
SHORT = ("--grace", "0.3")


# ---- the twelve rules


def test_nothing_is_sent_before_the_worker_has_spoken(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, program):
        program.wait_for_line("loaded")
        client.nothing_more()
        assert client.run(["give", 1])["data"] == 1


def test_one_initialized_and_one_answer_for_each_of_many_tasks(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, _):
        for number in range(30):
            answer = client.run(["give", number], taskId=f"task{number}")
            assert answer == {"command": "done", "data": number}
        client.nothing_more()


def test_an_algorithm_that_raises_is_one_errorMessage_that_says_why(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, _):
        answer = client.run(["raise", "no such column: age"])
        assert answer["command"] == "errorMessage"
        assert answer["error"]["message"].startswith("ALGORITHM_ERROR: ValueError: no such column: age")
        assert "obeys.py" in answer["error"]["message"]
        assert client.run(["give", 2])["data"] == 2
        client.nothing_more()


def test_init_that_raises_answers_instead_of_initialized(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, _):
        client.initialize(["give", 1], init="raise")
        assert "ValueError" in client.expect("errorMessage")["error"]["message"]
        assert client.run(["give", 2])["data"] == 2


def test_an_algorithm_that_is_killed_is_answered_and_the_next_task_served(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, _):
        answer = client.run(["die"])
        assert answer["command"] == "errorMessage"
        assert "SIGKILL" in answer["error"]["message"]
        assert client.run(["give", 2])["data"] == 2


def test_nan_is_never_let_out_in_json(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, _):
        assert client.run(["nan"])["data"] == [None, None, 1.5]


def test_two_tasks_are_served_by_one_child(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, _):
        first = client.run(["who"], taskId="one")["data"]
        second = client.run(["who"], taskId="two")["data"]
        assert first["pid"] == second["pid"]
        assert second["served"] == ["who", "who"]


def test_a_result_above_the_workers_limit_is_an_answer_that_names_both_numbers(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, _):
        answer = client.run(["text", 100_000_000])
        assert answer["error"]["code"] == "RESULT_TOO_LARGE"
        assert "100,000,000" in answer["error"]["message"]
        assert "100,000,028" in answer["error"]["message"]
        # The largest that passes: exactly the limit, with its envelope.
        assert len(client.run(["text", 100_000_000 - 28])["data"]) == 100_000_000 - 28


@pytest.mark.parametrize("encoding", ["bson", "msgpack"])
def test_every_encoding_of_hkube_is_served(tmp_path: Path, encoding: str) -> None:
    value = {"bytes": b"\x00\xff" * 200_000, "text": "ünïcödé", "numbers": [2**53 + 1, -1.5, None, True]}
    with serving_worker(tmp_path, "--encoding", encoding) as (client, _):
        assert client.query == {"storage": "v1", "encoding": encoding}
        assert client.run(["give", value])["data"] == value
        assert "boom" in client.run(["raise", "boom"])["error"]["message"]
        client.initialize(["wait for stop"])
        client.expect("initialized")
        client.start(None)
        client.stop()
        client.expect("stopped")
        client.vanish()
        client = client.worker.accept()
        assert client.query == {"storage": "v1", "encoding": encoding}
        assert client.run(["give", [value]])["data"] == [value]
        client.nothing_more()


def test_the_encoding_of_the_environment_is_served(tmp_path: Path) -> None:
    with serving_worker(tmp_path, env={"WORKER_ALGORITHM_ENCODING": "msgpack"}) as (client, _):
        assert client.encoding == "msgpack"
        assert client.run(["give", b"\x00"])["data"] == b"\x00"


# ---- stop, in every state


def test_stop_is_answered_with_one_stopped_by_a_cooperative_algorithm(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, program):
        client.initialize(["wait for stop"])
        client.expect("initialized")
        client.start()
        program.wait_for_line("start", stream="stdout")
        client.stop()
        client.expect("stopped", deadline_s=2)
        program.wait_for_line("stop {'forceStop': True}", stream="stdout")
        client.nothing_more()
        assert client.run(["who"])["data"]["served"] == ["wait for stop", "who"]


@pytest.mark.parametrize("what", ["sleep", "hold the GIL"])
def test_stop_kills_an_algorithm_that_hears_nothing(tmp_path: Path, what: str) -> None:
    with serving_worker(tmp_path, *SHORT) as (client, program):
        old = client.run(["who"])["data"]["pid"]
        client.initialize([what])
        client.expect("initialized")
        client.start()
        wait_until(lambda: program.stdout.count("start") == 2, what="the start of the task")
        began = time.monotonic()
        client.stop()
        client.expect("stopped", deadline_s=5)
        assert time.monotonic() - began >= 0.3
        answer = client.run(["who"])["data"]
        assert answer["pid"] != old
        assert answer["served"] == ["who"]
        client.nothing_more()


def test_stop_during_init_that_hangs(tmp_path: Path) -> None:
    with serving_worker(tmp_path, *SHORT) as (client, program):
        client.initialize(["give", 1], init="sleep")
        program.wait_for_line("init sleep", stream="stdout")
        client.stop()
        client.expect("stopped", deadline_s=5)
        assert client.run(["give", 2])["data"] == 2
        client.nothing_more()


def test_stop_during_an_import_that_hangs(tmp_path: Path) -> None:
    entry = tmp_path / "alg.py"
    entry.write_text((ALGORITHMS / "hangs_at_import.py").read_text())
    with serving_worker(tmp_path, *SHORT, entry=entry) as (client, program):
        program.wait_for_line("importing", stream="stdout")
        client.initialize(["x"])
        client.stop()
        client.expect("stopped", deadline_s=5)
        entry.write_text("def start(args, api):\n    return 'repaired'\n")
        assert client.run(["x"])["data"] == "repaired"
        client.nothing_more()


def test_stop_between_initialized_and_start(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, program):
        client.initialize(["give", 1])
        client.expect("initialized")
        client.stop()
        client.expect("stopped")
        assert client.run(["give", 2])["data"] == 2
        # What it prints takes another way than its answer, and may come after it.
        wait_until(lambda: "start" in program.stdout, deadline_s=5, what="the second task's own word")
        assert program.stdout.count("start") == 1
        client.nothing_more()


def test_stop_and_start_that_crossed_run_nothing(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, _):
        client.initialize(["sleep"])
        client.expect("initialized")
        client.stop()
        client.start()
        client.expect("stopped")
        assert client.run(["give", 2])["data"] == 2


def test_stop_that_crosses_the_answer_still_gets_its_stopped(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, program):
        client.initialize(["give", 1])
        client.expect("initialized")
        client.stop_reading()  # the answer is under way, the worker has not seen it
        client.start()
        program.wait_for_line("start", stream="stdout")
        client.stop()
        client.go_on_reading()
        message = client.receive()
        if message["command"] == "done":
            message = client.receive()
        assert message["command"] == "stopped"
        client.nothing_more()


def test_a_stop_of_the_next_task_does_not_meet_the_last_one(tmp_path: Path) -> None:
    with serving_worker(tmp_path, *SHORT) as (client, _):
        for _ in range(5):
            client.initialize(["sleep"])
            client.expect("initialized")
            client.start()
            client.stop()
            client.expect("stopped", deadline_s=5)
            assert client.run(["give", "new"])["data"] == "new"
        client.nothing_more()


def test_an_initialize_in_the_middle_of_a_task_begins_a_new_one_and_keeps_the_old_one_quiet(
    tmp_path: Path,
) -> None:
    flag = tmp_path / "flag"
    with serving_worker(tmp_path) as (client, program):
        client.initialize(["wait for file", str(flag)], taskId="old")
        client.expect("initialized")
        client.start()
        program.wait_for_line("start", stream="stdout")
        client.initialize(["give", "new"], taskId="new")
        client.expect("initialized")
        flag.touch()  # the old one would be done now
        client.start()
        assert client.answer()["data"] == "new"
        client.nothing_more()


# ---- code that cannot be loaded


def test_code_that_cannot_be_loaded_answers_every_task_until_it_is_repaired(tmp_path: Path) -> None:
    entry = tmp_path / "alg.py"
    entry.write_text("import no_such_module_anywhere\ndef start(args, api): return 1\n")
    with serving_worker(tmp_path, entry=entry) as (client, program):
        program.wait_for_line("every task is answered with this error")
        for _ in range(2):
            client.initialize(["x"])
            error = client.expect("errorMessage")["error"]
            assert error["code"] == "IMPORT_FAILED"
            assert "no_such_module_anywhere" in error["message"]
        entry.write_text("def start(args, api): return 'repaired'\n")
        assert client.run(["x"])["data"] == "repaired"
        client.nothing_more()


# ---- exit


def test_exit_ends_with_the_code_the_worker_asks_for_and_calls_exit(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, program):
        client.run(["give", 1])
        client.exit({"command": "exit", "data": {"exitCode": 5}})
        assert program.wait(deadline_s=5) == 5
        assert "exit {'exitCode': 5}" in program.stdout
        client.wait_for_end()
        assert client.close_code == 1000


def test_exit_in_the_middle_of_a_task_that_hears_nothing(tmp_path: Path) -> None:
    with serving_worker(tmp_path, *SHORT) as (client, program):
        client.initialize(["hold the GIL"])
        client.expect("initialized")
        client.start()
        program.wait_for_line("start", stream="stdout")
        family = program.family()
        client.exit()
        assert program.wait(deadline_s=5) == 0
        assert not [process for process in family if runs(process)]


def test_exit_during_an_import_that_hangs(tmp_path: Path) -> None:
    with serving_worker(tmp_path, *SHORT, entry="hangs_at_import.py") as (client, program):
        program.wait_for_line("importing", stream="stdout")
        client.exit()
        assert program.wait(deadline_s=5) == 0


def test_exit_before_any_task(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, program):
        client.exit({"command": "exit"})
        assert program.wait(deadline_s=5) == 0


# ---- signals


def test_sigterm_ends_with_143_and_says_so_in_the_close_frame_without_an_answer(tmp_path: Path) -> None:
    with serving_worker(tmp_path, *SHORT) as (client, program):
        client.initialize(["sleep"])
        client.expect("initialized")
        client.start()
        program.wait_for_line("start", stream="stdout")
        family = program.family()
        program.send_signal(signal.SIGTERM)
        assert program.wait(deadline_s=5) == 143
        client.wait_for_end()
        with pytest.raises(AssertionError, match="the connection ended"):
            client.receive()
        assert (client.close_code, client.close_reason) == (
            1001,
            "hkrunner was told to end during task b6thsibs",
        )
        assert not [process for process in family if runs(process)]
        assert "Traceback" not in "\n".join(program.stderr)


def test_sigterm_while_no_worker_is_there(tmp_path: Path) -> None:
    with (
        ScriptedWorker(listens=False) as worker,
        serving("--entry", OBEYS, "--url", worker.url, cwd=tmp_path) as program,
    ):
        program.wait_for_line("waiting for an HKube worker")
        program.send_signal(signal.SIGTERM)
        assert program.wait(deadline_s=5) == 143


def test_the_second_ctrl_c_kills_at_once(tmp_path: Path) -> None:
    with serving_worker(tmp_path, "--grace", "60") as (client, program):
        client.initialize(["hold the GIL"])
        client.expect("initialized")
        client.start()
        program.wait_for_line("start", stream="stdout")
        program.send_signal(signal.SIGINT)
        program.wait_for_line("stopping")
        program.send_signal(signal.SIGINT)
        assert program.wait(deadline_s=5) == 130


# ---- large messages, and a parent that stays responsive


@pytest.mark.parametrize("megabytes", [1, 10, 50])
def test_a_large_message_passes_both_ways(tmp_path: Path, megabytes: int) -> None:
    text = "p" * (megabytes * 1_000_000 - 7) + "ünïcödé"
    with serving_worker(tmp_path) as (client, _):
        assert client.run(["give", text])["data"] == text
        assert client.run(["measure", text])["data"] == len(text)
        assert client.run(["give", 2])["data"] == 2


def test_a_large_message_in_fragments_with_pings_between(tmp_path: Path) -> None:
    text = "f" * 3_000_000
    with serving_worker(tmp_path) as (client, _):
        for pieces in (2, 17, 300):
            client.worker.state = "init"
            data = {"input": ["measure", text], "taskId": f"in{pieces}"}
            client.send_payload(
                _json({"command": "initialize", "data": data}), pieces=pieces, ping_between=True
            )
            client.expect("initialized")
            client.send_payload(_json({"command": "start"}), pieces=5, ping_between=True)
            assert client.answer()["data"] == len(text)


def test_pings_are_answered_while_the_child_holds_the_gil(tmp_path: Path) -> None:
    with serving_worker(tmp_path, *SHORT) as (client, program):
        client.initialize(["hold the GIL"])
        client.expect("initialized")
        client.start()
        program.wait_for_line("start", stream="stdout")
        assert max(client.ping() for _ in range(100)) <= 1.0
        client.stop()
        client.expect("stopped")


def test_pings_are_answered_while_a_large_message_goes_out(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, _):
        client.initialize(["text", 50_000_000])
        client.expect("initialized")
        with _pinging(client) as times:
            client.start()
            assert len(client.answer()["data"]) == 50_000_000
        # A pong follows what is in the buffers of the connection: seconds of reading on a busy machine.
        assert times and max(times) <= 5.0, times


def test_a_worker_that_does_not_read_holds_nothing_up(tmp_path: Path) -> None:
    with serving_worker(tmp_path, *SHORT) as (client, program):
        client.initialize(["text", 20_000_000])
        client.expect("initialized")
        client.stop_reading()
        client.start()
        program.wait_for_line("start", stream="stdout")
        wait_until(lambda: _succeeded(tmp_path) == 1, what="the task's record")
        client.go_on_reading()
        assert len(client.answer()["data"]) == 20_000_000
        # Again, and this time it is told to leave before the worker has read.
        client.initialize(["text", 20_000_000], taskId="second")
        client.expect("initialized")
        client.stop_reading()
        client.start()
        wait_until(lambda: _succeeded(tmp_path) == 2, what="the second task's record")
        client.exit()
        assert program.wait(deadline_s=5) == 0


def test_a_worker_that_sends_slowly_holds_nothing_up(tmp_path: Path) -> None:
    with serving_worker(tmp_path) as (client, _):
        payload = _json({"command": "initialize", "data": {"input": ["give", "slow"], "taskId": "slow"}})
        data = frame(1, payload)
        client.worker.state = "init"
        for i in range(len(data)):
            client.send_bytes(data[i : i + 1])
        client.spoke()
        client.expect("initialized")
        client.start()
        assert client.answer()["data"] == "slow"


# ---- finding the worker


@pytest.mark.parametrize(
    ("env", "option"),
    [
        ({}, True),
        ({"WORKER_SOCKET_URL": "ws://127.0.0.1:9"}, True),
        ({"WORKER_SOCKET_URL": "{url}", "WORKER_SOCKET_HOST": "127.0.0.1", "WORKER_SOCKET_PORT": "9"}, False),
        ({"WORKER_SOCKET_HOST": "localhost", "WORKER_SOCKET_PORT": "{port}"}, False),
        ({"WORKER_SOCKET_PORT": "{port}"}, False),
        ({"WORKER_SOCKET_PROTOCOL": "ws", "WORKER_SOCKET_PORT": "{port}"}, False),
    ],
    ids=["--url", "--url before all", "URL before HOST", "HOST and PORT", "PORT", "PROTOCOL and PORT"],
)
def test_the_worker_is_found_where_option_and_environment_say(
    tmp_path: Path, env: dict[str, str], option: bool
) -> None:
    with ScriptedWorker() as worker:
        names = ("URL", "PROTOCOL", "HOST", "PORT")
        clean: dict[str, str | None] = {f"WORKER_SOCKET_{name}": None for name in names}
        told = {name: value.format(url=worker.url, port=worker.port) for name, value in env.items()}
        given = ("--url", worker.url) if option else ()
        with serving("--entry", OBEYS, *given, cwd=tmp_path, env={**clean, **told}):
            client = worker.accept()
            assert client.query == {"storage": "v1", "encoding": "json"}


def test_by_default_the_worker_is_at_port_3000_of_this_machine(tmp_path: Path) -> None:
    names = ("URL", "PROTOCOL", "HOST", "PORT")
    clean: dict[str, str | None] = {f"WORKER_SOCKET_{name}": None for name in names}
    with serving("--entry", OBEYS, cwd=tmp_path, env=clean) as program:
        # Somebody may serve there: connected or waiting, it is named.
        program.wait_for_line("ws://localhost:3000?storage=v1&encoding=json")


def test_a_query_that_the_user_gives_is_kept(tmp_path: Path) -> None:
    with ScriptedWorker() as worker:
        url = f"{worker.url}/hkube/debug/green?hostname=pc1"
        with serving("--entry", OBEYS, "--url", url, cwd=tmp_path):
            client = worker.accept()
            assert client.path == "/hkube/debug/green?hostname=pc1&storage=v1&encoding=json"


def test_the_wait_for_a_worker_is_reported_once_with_the_way_to_run_without_one(tmp_path: Path) -> None:
    with (
        ScriptedWorker(listens=False) as worker,
        serving("--entry", OBEYS, "--url", worker.url, cwd=tmp_path) as program,
    ):
        program.wait_for_line("waiting for an HKube worker")
        program.wait_for_line("--input")
        with socket.create_server(("127.0.0.1", worker.port)) as refusing:
            for _ in range(6):
                refusing.accept()[0].close()
        worker.listen()
        worker.accept()
        program.wait_for_line("connected to")
        said = [line for line in program.stderr if "waiting for an HKube worker" in line]
        assert len(said) == 1
        assert worker.url in said[0]
        assert "connection refused" in said[0]


def test_connect_timeout_ends_with_5_and_a_sentence(tmp_path: Path) -> None:
    with ScriptedWorker(listens=False) as worker:
        began = time.monotonic()
        ended = run_hkrunner(
            "--entry", OBEYS, "--url", worker.url, "--connect-timeout", "0.5", cwd=tmp_path, deadline_s=10
        )
        assert ended.status == 5
        assert 0.5 <= time.monotonic() - began < 5
        assert f"no worker at {worker.url}" in ended.stderr
        assert "0.5 s" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_an_unknown_host_is_reported(tmp_path: Path) -> None:
    ended = run_hkrunner(
        *("--entry", OBEYS, "--url", "ws://no-such-host.invalid:3000", "--connect-timeout", "0.2"),
        cwd=tmp_path,
    )
    assert ended.status == 5
    assert "no-such-host.invalid" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("url", ["http://127.0.0.1:3000", "127.0.0.1:3000", "ws://", "ws://127.0.0.1:port"])
def test_a_url_that_is_none_is_refused_before_anything_starts(tmp_path: Path, url: str) -> None:
    ended = run_hkrunner("--entry", OBEYS, "--url", url, cwd=tmp_path)
    assert ended.status == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "URL" in ended.stderr


# ---- helpers


def _json(message: Any) -> bytes:
    return encode("json", message)


def _succeeded(folder: Path) -> int:
    """The number of tasks whose record says so."""
    records = (folder / ".hkrunner" / "tasks").glob("*/task.json")
    return sum(json.loads(path.read_text())["status"] == "succeed" for path in records)


@contextlib.contextmanager
def _pinging(client: Any) -> Iterator[list[float]]:
    """Ping all the time; yields the list of answer times."""
    times: list[float] = []
    over = threading.Event()

    def ping() -> None:
        while not over.is_set():
            times.append(client.ping())

    thread = threading.Thread(target=ping)
    thread.start()
    try:
        yield times
    finally:
        over.set()
        thread.join()


@pytest.mark.alone  # what others make in /dev/shm wakes the warden
def test_between_tasks_no_process_wakes_up(tmp_path: Path) -> None:
    """Without a limit to hold; before the first task, and after one that was long enough to be watched."""

    def wakeups() -> dict[Path, int]:
        """Return how often each thread has slept; a thread may end while it is looked at."""
        counts = {}
        for process in program.family():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for thread in Path(f"/proc/{process.pid}/task").iterdir():
                    text = (thread / "status").read_text()
                    counts[thread] = int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
        return counts

    def sleeps() -> bool:
        before = wakeups()
        time.sleep(1.2)  # that nothing happens in this time is what is looked for
        return wakeups() == before

    def polls(before: dict[Path, int]) -> bool:
        return sum(count - before.get(thread, 0) for thread, count in wakeups().items()) > 60

    with serving_worker(tmp_path) as (client, program):
        program.wait_for_line("loaded")
        wait_until(sleeps, what="rest before a task")
        client.initialize(["wait for file", str(tmp_path / "flag")])
        client.expect("initialized")
        client.start()
        before = wakeups()
        wait_until(lambda: polls(before), what="a third of a second of polling for the file")
        (tmp_path / "flag").touch()
        client.expect("done")
        wait_until(sleeps, what="rest after it")
