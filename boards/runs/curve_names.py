"""Names of curves that are the same in each task, whatever a program calls the folder of a run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence

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


def common_names(tasks: Sequence[Collection[str]]) -> list[dict[str, str]]:
    """Return for each task, of which the names of the curves are given, names that can be compared.

    A folder that one task alone has, such as run-0.2, is left out where a curve of another task gets the same
    name by that.
    """
    parts = (part for names in tasks for part in {part for one in names for part in _folders(one)})
    tasks_with = Counter(parts)

    def short(name: str) -> str:
        kept = [part for part in _folders(name) if tasks_with[part] > 1]
        return "/".join([*kept, name.rpartition("/")[2]])

    renamed = []
    for names in tasks:
        new = {name: short(name) for name in names}
        times = Counter(new.values())
        renamed.append({name: one for name, one in new.items() if one != name and times[one] == 1})
    shared = Counter(one for new in renamed for one in new.values())
    return [
        {name: new[name] if shared[new.get(name, "")] > 1 else name for name in names}
        for names, new in zip(tasks, renamed, strict=True)
    ]


def _folders(name: str) -> list[str]:
    return name.split("/")[:-1]
