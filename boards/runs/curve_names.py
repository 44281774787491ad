"""Names of curves that are the same in each task: without the folders that programs name by the time."""

from __future__ import annotations

import re

#: torch's add_hparams(): 1796000000.1234567. torch's SummaryWriter(): Nov30_03-44-01_host. Keras' examples
#: and many others: 20261130-034401, 2026-11-30_03-44-01, 2026-11-30T03:44:01.123.
_TIME = re.compile(
    r"\d{10}\.\d+"
    r"|[A-Z][a-z]{2}\d{2}_\d{2}-\d{2}-\d{2}(?:_.*)?"
    r"|\d{4}([-_.]?)\d{2}\1\d{2}[-_T. ]*\d{2}([-_:.h]?)\d{2}(?:[-_:.m]?\d{2}s?)?(?:[.,_-]\d+)?",
    re.ASCII,
)


def curve_name(run: str, tag: str) -> str:
    """Return the name of the curve that a folder below the task's own has; `run`: "." for the task's own."""
    return "/".join([*(part for part in run.split("/") if part != "." and not _TIME.fullmatch(part)), tag])
