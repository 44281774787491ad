"""Turn the values of each round into a table, ratios and bars."""

from __future__ import annotations

import functools
import json
import os
import platform
import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import noise

Figure = str
REFERENCE = "wrapper"


@dataclass(frozen=True)
class Bar:
    """A target: the figure, absolute or as a ratio to the reference, is compared with `limit`.

    `stretch` is a harder target. For a bar that is `always`, the worst round counts instead of the median.
    """

    figure: Figure
    limit: float
    is_ratio: bool
    at_least: bool = False
    stretch: float | None = None
    always: bool = False

    def text(self, reference: str) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{self.figure} {sign} {self.limit:g}{f' of {reference}' if self.is_ratio else ''}"


class Report:
    """Figures by peer, with one value per round."""

    def __init__(self, title: str, *, reference: str = REFERENCE) -> None:
        """`reference`: the peer that the others are compared with."""
        self.reference = reference
        self.title = title
        self.before = noise.measure()
        self._values: dict[Figure, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self._units: dict[Figure, str] = {}
        self.notes: list[str] = []

    def add(self, figure: Figure, unit: str, peer: str, value: float) -> None:
        """Add the value of one round."""
        self._units[figure] = unit
        self._values[figure][peer].append(value)

    def values(self, figure: Figure, peer: str) -> list[float]:
        return self._values.get(figure, {}).get(peer, [])

    def ratios(self, figure: Figure, peer: str) -> list[float]:
        """Return the ratios of the peer to the reference in each round, in which both had the same noise."""
        pairs = zip(self.values(figure, peer), self.values(figure, self.reference), strict=False)
        return [mine / other for mine, other in pairs if other]

    def check(self, bar: Bar, peer: str) -> dict[str, Any]:
        """Return whether the bar holds; None if it was not measured."""
        values = (self.ratios if bar.is_ratio else self.values)(bar.figure, peer)
        seen = statistics.median(values) if values else None
        if bar.always and values:
            seen = min(values) if bar.at_least else max(values)
        return {
            "bar": bar.text(self.reference),
            "peer": peer,
            "seen": seen,
            "holds": _reaches(seen, bar.limit, bar.at_least),
            "stretch": None if bar.stretch is None else _reaches(seen, bar.stretch, bar.at_least),
        }

    @functools.cached_property
    def after(self) -> noise.Noise:
        """The machine at the end of the run, when this is first asked for."""
        return noise.measure()

    def facts(self, bars: list[Bar], *peers: str) -> dict[str, Any]:
        """Return the whole report, for --json; each bar is checked for each of these peers."""
        return {
            "title": self.title,
            "machine": machine(),
            "before": self.before._asdict(),
            "after": self.after._asdict(),
            "notes": self.notes,
            "figures": [
                {
                    "figure": figure,
                    "unit": self._units[figure],
                    "peers": {
                        name: {
                            **summary(values),
                            "rounds": values,
                            "ratio": summary(self.ratios(figure, name)),
                        }
                        for name, values in peers.items()
                    },
                }
                for figure, peers in self._values.items()
            ],
            "bars": [self.check(bar, peer) for bar in bars for peer in peers],
        }

    def text(self, bars: list[Bar], *peers: str) -> str:
        """Return the table: median (min..max), and the ratio to the reference."""
        # Peers in the order in which they were added, the reference last.
        names = list(dict.fromkeys(name for peers in self._values.values() for name in peers))
        names.sort(key=lambda name: name == self.reference)
        rows = [
            ["", *(cell for name in names for cell in ((name,) if name == self.reference else (name, "")))]
        ]
        for figure in self._values:
            row = [f"{figure} {self._units[figure]}".rstrip()]
            for name in names:
                row.append(_cell(self.values(figure, name)))
                if name != self.reference:
                    told = summary(self.ratios(figure, name))
                    row.append(f"{_short(told['median'])}x" if told else "")
            rows.append(row)
        lines = [self.title, f"({machine()})", f"before: {self.before.text()}", f"after: {self.after.text()}"]
        lines += ["", *_aligned(rows), ""]
        for bar in bars:
            for peer in peers:
                told = self.check(bar, peer)
                if told["seen"] is None and peer != peers[0]:
                    continue
                word = {True: "ok", False: "MISSED", None: "not measured"}[told["holds"]]
                seen = "" if told["seen"] is None else f": {told['seen']:.3g}"
                who = "" if len(peers) == 1 else f" [{peer}]"
                more = f", and the stretch of {bar.stretch:g} too" if told["stretch"] else ""
                lines.append(f"{word:>13}  {told['bar']}{who}{seen}{more}")
        return "\n".join([*lines, *self.notes])


def interleaved(rounds: int, peers: list[Any], measure: Callable[[Any], None]) -> None:
    """Measure all peers in each round, in reversed order every other round."""
    for number in range(rounds):
        for peer in peers if number % 2 == 0 else peers[::-1]:
            measure(peer)


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def summary(values: list[float]) -> dict[str, float] | None:
    """Return median, min and max."""
    if not values:
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _reaches(seen: float | None, limit: float, at_least: bool) -> bool | None:
    return None if seen is None else (seen >= limit if at_least else seen <= limit)


def machine() -> str:
    return f"{os.cpu_count()} CPUs, Python {platform.python_version()}"


def _cell(values: list[float]) -> str:
    told = summary(values)
    if told is None:
        return ""
    spread = f" ({_short(told['min'])}..{_short(told['max'])})" if len(values) > 1 else ""
    return f"{_short(told['median'])}{spread}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def to_json(facts: dict[str, Any]) -> str:
    return json.dumps(facts, indent=1)
