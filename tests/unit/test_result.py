"""What came out of a task, in its forms."""

from __future__ import annotations

import pytest
from hkrunner.boards.runs.files import to_json
from hkrunner.runner.protocol.result import Result, brief_outcome


@pytest.mark.parametrize("not_kept", [None, {"input": 300_000, "output": 10**9}])
@pytest.mark.parametrize(
    ("peak", "limit", "cpu_s"), [(0, None, 0.0), (10_000_000, 2**40, 0.12345678), (1, None, 1e-9)]
)
def test_the_brief_outcome_has_what_the_outcome_of_such_a_task_has(
    peak: int, limit: int | None, cpu_s: float, not_kept: dict[str, int] | None
) -> None:
    names = ("task", "job", "node", "pipeline")
    times = (1_700_000_000.1234, 1_700_000_001.9876, 0.00012345678)
    result = Result(*names, "succeed", *times, peak_bytes=peak or None, limit_bytes=limit, cpu_s=cpu_s)
    facts = result.outcome(with_protection=False)
    del facts["metricsDir"]
    if not_kept is not None:
        facts["notKept"] = not_kept
    assert brief_outcome(*times, peak, limit, cpu_s, not_kept) == to_json(facts)
