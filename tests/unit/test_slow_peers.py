"""Whatever is slow, dies or is stopped at whichever moment: each task has one answer, and its own."""

from __future__ import annotations

from typing import Any

import pytest
from hkrunner.sandbox.shared.limits import MI, Limits
from support.slow_peers import Walk

WALKS = 10
SERVING: list[dict[str, Any]] = [
    {},
    {"spare": True},
    {"recycle_after": 2, "end_children": True},
    {"limits": Limits(memory_bytes=64 * MI, task_timeout_s=3.0)},
]


@pytest.mark.parametrize("serving", SERVING, ids=lambda one: "-".join(one) or "usual")
@pytest.mark.parametrize("one_core", [False, True], ids=["cores", "core"])
@pytest.mark.parametrize("methods", [("start",), ("init", "start")], ids="-".join)
def test_each_task_has_one_answer_and_each_crash_a_next_child_in_any_order_of_events(
    methods: tuple[str, ...], one_core: bool, serving: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(WALKS):
        walk = Walk(monkeypatch, seed, methods, one_core, serving)
        try:
            walk.run(40)
        except AssertionError as error:
            raise AssertionError(f"{error}; seed {seed}: {', '.join(walk.steps)}") from None
        finally:
            walk.one.close()
