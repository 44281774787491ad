"""hkrunner.Pool(executor=…): the tasks of any executor run under limits, where it runs them."""

from __future__ import annotations

import json
import os
import pickle
import sys
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hkrunner
import psutil
import pytest
from hkrunner.runner.errors import SettingsError
from hkrunner.runner.python_api import pool_node
from support.local import ALGORITHMS
from support.programs import run
from support.waiting import wait_until

MIB = 1 << 20


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_task_has_its_limits_where_an_executor_runs_it(tmp_path: Path) -> None:
    # A fork of this process would have the locks of its threads.
    ended = run([sys.executable, ALGORITHMS / "pool_on_processes.py"], cwd=tmp_path)
    limit = 256 * MIB
    assert json.loads(ended.stdout) == [
        ["done", 0],
        ["Crashed", limit],
        ["MemoryLimit", limit],
        ["Timeout", limit],
        ["done", 2 * MIB],
    ]


def test_a_pool_with_an_executor_runs_what_other_pools_run(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    with ThreadPoolExecutor(1) as executor:
        # A relative path, which names the same file for a process in another folder.
        file = os.path.relpath(ALGORITHMS / "pool_misbehaves.py")
        with hkrunner.Pool(file, executor=executor, env={"BEGUN": str(begun)}) as pool:
            assert pool.submit(["a", "b"]).result()[0] == "a"
            error = pool.submit("raises").exception()
            assert isinstance(error, hkrunner.TaskFailed) and error.result.reason == "AlgorithmError"
            # As concurrent.futures and Dask send it on.
            assert pickle.loads(pickle.dumps(error)).result == error.result
        with hkrunner.Pool(executor=executor) as pool:
            assert list(pool.map(lambda one: one + 1, [1, 2])) == [2, 3]
            assert pool.submit(os.getpid).result() != os.getpid()
            not_sent = pool.submit(str, threading.Lock())
            assert not not_sent.cancel()
            with pytest.raises(TypeError, match="pickle"):
                not_sent.result()
    assert begun.read_text() == "a\nraises\n"
    assert not (tmp_path / ".hkrunner").exists()


def test_tasks_that_an_executor_has_not_begun_can_be_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    until = tmp_path / "until"

    def wait(path: str) -> str:
        while not os.path.exists(path):
            time.sleep(0.01)
        return "done"

    monkeypatch.setattr(pool_node, "IDLE_S", 0.1)
    before = psutil.Process().children()
    with ThreadPoolExecutor(1) as executor:
        pool = hkrunner.Pool(wait, executor=executor)
        running, waiting, last = (pool.submit(str(until)) for _ in range(3))
        wait_until(lambda: psutil.Process().children() != before, what="the worker of the first task")
        assert waiting.cancel() and not running.cancel()
        pool.shutdown(wait=False, cancel_futures=True)
        assert last.cancelled()
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool.submit(str(until))
        until.touch()
        assert running.result(timeout=30) == "done"
        wait_until(lambda: psutil.Process().children() == before, what="the end of the idle worker")


def test_a_shutdown_while_a_task_is_given_to_the_executor_cancels_it() -> None:
    class Slow(Executor):
        def submit(self, *_: Any, **__: Any) -> Future[Any]:
            pool.shutdown(wait=False, cancel_futures=True)
            return inner

    class Full(Executor):
        def submit(self, *_: Any, **__: Any) -> Future[Any]:
            raise RuntimeError("full")

    inner: Future[Any] = Future()
    pool = hkrunner.Pool(len, executor=Slow())
    assert pool.submit("a").cancelled() and inner.cancelled()
    with hkrunner.Pool(len, executor=Full()) as pool, pytest.raises(RuntimeError, match="full"):
        pool.submit("a")


def test_what_a_pool_with_an_executor_cannot_have_is_told() -> None:
    with ThreadPoolExecutor(1) as executor:
        for options, sentence in (
            ({"workers": 2}, "workers is for a Pool with workers of its own"),
            ({"records": True}, "the tasks of a Pool with an executor have no records"),
            (
                {"total_mem": "1Gi"},
                "total_mem is for a Pool with workers of its own; with an executor use mem",
            ),
        ):
            with pytest.raises(SettingsError, match=sentence):
                hkrunner.Pool(len, executor=executor, **options)  # type: ignore[arg-type]
        with hkrunner.Pool(len, executor=executor, mem="much") as pool:
            error = pool.submit("a").exception()
    assert isinstance(error, SettingsError) and "much" in str(error)
