"""The loop of the algorithm's process, when stop() and the end of start() come at the same moment."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import threading
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from hkrunner.sandbox.child.event_loop import EventLoop
from support.waiting import wait_until


@pytest.fixture
def events() -> Iterator[EventLoop]:
    """The loop of this thread; everything on it has succeeded at the end."""
    failed: list[str] = []
    asyncio.set_event_loop(asyncio.new_event_loop())
    events = EventLoop(lambda text, error: failed.append(text))
    events.adopt()
    yield events
    events.finish()
    asyncio.get_event_loop_policy().get_event_loop().close()
    asyncio.set_event_loop(None)
    assert not failed


class Stop:
    """An async stop(), run by a thread of its own, that ends start() first and does more after it."""

    def __init__(self, events: EventLoop) -> None:
        self._events = events
        self.may_end = asyncio.Event()
        self.results: list[str] = []
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self.results.append(self._events.run(self.stop(), "stop", is_cancelled_by_stop=False))

    async def stop(self) -> str:
        self.may_end.set()
        for _ in range(3):
            await asyncio.sleep(0)
        return "stopped"


def test_a_stop_is_finished_though_start_ends_before_it_is_noted(
    events: EventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_ended = threading.Event()
    hand_over = asyncio.run_coroutine_threadsafe

    def slowly(
        coroutine: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop
    ) -> concurrent.futures.Future[Any]:
        handed = hand_over(coroutine, loop)
        assert has_ended.wait(10)
        return handed

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", slowly)
    stop = Stop(events)
    loop = asyncio.get_event_loop_policy().get_event_loop()
    loop.call_soon(stop.thread.start)
    loop.run_until_complete(stop.may_end.wait())
    has_ended.set()
    events.finish_handed()
    stop.thread.join(10)
    assert stop.results == ["stopped"]


def test_a_stop_that_comes_while_the_loop_is_given_back_is_finished(
    events: EventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = Stop(events)
    let_go = events._let_go

    def after_a_late_stop(*, at_once: bool = False) -> bool:
        if stop.thread.ident is None:
            stop.thread.start()
            wait_until(lambda: events._handed, what="the stop is handed over")
        return let_go(at_once=at_once)

    monkeypatch.setattr(events, "_let_go", after_a_late_stop)

    async def start() -> str:
        return "done"

    assert events.run(start(), "start", is_cancelled_by_stop=True) == "done"
    stop.thread.join(10)
    assert stop.results == ["stopped"]


def test_what_an_awaited_init_sets_in_the_context_is_kept_and_what_a_task_sets_is_not(
    events: EventLoop,
) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    async def sets(value: str) -> str | None:
        before = variable.get(None)
        await asyncio.sleep(0)
        variable.set(value)
        return before

    assert events.run(sets("of init"), "init", is_cancelled_by_stop=True) is None
    assert variable.get() == "of init"
    for task in ("first", "second"):
        assert events.run(sets(task), "start", is_cancelled_by_stop=True) == "of init"
    assert variable.get() == "of init"


def test_an_exit_in_a_task_beside_start_is_not_logged_as_never_retrieved(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events = EventLoop(lambda text, error: None)

    async def start() -> None:
        async def exits() -> None:
            raise SystemExit(3)

        task = asyncio.create_task(exits())
        await asyncio.sleep(60)
        await task

    with pytest.raises(SystemExit):
        events.run(start(), "start", is_cancelled_by_stop=True)
    events.finish()
    asyncio.set_event_loop(None)
    gc.collect()
    # By the name of this test, which the coroutines have: others may have left garbage, which is logged now.
    assert "is_not_logged_as_never_retrieved" not in caplog.text


def test_a_future_that_failed_unnoticed_is_still_logged(caplog: pytest.LogCaptureFixture) -> None:
    events = EventLoop(lambda text, error: None)

    async def start() -> None:
        asyncio.get_running_loop().create_future().set_exception(ValueError("lost"))
        gc.collect()

    events.run(start(), "start", is_cancelled_by_stop=True)
    events.finish()
    asyncio.set_event_loop(None)
    assert "never retrieved" in caplog.text and "ValueError: lost" in caplog.text


def test_stdin_that_epoll_cannot_watch_is_read_to_its_end() -> None:
    events = EventLoop(lambda text, error: None)

    async def read() -> bytes:
        reader = asyncio.StreamReader()
        with open("/dev/null", "rb") as file:  # as the algorithm has it
            await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), file
            )
            return await asyncio.wait_for(reader.read(), 10)

    assert events.run(read(), "start", is_cancelled_by_stop=False) == b""
    events.finish()
    asyncio.set_event_loop(None)
