"""Every test starts from a known state, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import tempfile
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import settings
from support import programs
from support.leftovers import left_processes, leftovers, take_stock
from support.processes import MARKER, kill_all, reap
from support.waiting import wait_until

# How long the processes, threads and files that a test has closed may take to disappear on a busy machine.
SETTLE_S = 10.0
#: A test beside this one may leave shared memory that its own hkrunner removes later.
OTHERS_S = 30.0

# No deadline for one example of hypothesis: its time varies on a shared machine. pytest-timeout limits tests.
settings.register_profile("hkrunner", deadline=None)
# On the other Pythons: what differs between two Pythons is rarely a matter of one value in a hundred.
settings.register_profile("fewer", deadline=None, max_examples=20)
settings.load_profile("hkrunner")

# A shell ignores SIGINT in background commands, and the programs that the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# So does nohup with SIGHUP. What is handled here is not ignored there.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)


def may_be_of_others(left: list[str]) -> bool:
    return bool(left) and all(line.startswith("shared memory ") for line in left)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse test names that differ between processes: pytest-xdist identifies tests by their names."""
    for item in items:
        if re.search(r" at 0x[0-9a-f]+", item.name):
            raise pytest.UsageError(f"the name of a case holds an address: give ids for {item.nodeid}")


@pytest.fixture(scope="session", autouse=True)
def own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give this run its own temporary folder, so that files of another run in /tmp do not matter."""
    folder = tmp_path_factory.mktemp("tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", None)
        yield


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Fail a test that leaves a process, thread, descriptor, shared memory, file or control group."""
    marker = uuid.uuid4().hex
    before = take_stock()
    os.environ[MARKER] = marker
    yield
    os.environ.pop(MARKER, None)
    left = [f"{line} was not stopped" for line in programs.kill_started()]
    try:
        wait_until(lambda: not leftovers(before, marker), deadline_s=SETTLE_S, what="a clean end")
    except AssertionError:
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not may_be_of_others(leftovers(before, marker)), deadline_s=OTHERS_S, what="-")
        left += leftovers(before, marker)
        processes = left_processes(before, take_stock(), marker)
        kill_all(processes)
        for process in processes:
            reap(process)
    if left:
        pytest.fail("the test left something behind:\n" + "\n".join(left), pytrace=False)
