"""A task with storage v3, with a storage process that answers what the test says."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from hkrunner.runner.link.connection import BLOB_MIN, WorkerMessage
from hkrunner.runner.link.message_memory import MessageMemoryPool
from hkrunner.runner.protocol.task_state import State
from hkrunner.runner.serving import task_storage
from hkrunner.runner.serving.task_storage import CALLS_MAX
from hkrunner.runner.settings.storage_settings import StorageSettings
from hkrunner.sandbox.shared.message_format import Memfd
from hkrunner.sandbox.shared.messages import ApiCall
from hkrunner.sandbox.shared.storage_messages import (
    CheckInput,
    FetchInput,
    ForTask,
    ForWorker,
    InputFetched,
    RequestFailed,
    StorageAnswer,
)
from support.fake_serving import FakeServing, Serve


class FakeStorageClient:
    """Records the requests; the test answers the last one."""

    def __init__(self, *_: object, **more: object) -> None:
        self.asked: list[tuple[type, object]] = []
        self.waiting = 0
        self.checks_later = more["checks_later"]

    def begin(self) -> None:
        pass

    cancel = close = begin

    def ask(self, what: type, wire: object, on_answer: Callable[[StorageAnswer], None]) -> None:
        self.asked.append((what, wire))
        self.answer = on_answer


@pytest.fixture
def served(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> tuple[FakeServing, Any]:
    """A supervisor with --end-children, and the storage's client."""
    monkeypatch.setattr(task_storage, "StorageClient", FakeStorageClient)
    one = serve(storage=StorageSettings(), end_children=True)
    return one, one.supervisor._storage._client  # type: ignore[union-attr]


@pytest.fixture
def unread(served: tuple[FakeServing, Any]) -> tuple[FakeServing, Any]:
    """A task that its child could not read, and the storage's client."""
    one, client = served
    one.child.helpers = []
    one.initialize()
    client.answer(InputFetched(b"cut", 1, {"taskId": "t1"}, []))
    one.child_fails("RUNNER_ERROR")
    assert one.commands == [] and client.checks_later is True
    return one, client


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (ForTask(b"a (3 bytes) is not msgpack", 2), "STORAGE_READ_FAILED: a (3 bytes) is not msgpack"),
        (ForTask(b"", 2), "RUNNER_ERROR: no"),
        (RequestFailed(0, "the storage process has ended"), "RUNNER_ERROR: no"),
    ],
)
def test_a_task_that_its_child_cannot_read_fails_with_the_object_that_is_the_reason(
    unread: tuple[FakeServing, Any], answer: StorageAnswer, told: str
) -> None:
    one, client = unread
    one.child_fails("RUNNER_ERROR")  # a child may say it again and again
    assert [what for what, _ in client.asked] == [FetchInput, CheckInput]
    client.answer(answer)
    (posted,) = one.link.posted
    assert (posted["command"], posted["error"]["message"]) == ("errorMessage", told)


def test_a_task_whose_input_has_no_room_in_the_address_space_fails_alone(
    served: tuple[FakeServing, Any],
) -> None:
    """The error ended hkrunner."""
    one, client = served
    one.initialize()
    size = 2**47  # more addresses than a process has
    fd = os.memfd_create("input", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    client.answer(InputFetched(Memfd(fd, size), 1, {"taskId": "t1"}, [], size))
    (posted,) = one.link.posted
    told = f"STORAGE_READ_FAILED: no memory for an input of {size:,} bytes: "
    assert posted["error"]["message"].startswith(told)
    with pytest.raises(OSError):
        os.fstat(fd)


def started(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> tuple[FakeServing, Any]:
    """Have a task started whose input came from a storage; return it with the storage's client."""
    monkeypatch.setattr(task_storage, "StorageClient", FakeStorageClient)
    one = serve(storage=StorageSettings())
    client: Any = one.supervisor._storage._client  # type: ignore[union-attr]
    one.initialize()
    client.answer(InputFetched(b"{}", 1, {"taskId": "t1"}, []))
    one.child_reads()
    one.child_initializes()
    one.start()
    return one, client


def test_the_worker_is_told_that_a_result_is_being_stored_though_its_child_has_ended(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_storage, "StorageClient", FakeStorageClient)
    one = serve(methods=("start",), storage=StorageSettings())
    one.initialize()
    one.supervisor._storage._client.answer(InputFetched(b"{}", 1, {"taskId": "t1"}, []))  # type: ignore[union-attr]
    one.start()
    one.child_answers()
    one.child.goes()
    assert one.state is State.STORING and one.commands == ["initialized", "started"]
    one.after(4.1)
    one.after(4.1)
    assert one.commands[2:] == ["alive", "alive"]  # HKube gives the task up 10 s after the last one


def test_a_call_that_is_lost_after_the_answer_changes_nothing_of_it(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, client = started(serve, monkeypatch)
    one.child.says(ApiCall(b"{}"), one.number)
    called = client.answer
    one.child_answers()
    called(RequestFailed(2, "the call cannot be read"))
    client.answer(ForWorker(b'{"command":"storing"}', 3))
    assert one.commands[-2:] == ["storing", "done"] and one.results[-1].status == "succeed"
    assert one.child.kill_cause is None


def test_a_child_waits_while_many_of_its_calls_are_at_the_storage(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, client = started(serve, monkeypatch)
    for waiting, is_listened_to in ((CALLS_MAX - 1, True), (CALLS_MAX, False)):
        client.waiting = waiting
        one.child.says(ApiCall(b"{}"), one.number)
        assert one.child.is_listened_to is is_listened_to
    for waiting, congested, is_listened_to in (
        (CALLS_MAX - 1, False, False),
        (CALLS_MAX // 2, True, False),  # once the worker has taken some of what waits for it
    ):
        client.waiting, one.link.congested = waiting, congested
        client.answer(ForWorker(b'{"command":"startSpan"}', 2))
        assert one.child.is_listened_to is is_listened_to
    assert one.link.on_relieved is not None
    one.link.congested = False
    one.link.on_relieved()
    assert one.child.is_listened_to
    client.waiting = CALLS_MAX
    one.child.says(ApiCall(b"{}"), one.number)
    client.waiting = 0
    client.answer(ForWorker(b'{"command":"startSpan"}', 3))
    assert one.child.is_listened_to


def test_a_large_answer_to_a_call_is_not_written_over_before_the_storage_process_has_read_it(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, client = started(serve, monkeypatch)
    memory = MessageMemoryPool(one.loop)
    texts = [
        b'{"command":"algorithmExecutionDone","data":"%b"}' % (letter * BLOB_MIN) for letter in (b"a", b"b")
    ]
    sent = []
    monkeypatch.setattr(client, "ask", lambda what, wire, on_answer: sent.append(os.dup(wire.fd)))
    for text in texts:
        blob = memory.new(len(text))
        blob.map[:] = text
        one.link.listener.on_link_message(WorkerMessage(b"", blob))
    for fd, text in zip(sent, texts, strict=True):
        assert os.pread(fd, len(text), 0) == text
        os.close(fd)
    memory.close()


def test_a_task_that_is_stopped_while_the_reason_is_looked_for_is_stopped(
    unread: tuple[FakeServing, Any],
) -> None:
    one, client = unread
    one.stop()
    client.answer(RequestFailed(2, "a (3 bytes) is not msgpack"))
    assert one.commands == ["stopped"]
    one.initialize("t2")
    client.answer(InputFetched(b"cut", 3, {"taskId": "t2"}, []))
    one.child_fails("RUNNER_ERROR")
    late = client.answer
    one.initialize("t3")
    late(ForTask(b"", 4))
    client.answer(RequestFailed(5, "no"))
    assert [posted.get("error", {}).get("message") for posted in one.link.posted] == [
        None,
        "STORAGE_READ_FAILED: no",
    ]


def test_an_answer_for_a_child_that_is_gone_does_not_fail_the_task_of_the_next_one(
    unread: tuple[FakeServing, Any],
) -> None:
    one, client = unread
    late = client.answer
    one.child.goes()
    late(ForTask(b"a (3 bytes) is not msgpack", 2))
    assert one.commands == []
    one.child_fails("RUNNER_ERROR")
    assert [what for what, _ in client.asked].count(CheckInput) == 2
    late(ForTask(b"a (3 bytes) is not msgpack", 2))
    assert one.commands == []
    client.answer(ForTask(b"", 3))
    assert one.commands == ["errorMessage"]


def test_a_child_that_dies_while_its_first_result_is_stored_is_replaced_by_one_that_has_served_nothing(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_storage, "StorageClient", FakeStorageClient)
    one = serve(storage=StorageSettings(), recycle_after=1)
    client = one.supervisor._storage._client  # type: ignore[union-attr]
    one.initialize()
    client.answer(InputFetched(b'{"data":{"taskId":"t1"}}', 1, {"taskId": "t1"}, []))
    one.child_reads()
    one.child_initializes()
    one.start()
    one.child_answers()
    one.child.goes()
    assert len(one.children) == 2
    client.answer(ForWorker(b'{"command":"storing"}', 2))
    assert one.commands == ["initialized", "started", "storing", "done"]
    assert one.child is one.children[1] and not one.child.exits, "it is not recycled"


def test_a_new_child_loads_the_code_while_the_input_is_read(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_storage, "StorageClient", FakeStorageClient)
    one = serve(methods=None, storage=StorageSettings())
    one.child.goes()
    one.initialize()
    assert len(one.children) == 2


def test_what_a_task_leaves_that_is_stopped_while_its_result_is_stored_is_ended_before_the_answer(
    served: tuple[FakeServing, Any],
) -> None:
    one, client = served
    one.child.helpers, one.child.still_running = [], ("process sleep (pid 7)",)
    one.initialize()
    client.answer(InputFetched(b"{}", 1, {"taskId": "t1"}, []))
    one.child_initializes()
    one.start()
    one.child_answers()
    assert one.state is State.STORING
    one.stop()
    assert one.child.ended_others == 1 and one.commands[-1] != "stopped"
    client.answer(ForWorker(b"{}", 2))  # nobody waits for it any more
    one.child.samples(answers=one.child.asked[-1])
    assert one.commands[-1] == "stopped" and one.state is State.IDLE
