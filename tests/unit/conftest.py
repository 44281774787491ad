"""What several unit tests arrange."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.fake_serving import FakeServing, Serve


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
