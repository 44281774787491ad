"""Fixtures of several unit tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hkrunner.boards.runs.store import Store
from support.child_process import ChildProcess, StartChild
from support.fake_serving import FakeServing, Serve
from support.fake_warden import SPAWNED, FakeWarden, StartWarden


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Makes a supervisor that serves a recording link with children of the test's; the arguments are those of
    FakeServing."""
    made: list[FakeServing] = []

    def make(**more: Any) -> FakeServing:
        made.append(FakeServing(monkeypatch, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def start_child(tmp_path: Path) -> Iterator[StartChild]:
    """Start the child's process; it ends with the test."""
    made: list[ChildProcess] = []

    def start(code: str, **setup: Any) -> ChildProcess:
        made.append(ChildProcess(code, tmp_path, setup=setup))
        return made[-1]

    yield start
    for one in made:
        one.__exit__(None, None, None)


@pytest.fixture
def serving_child(start_child: StartChild) -> StartChild:
    """Start the child's process and wait until its code is loaded."""

    def start(code: str, **setup: Any) -> ChildProcess:
        child = start_child(code, **setup)
        child.loaded()
        return child

    return start


@pytest.fixture
def start_warden(monkeypatch: pytest.MonkeyPatch) -> Iterator[StartWarden]:
    """Start a child of a warden that the test plays."""
    made: list[FakeWarden] = []

    def start(**more: Any) -> FakeWarden:
        made.append(FakeWarden(monkeypatch, **more))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture
def started(start_warden: StartWarden) -> FakeWarden:
    """A child that runs, and has read its Setup."""
    warden = start_warden()
    warden.say(SPAWNED)
    warden.turn()
    warden.got(warden.tasks)
    return warden


@pytest.fixture
def state_root(tmp_path: Path) -> Path:
    """The state folder, which does not exist yet."""
    return tmp_path / "state"


@pytest.fixture
def store(state_root: Path) -> Iterator[Store]:
    """The store of records in `state_root`."""
    with_slot = Store(state_root)
    yield with_slot
    with_slot.close()
