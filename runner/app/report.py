"""Reports of recorded tasks: the page of `hkrunner report`, and what a notebook shows of hkrunner.run()."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...boards.errors import BoardError
from ...boards.report.page import document, fragment
from ...boards.report.reported_task import ReportedTask, reported_tasks


def report_page(root: Path, names: Sequence[str]) -> str:
    """Return a page about these tasks. Raises NotFound, and StoreError for a bad record."""
    return document(reported_tasks(root, names), made_s=time.time())


def html_of(
    folders: Sequence[Path | None], results: Sequence[Mapping[str, Any]], *, left_out: int = 0
) -> str:
    """Return tasks as an element for a notebook, with all that their records have.

    folders: of the records. results: for each task what is known without its record, as a ReportedTask has
    it; it is shown where a record is gone, or was never written. left_out: how many results
    before these are not shown.
    """
    tasks = _recorded(folders) or [ReportedTask(**one) for one in results]
    note = (
        f"The first {left_out:,} results are left out: results[:100] shows some of them." if left_out else ""
    )
    return fragment(tasks, note)


def _recorded(folders: Sequence[Path | None]) -> list[ReportedTask]:
    """Return the tasks from their records; none if one of them is missing."""
    there = [one for one in folders if one is not None]
    roots = {folder.parent.parent for folder in there}
    if len(there) != len(folders) or len(roots) != 1:
        return []
    try:
        return reported_tasks(roots.pop(), [folder.name for folder in there])
    except (BoardError, OSError):
        return []
