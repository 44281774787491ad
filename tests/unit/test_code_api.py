"""What the parent and the child both know of the code API."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hkrunner.sandbox.child import api_answers
from hkrunner.sandbox.child.api import Api
from hkrunner.sandbox.shared.code_api import ANSWERS


def test_the_child_handles_what_the_parent_passes_on_and_nothing_else() -> None:
    assert api_answers.HANDLED == ANSWERS


def test_a_message_that_comes_at_the_moment_when_listening_begins_is_delivered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[Any] = []
    done = threading.Event()
    api = Api(lambda message: done.set(), lambda value, details: None)
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
    assert done.wait(10) and heard == [(1, "a")]


def test_a_listener_that_raises_under_the_debug_server_is_shown_and_its_message_is_done(
    capfd: pytest.CaptureFixture[str],
) -> None:
    sent: list[Any] = []
    api = Api(sent.append, lambda value, details: None)
    api.registerInputListener(lambda message, origin: message["missing"])
    api._answer({"command": "streamingInMessage", "data": {"payload": {}, "sendMessageId": "7"}})
    api.startMessageListening()  # in which the message that has waited is handled
    assert sent == [{"command": "streamingInMessageDone", "data": {"sendMessageId": "7"}}]
    assert "KeyError: 'missing'" in capfd.readouterr().err
