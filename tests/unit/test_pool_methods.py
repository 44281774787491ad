"""What a Pool does with its dispatcher, which is a stand-in here: no process is started."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from typing import Any

import hkrunner
import pytest
from hkrunner.runner.python_api import pool as pools


class NeverDone:
    """Takes tasks, and ends when it is told to do so now."""

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []
        self.closed: list[bool] = []

    def submit(
        self, positional: tuple[Any, ...], named: dict[str, Any], timeout_s: float | None
    ) -> Future[Any]:
        self.futures.append(Future())
        return self.futures[-1]

    def close(self, *, cancel: bool = False, now: bool = False) -> None:
        self.closed.append(now)

    def join(self) -> None:
        if not self.closed[-1]:
            raise KeyboardInterrupt


@pytest.fixture
def dispatcher() -> NeverDone:
    return NeverDone()


@pytest.fixture
def pool(dispatcher: NeverDone) -> hkrunner.Pool[Any, Any]:
    pool: hkrunner.Pool[Any, Any] = hkrunner.Pool.__new__(hkrunner.Pool)
    pool._has_code = pool._has_function = True
    pool._dispatcher = dispatcher  # type: ignore[assignment]
    return pool


def test_all_tasks_of_a_map_are_cancelled_after_its_timeout(pool: Any, dispatcher: NeverDone) -> None:
    with pytest.raises(TimeoutError):
        next(pool.map([1, 2, 3], timeout=0))
    assert [one.cancelled() for one in dispatcher.futures] == [True, True, True]


def test_a_ctrl_c_while_a_with_block_waits_ends_the_running_tasks(pool: Any, dispatcher: NeverDone) -> None:
    with pytest.raises(KeyboardInterrupt), pool:
        pool.submit(1)
    assert dispatcher.closed == [False, True]


def test_a_forked_process_does_not_wait_for_the_pools_of_its_parent() -> None:
    with ThreadPoolExecutor(1) as executor, hkrunner.Pool(len, executor=executor) as pool:
        assert pool._dispatcher in pools._live
        pid = os.fork()
        if pid == 0:
            os._exit(len(pools._live))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
