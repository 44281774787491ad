"""The records of a Pool's tasks hold inputs and results as far as --keep-values allows."""

from __future__ import annotations

from pathlib import Path

import pytest
from hkrunner.boards.runs.journal_values import VALUE_MAX
from hkrunner.runner.app.pool_names import PoolNames
from hkrunner.runner.app.pool_records import PoolRecords


@pytest.mark.parametrize(
    ("most", "size", "is_kept"),
    [
        (0, 10, False),
        (1000, 1001, False),
        (1000, 1000, True),
        (None, VALUE_MAX, True),
        (None, VALUE_MAX + 1, False),
        (2 * VALUE_MAX, VALUE_MAX + 1, False),
    ],
)
def test_an_input_is_recorded_up_to_the_size_that_was_asked_for(
    tmp_path: Path, most: int | None, size: int, is_kept: bool
) -> None:
    options = {"folder": str(tmp_path / "runs"), "entry": "a.py", "settings": {}, "keep": None}
    records = PoolRecords({**options, "valuesBytes": most}, PoolNames.of("a"), "msgpack")
    assert records.begin(1, [b"x" * (size - 6), b"secret"]) > 0
    records.close()
    written = [one.read_bytes() for one in tmp_path.rglob("*") if one.is_file()]
    assert written and any(b"xsecret" in one for one in written) is is_kept
