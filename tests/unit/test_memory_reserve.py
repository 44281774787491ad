"""The reserve for the answer to a MemoryError is released without memory, and comes back."""

from __future__ import annotations

import gc
import subprocess
import sys
from weakref import ref

import pytest
from hkrunner.sandbox.child import memory_reserve
from hkrunner.sandbox.child.memory_reserve import MemoryReserve


class Circle:
    def __init__(self) -> None:
        self.itself = self


def without_memory(_error: BaseException) -> object:
    raise MemoryError


@pytest.mark.parametrize("error", [MemoryError(), SystemError()])
def test_it_is_released_although_the_question_finds_no_memory(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_reserve, "_context_of", without_memory)
    monkeypatch.setattr(memory_reserve, "_raise_brake", lambda _more: False)
    reserve = MemoryReserve()
    reserve.release_after(error)
    assert not reserve._reserved
    reserve.restore()
    assert reserve._reserved


def test_circles_that_the_error_has_held_are_freed_before_the_next_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory_reserve, "_raise_brake", lambda _more: False)
    reserve = MemoryReserve()
    gc.disable()
    try:
        held = ref(Circle())
        reserve.restore()
        assert held() is not None, "only after a MemoryError"
        reserve.release_after(MemoryError())
        reserve.restore()
        assert held() is None
    finally:
        gc.enable()


#: The server of a Manager whose thread for connections has no memory twice for a thread that serves one.
MANAGER = """
import threading
from multiprocessing.managers import SyncManager
from hkrunner.sandbox.child.memory_reserve import MemoryReserve, report_threads_without_memory
report_threads_without_memory(MemoryReserve(), lambda name, error: None)
start, errors = threading.Thread.start, [MemoryError(), RuntimeError("can't start new thread")]
def start_later(thread):
    if errors:
        raise errors.pop()
    start(thread)
server = SyncManager(authkey=b"key").get_server()
server.stop_event = threading.Event()
threading.Thread(target=server.accepter, daemon=True).start()
threading.Thread.start = start_later
manager = SyncManager(server.address, b"key")
manager.connect()
shared = manager.list([1])
shared.append(2)
print(shared[:], errors)
"""


def test_a_manager_without_memory_for_a_connection_serves_it_later() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", MANAGER], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "[1, 2] []\n"
