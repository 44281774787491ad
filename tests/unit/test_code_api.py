"""What the parent and the child both know of the code API."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hkrunner.sandbox.child import api_answers
from hkrunner.sandbox.child.api import Api
from hkrunner.sandbox.child.stop_control import StopControl
from hkrunner.sandbox.child.task_reports import TaskReports
from hkrunner.sandbox.shared.code_api import ANSWERS
from hkrunner.sandbox.shared.message_format import Memfd
from support.waiting import wait_until


class Sent(TaskReports):
    """Keeps what would be sent to the worker."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def send_api_call(self, task: int, message: dict[str, Any]) -> None:
        self.messages.append(message)


def test_the_child_handles_what_the_parent_passes_on_and_nothing_else() -> None:
    assert api_answers.HANDLED == ANSWERS


def test_a_message_that_comes_at_the_moment_when_listening_begins_is_delivered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[Any] = []
    sent = Sent()
    api = Api(sent, 1)
    api.registerInputListener(lambda message, origin: heard.append((message, origin)))
    lock = api._lock

    @contextlib.contextmanager
    def taken() -> Iterator[None]:
        """The control thread is about to take the lock: the algorithm is faster."""
        monkeypatch.setattr(api, "_lock", lock)
        api.startMessageListening()
        with lock:
            yield

    monkeypatch.setattr(api, "_lock", taken())
    api._answer({"command": "streamingInMessage", "data": {"payload": 1, "origin": "a"}})
    wait_until(lambda: sent.messages, what="the message to be delivered")
    assert heard == [(1, "a")]


def test_a_listener_that_raises_under_the_debug_server_is_shown_and_its_message_is_done(
    capfd: pytest.CaptureFixture[str],
) -> None:
    sent = Sent()
    api = Api(sent, 1)
    api.registerInputListener(lambda message, origin: message["missing"])
    api._answer({"command": "streamingInMessage", "data": {"payload": {}, "sendMessageId": "7"}})
    api.startMessageListening()  # in which the message that has waited is handled
    assert sent.messages == [{"command": "streamingInMessageDone", "data": {"sendMessageId": "7"}}]
    assert "KeyError: 'missing'" in capfd.readouterr().err


def test_a_reply_for_which_there_is_no_room_ends_its_call() -> None:
    nothing: Any = SimpleNamespace(forget_cancel=lambda: None, setblocking=lambda on: None)
    control = StopControl(nothing, nothing, nothing, "json", nothing)
    api = Api(Sent(), 1)
    api._begin_start()
    control.open_task(1, api)
    call = api.begin_algorithm("other")
    size = 2**47  # more addresses than a process has
    fd = os.memfd_create("reply", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    control._on_reply(1, Memfd(fd, size))
    with pytest.raises(MemoryError, match=f"its answer of {size:,} bytes does not fit into memory"):
        call.result(0)
    with pytest.raises(OSError):
        os.fstat(fd)


def test_a_message_of_the_debug_server_for_which_there_is_no_thread_is_lost_alone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The error ended the control thread: the task heard of no stop any more."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    sent = Sent()
    api = Api(sent, 1)
    api.startMessageListening()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    api._answer({"command": "streamingInMessage", "data": {"payload": {}, "sendMessageId": "7"}})
    assert sent.messages == [{"command": "streamingInMessageDone", "data": {"sendMessageId": "7"}}]
    assert "can't start new thread" in capfd.readouterr().err
