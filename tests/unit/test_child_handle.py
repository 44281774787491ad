"""The parent's handle on a child, with a warden and a child that do what the test says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hkrunner.sandbox.shared.messages import PROTOCOL_VERSION, Initialized, Loaded
from support.fake_warden import PID, SPAWNED, FakeWarden

Make = Callable[..., FakeWarden]
LOADED = Loaded(PROTOCOL_VERSION, ["start"], "3.12.1", {})


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    made: list[FakeWarden] = []

    def warden(**more: Any) -> FakeWarden:
        made.append(FakeWarden(monkeypatch, **more))
        return made[-1]

    yield warden
    for one in made:
        one.close()


def test_nothing_of_a_child_is_acted_on_before_spawned_was_read(make: Make) -> None:
    warden = make()
    warden.answer(0, LOADED)
    warden.answer(1, Initialized())
    warden.print("stdout", b"loading\n")
    warden.turn()
    assert not warden.seen.messages and not warden.seen.output and not warden.child.loaded
    warden.say(SPAWNED)
    warden.turn()
    assert [message for _, message in warden.seen.messages] == [LOADED, Initialized()]
    assert warden.seen.pid_at_first == warden.child.pid == PID
    assert warden.child.protection == SPAWNED.protection
    assert warden.seen.output == {"stdout": b"loading\n"}


def test_a_child_that_may_not_be_listened_to_yet_is_not_when_spawned_comes(make: Make) -> None:
    """The worker takes nothing for now: what an earlier child said has filled its socket."""
    warden = make()
    warden.child.listen(False)
    warden.say(SPAWNED)
    warden.answer(0, LOADED)
    warden.turn()
    assert not warden.seen.messages
    warden.child.listen(True)
    warden.turn()
    assert warden.seen.messages == [(0, LOADED)]


def test_what_a_child_said_before_its_warden_was_lost_is_not_acted_on_without_spawned(make: Make) -> None:
    warden = make()
    warden.answer(0, LOADED)
    warden.child._warden_lost("it ended unexpectedly")
    while not warden.seen.exits:
        warden.after(0.01)
    assert not warden.seen.messages and not warden.seen.exits[0].loaded
