"""The fixture `run_algorithm` of pytest, where both are installed in one environment.

def test_it_fits(run_algorithm):
    result = run_algorithm("my_alg.py", [1, 2, 3], mem="256Mi", timeout=10)
    assert result.output == 6

pytest imports this at its start: what runs an algorithm is imported when a test asks for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .python_api.keywords import RunOptions
    from .python_api.results import TaskResult


class RunAlgorithm(Protocol):
    """The type of the fixture `run_algorithm`."""

    def __call__(self, entry: str | Path, input: Any = (), **options: Unpack[RunOptions]) -> TaskResult:
        """Run one task as hkrunner.run() does, and return its result."""


@pytest.fixture
def run_algorithm(request: pytest.FixtureRequest, tmp_path: Path) -> RunAlgorithm:
    """Run an algorithm under limits: run_algorithm(entry, input, mem="256Mi", timeout=10) -> TaskResult.

    `entry` is looked for beside the test's file, then in the working folder. The options are those of
    hkrunner.run(); the records are kept below the test's tmp_path. What the algorithm prints is in the
    test's captured stderr.
    """
    from .python_api.run import run

    def run_one(entry: str | Path, input: Any = (), **options: Unpack[RunOptions]) -> TaskResult:
        __tracebackhide__ = True
        beside = request.path.parent / entry
        if "path" not in options and beside.exists():
            entry = beside
        given: RunOptions = {"state_dir": tmp_path / ".hkrunner", **options}
        (result,) = run(entry, [input], **given)
        return result

    return run_one
