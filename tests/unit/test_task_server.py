"""The child's server of tasks, driven over its sockets by the test."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hkrunner.sandbox.shared.channel import EXIT_CHANNEL_LOST, INLINE_MAX, blob_problem
from hkrunner.sandbox.shared.message_format import PROTOCOL_VERSION, Memfd, ProcessMessage
from hkrunner.sandbox.shared.messages import (
    ApiCall,
    Begin,
    Done,
    EndProcess,
    Failed,
    Initialize,
    Initialized,
    LoadFailed,
    Problem,
    Progress,
    Reply,
    Start,
    TaskRead,
    UseFolder,
)
from support.child_process import ECHO, StartChild, done, one_task, wire
from support.waiting import wait_until

IDS = {"taskId": "t1", "jobId": "j1", "nodeName": "n", "algorithmName": None, "pipelineName": None}


# ---- loading


def test_what_the_code_offers_is_reported_once_it_is_loaded(start_child: StartChild) -> None:
    loaded = start_child("def init(args): ...\ndef start(args, api): ...\ndef exit(data): ...\n").loaded()
    assert (loaded.version, loaded.methods) == (PROTOCOL_VERSION, ["start", "init", "exit"])
    assert loaded.calls["start"] == {"function": "start", "parameters": "args, api", "given": ["args", "api"]}


@pytest.mark.parametrize(
    ("code", "expected", "sentence"),
    [
        ("import no_such_module\n", "IMPORT_FAILED", "No module named 'no_such_module'"),
        ("1 / 0\n", "IMPORT_FAILED", "ZeroDivisionError: division by zero during import"),
        ("def begin(): ...\n", "ENTRY_INVALID", "alg.py has no function start(args, api)"),
        ("raise SystemExit(3)\n", "EXITED", "sys.exit(3) ended the algorithm during import"),
    ],
)
def test_code_that_cannot_be_used_is_reported_and_the_child_ends(
    start_child: StartChild, code: str, expected: str, sentence: str
) -> None:
    child = start_child(code)
    said = child.next()
    assert said is not None
    failed = said[1]
    assert isinstance(failed, LoadFailed)
    assert failed.code == expected and sentence in failed.message
    assert child.status() == 0


def test_a_parent_of_another_version_is_refused_with_what_to_do(start_child: StartChild) -> None:
    child = start_child(ECHO, version=PROTOCOL_VERSION + 1)
    said = child.next()
    assert said is not None
    failed = said[1]
    assert isinstance(failed, LoadFailed) and failed.code == "RUNNER_ERROR"
    assert "was hkrunner replaced while it ran? Start it again" in failed.message
    assert child.status() == 0


def test_a_closed_socket_before_the_first_message_ends_the_child(start_child: StartChild) -> None:
    child = start_child(ECHO)
    child.tasks.close()
    assert child.status() in (0, EXIT_CHANNEL_LOST)


# ---- tasks


def test_a_task_handed_over_whole_is_answered_without_further_messages(serving_child: StartChild) -> None:
    child = serving_child(ECHO)
    assert one_task(child, 1, [1, 2]) == done([1, 2])
    assert one_task(child, 2, "next") == done("next")


def test_a_task_whose_names_have_to_be_found_goes_step_by_step(
    serving_child: StartChild, tmp_path: Path
) -> None:
    child = serving_child("import os\ndef start(args, api):\n    return os.environ['OF_THE_TASK']\n")
    child.say(5, Initialize(wire(taskId="t1", jobId="j1", nodeName="n")))
    assert child.next() == (5, TaskRead(IDS))
    child.say(5, UseFolder(env={"OF_THE_TASK": "yes"}))
    assert child.next() == (5, Initialized())
    child.say(5, Start())
    assert child.next() == (5, done("yes"))


def test_a_task_with_init_has_begun_before_init_runs(serving_child: StartChild) -> None:
    child = serving_child(
        "state = []\ndef init(args): state.append(args['input'])\ndef start(args, api): return state\n"
    )
    child.say(1, Begin(wire(7, taskId="t1", jobId="j1", nodeName="n"), is_announced=False))
    assert child.next() == (1, TaskRead(IDS))
    assert child.next() == (1, Initialized())
    child.say(1, Start())
    assert child.next() == (1, done([7]))


def test_a_task_in_memory_is_read_from_there(serving_child: StartChild) -> None:
    child = serving_child("def start(args, api):\n    return len(args['input'])\n")
    data = wire("x" * 500_000)
    fd = os.memfd_create("test", os.MFD_CLOEXEC)
    os.write(fd, data)
    child.send_blob(1, Initialize.kind, fd, len(data))
    os.close(fd)
    assert isinstance((child.next() or (0, None))[1], TaskRead)
    child.say(1, UseFolder())
    child.next()
    child.say(1, Start())
    assert child.next() == (1, done(500_000))


def test_a_large_result_comes_in_memory_that_cannot_become_shorter(serving_child: StartChild) -> None:
    child = serving_child("def start(args, api):\n    return 'x' * args['input']\n")
    inodes = []
    for number in (1, 2):
        ended = one_task(child, number, INLINE_MAX)
        assert isinstance(ended, Done) and isinstance(ended.wire, Memfd)
        assert blob_problem(ended.wire.fd, ended.wire.size) is None
        assert os.pread(ended.wire.fd, 30, 0).startswith(b'{"command":"done","data":"xxx')
        inodes.append(os.fstat(ended.wire.fd).st_ino)
        os.close(ended.wire.fd)
    assert inodes[0] == inodes[1], "the memory is used again: its pages are there already"


@pytest.mark.parametrize("limit", [None, 10, 1_000_000])
def test_input_and_result_are_kept_up_to_a_size(
    serving_child: StartChild, tmp_path: Path, limit: int | None
) -> None:
    child = serving_child(ECHO)
    folder = tmp_path / "record"
    folder.mkdir()
    child.say(1, Begin(wire("value of the task"), folder=str(folder), keep_max_bytes=limit), Start())
    assert child.next() == (1, done("value of the task"))
    # The answer was sent after the files were written; the prepared one is removed after it.
    wait_until(lambda: not (folder / ".output.json.part").exists(), what="the end of the task")
    kept = {path.name: json.loads(path.read_text()) for path in folder.iterdir()}
    assert kept == (
        {} if limit == 10 else {"input.json": "value of the task", "output.json": "value of the task"}
    )


def test_a_missing_folder_is_reported_and_fails_no_task(serving_child: StartChild, tmp_path: Path) -> None:
    child = serving_child(ECHO)
    child.say(1, Begin(wire(), folder=str(tmp_path / "gone")), Start())
    assert child.next() == (1, Problem("input.json was not kept: No such file or directory"))
    assert child.next() == (1, Problem("output.json was not kept: No such file or directory"))
    assert child.next() == (1, done(1))


def test_a_task_that_the_supervisor_drops_makes_way_for_the_next(serving_child: StartChild) -> None:
    child = serving_child(ECHO)
    child.say(1, Begin(wire("old")))
    child.say(2, Begin(wire("new")), Start())
    assert child.next() == (2, done("new"))


@pytest.mark.parametrize(
    ("body", "code", "sentence"),
    [
        (
            "raise ValueError('no such column')",
            "ALGORITHM_ERROR",
            "ValueError: no such column (alg.py:3 in misbehave)",
        ),
        ("raise MemoryError", "MEMORY_ERROR", "MemoryError: an allocation failed"),
        ("return {'a': [object()]}", "RESULT_INVALID", "result['a'][0]: object cannot be sent"),
        ("return 'x' * 100_000_001", "RESULT_TOO_LARGE", "HKube's worker takes at most 100,000,000"),
        ("raise ValueError('é' * 100_000)", "ALGORITHM_ERROR", "characters left out"),
    ],
)
def test_a_task_that_fails_is_reported_and_the_next_one_is_served(
    serving_child: StartChild, body: str, code: str, sentence: str
) -> None:
    child = serving_child(f"""
def misbehave():
    {body}
def start(args, api):
    return misbehave() if args["input"] == 1 else "served"
""")
    failed = one_task(child, 1)
    assert isinstance(failed, Failed)
    assert failed.code == code and sentence in failed.message and not failed.ends
    assert one_task(child, 2, "again") == done("served")


def test_a_message_that_cannot_be_read_as_a_task_fails_it(serving_child: StartChild) -> None:
    child = serving_child(ECHO)
    child.say(1, Begin(b"{oops"))
    said = child.next()
    assert said is not None and isinstance(said[1], Failed)
    assert said[1].message.startswith("RUNNER_ERROR: the worker's initialize is no json: ")
    assert one_task(child, 2) == done(1)


def test_an_algorithm_that_exits_fails_its_task_and_ends_its_process(serving_child: StartChild) -> None:
    child = serving_child("import sys\ndef start(args, api):\n    sys.exit(7)\n")
    failed = one_task(child, 1)
    assert isinstance(failed, Failed) and (failed.code, failed.ends) == ("EXITED", True)
    assert child.status() == 7


def test_a_process_that_the_algorithm_forked_answers_nothing(serving_child: StartChild) -> None:
    child = serving_child(
        "import os\ndef start(args, api):\n    return 'child' if os.fork() == 0 else 'parent'\n"
    )
    assert one_task(child, 1) == done("parent")
    child.tasks.shutdown(1)  # SHUT_WR: no more tasks
    child.say_to_control(0, EndProcess({}))
    assert child.next() is None


def test_a_process_that_lost_its_socket_ends_with_a_status_of_its_own(serving_child: StartChild) -> None:
    child = serving_child("def start(args, api):\n    while True: api.progress(1)\n")
    child.say(1, Begin(wire()), Start())
    child.next()
    child.tasks.close()
    assert child.status() == EXIT_CHANNEL_LOST


# ---- what it says while a task runs


def test_progress_and_output_come_before_the_answer(serving_child: StartChild) -> None:
    child = serving_child(
        "def start(args, api):\n    print('hello')\n    api.progress(50, {'a': (1,)})\n    return 2\n"
    )
    child.say(1, Begin(wire()), Start())
    assert child.next() == (1, Progress(50.0, {"a": [1]}))
    assert child.next() == (1, done(2))
    assert child.output == "hello\n"


def test_a_signal_handler_may_use_the_api_wherever_it_interrupts_it(serving_child: StartChild) -> None:
    """It waited for ever for a lock that the interrupted call held."""
    child = serving_child("""
import signal, sys
def start(args, api):
    signal.signal(signal.SIGUSR1, lambda number, frame: api.progress(100, "handler"))
    lines = set()
    def interrupt(frame, event, arg):
        line = frame.f_code, frame.f_lineno
        if line not in lines:
            lines.add(line)
            signal.raise_signal(signal.SIGUSR1)
        return interrupt
    sys.settrace(interrupt)
    api.progress(100, "start")
    sys.settrace(None)
    return len(lines)
""")
    child.say(1, Begin(wire()), Start())
    said: list[ProcessMessage] = []
    while not said or isinstance(said[-1], Progress):
        received = child.next()
        assert received is not None
        said.append(received[1])
    answer = said.pop()
    assert said.count(Progress(100.0, "start")) == 1
    assert answer == done(said.count(Progress(100.0, "handler"))) != done(0)


def test_a_call_of_the_code_api_gets_the_reply_of_the_worker(serving_child: StartChild) -> None:
    child = serving_child("def start(args, api):\n    return api.start_algorithm('adds', [1, 2])\n")
    child.say(1, Begin(wire()), Start())
    said = child.next()
    assert said is not None and isinstance(said[1], ApiCall) and isinstance(said[1].wire, bytes)
    data = json.loads(said[1].wire)["data"]
    answer = {"command": "algorithmExecutionDone", "data": {"execId": data["execId"], "response": 3}}
    child.say_to_control(1, Reply(json.dumps(answer).encode()))
    assert child.next() == (1, done(3))


def test_a_reply_that_cannot_be_read_fails_the_call_it_belongs_to(serving_child: StartChild) -> None:
    child = serving_child("def start(args, api):\n    return api.start_algorithm('adds', [1, 2])\n")
    child.say(1, Begin(wire()), Start())
    child.next()
    child.say_to_control(1, Reply(b'{"command": "algorithmExecutionDone", "data": {"execId": "1", oops'))
    said = child.next()
    assert said is not None and isinstance(said[1], Failed)
    assert "ApiError: adds: its answer of 66 bytes cannot be read" in said[1].message


def test_a_reply_for_a_task_that_is_over_is_dropped(serving_child: StartChild) -> None:
    child = serving_child(ECHO)
    assert one_task(child, 1) == done(1)
    child.say_to_control(1, Reply(b"{oops"))
    assert one_task(child, 2) == done(1)
