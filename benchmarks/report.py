"""From values a round to a table, ratios and bars."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Figure = str
REFERENCE = "wrapper"


@dataclass(frozen=True)
class Bar:
    """What has to hold: `value` of the figure, absolute or as a ratio to the reference, against `limit`."""

    figure: Figure
    limit: float
    is_ratio: bool
    at_least: bool = False

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{self.figure} {sign} {self.limit:g}{f' of {REFERENCE}' if self.is_ratio else ''}"


class Report:
    """Figures by peer, one value a round."""

    def __init__(self, title: str) -> None:
        self.title = title
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
        """The peer against the reference, round by round: both had the same noise."""
        pairs = zip(self.values(figure, peer), self.values(figure, REFERENCE), strict=False)
        return [mine / other for mine, other in pairs if other]

    def check(self, bar: Bar, peer: str) -> dict[str, Any]:
        """Return whether the bar holds; None when there is nothing to say so from."""
        values = (self.ratios if bar.is_ratio else self.values)(bar.figure, peer)
        seen = statistics.median(values) if values else None
        holds = None if seen is None else (seen >= bar.limit if bar.at_least else seen <= bar.limit)
        return {"bar": str(bar), "peer": peer, "seen": seen, "holds": holds}

    def facts(self, bars: list[Bar], peer: str) -> dict[str, Any]:
        """All of it, for --json."""
        return {
            "title": self.title,
            "machine": machine(),
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
            "bars": [self.check(bar, peer) for bar in bars],
        }

    def text(self, bars: list[Bar], peer: str) -> str:
        """The table: median (min..max), and the ratio to the reference."""
        names = sorted(
            {name for peers in self._values.values() for name in peers}, key=lambda n: n == REFERENCE
        )
        rows = [["", *[cell for name in names for cell in _heads(name)]]]
        for figure in self._values:
            row = [f"{figure} {self._units[figure]}"]
            for name in names:
                row.append(_cell(self.values(figure, name)))
                if name != REFERENCE:
                    row.append(_cell(self.ratios(figure, name), "x") if name != REFERENCE else "")
            rows.append(row)
        lines = [self.title, f"({machine()})", "", *_aligned(rows), ""]
        for bar in bars:
            told = self.check(bar, peer)
            word = {True: "holds", False: "DOES NOT HOLD", None: "not measured"}[told["holds"]]
            seen = "" if told["seen"] is None else f": {told['seen']:.3g}"
            lines.append(f"{word:>13}  {bar}{seen}")
        return "\n".join([*lines, *self.notes])


def interleaved(rounds: int, peers: list[Any], measure: Callable[[Any], None]) -> None:
    """Measure A B A B ..., in reversed order each other round."""
    for number in range(rounds):
        for peer in peers if number % 2 == 0 else peers[::-1]:
            measure(peer)


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def summary(values: list[float]) -> dict[str, float] | None:
    """Median, min and max."""
    if not values:
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def machine() -> str:
    return f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"


def _heads(name: str) -> list[str]:
    return [name] if name == REFERENCE else [name, f"to {REFERENCE}"]


def _cell(values: list[float], suffix: str = "") -> str:
    told = summary(values)
    if told is None:
        return ""
    return f"{_short(told['median'])}{suffix} ({_short(told['min'])}..{_short(told['max'])})"


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
