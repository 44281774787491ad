"""What came out of a task, in its forms."""

from __future__ import annotations

import pytest
from hkrunner.boards.runs.files import to_json
from hkrunner.runner.protocol.result import Result


@pytest.mark.parametrize(
    ("peak", "limit", "cpu_s"), [(None, None, None), (10_000_000, 2**40, 0.12345678), (1, None, 0.0)]
)
def test_the_brief_outcome_has_what_the_outcome_of_such_a_task_has(
    peak: int | None, limit: int | None, cpu_s: float | None
) -> None:
    result = Result(
        "task",
        "job",
        "node",
        "pipeline",
        "succeed",
        1_700_000_000.1234,
        1_700_000_001.9876,
        0.00012345678,
        peak_bytes=peak,
        limit_bytes=limit,
        cpu_s=cpu_s,
    )
    facts = result.outcome(with_protection=False)
    del facts["metricsDir"]
    assert result.brief_outcome() == to_json(facts)
