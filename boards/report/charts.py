"""Curves as SVG: drawn here, since a plotting library would put megabytes of scripts into each report.

Plotly's is 4.5 MB and needs a script to run; matplotlib is a dependency of 60 MB, and its picture has the
colors of one theme. An SVG of a few hundred points follows the reader's theme, and prints.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .escaping import text as escaped

WIDTH, HEIGHT = 480, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 10, 12, 30
#: Columns of points: each shows the lowest and the highest value of its steps.
_COLUMNS = 200
#: Classes of colors and of dashes in page.py: the 25th line looks like the first one.
COLORS, DASHES = 8, 3
#: From this ratio of the highest to the lowest value on, the axis is logarithmic.
_LOG_FROM = 1000.0
#: Numbers below this are taken for 0: dividing them loses their digits.
_LEAST = 1e-290

Points = Sequence[tuple[float, float]]


class ChartLine(NamedTuple):
    """One line of a chart; `number` decides its color, and is that of its task."""

    name: str
    number: int
    points: Points


def line_class(number: int) -> str:
    """Return the classes of the line of the task with this number."""
    return f"c{number % COLORS} d{number // COLORS % DASHES}"


class Axis:
    """Maps values to places, and knows where its labels are."""

    def __init__(self, low: float, high: float, begin: float, end: float, *, is_log: bool = False) -> None:
        self.is_log = is_log
        self._low, self._high = (math.log10(low), math.log10(high)) if is_log else (low, high)
        largest = max(abs(self._low), abs(self._high))
        if self._high / 2 - self._low / 2 < max(largest * 1e-12, _LEAST):
            pad = largest * 0.05 if largest > _LEAST else 0.5
            self._low = max(self._low - pad, -sys.float_info.max)
            self._high = min(self._high + pad, sys.float_info.max)
        self._begin, self._end = begin, end

    def place(self, value: float) -> float:
        """Return the coordinate of a value."""
        value = math.log10(value) if self.is_log else value
        # Halves, because the difference of two large numbers may be infinite.
        part = (value / 2 - self._low / 2) / (self._high / 2 - self._low / 2)
        return round(self._begin + part * (self._end - self._begin), 1)

    def ticks(self, count: int) -> Iterator[tuple[float, str]]:
        """Yield places and labels, about this many."""
        if self.is_log:
            first, last = math.ceil(self._low), math.floor(self._high)
            values = [10.0**power for power in range(first, last + 1, max(1, (last - first) // count))]
        else:
            step = _round_step(self._high / count - self._low / count)
            first = math.ceil(self._low / step)
            values = [number * step for number in range(first, first + 2 * count + 2)]
            most = self._high + step * 1e-9
            values = [value for value in values if value <= most and math.isfinite(value)]
        for value in values:
            yield self.place(value), f"{value:.6g}"


def _round_step(step: float) -> float:
    """Return 1, 2 or 5 times a power of ten, at least this."""
    power = 10.0 ** math.floor(math.log10(step))
    return next((factor * power for factor in (1, 2, 5) if factor * power >= step), 10 * power)


def chart(
    title: str,
    lines: Sequence[ChartLine],
    *,
    limit: float | None = None,
    x_label: str = "step",
    from_zero: bool = False,
) -> str:
    """Return the chart as an SVG element; a text instead where no value is a finite number.

    limit: drawn as a line across the chart. from_zero: 0 is on the axis, so that small changes look small.
    """
    finite = [[point for point in line.points if all(map(math.isfinite, point))] for line in lines]
    values = [y for points in finite for _, y in points] + ([] if limit is None else [limit])
    values += [0.0] if from_zero else []
    steps = [x for points in finite for x, _ in points]
    if not steps:
        return "<p>no value is a finite number</p>"
    is_log = min(values) > 0 and max(values) / min(values) >= _LOG_FROM
    across = Axis(min(steps), max(steps), _LEFT, WIDTH - _RIGHT)
    up = Axis(min(values), max(values), HEIGHT - _BOTTOM, _TOP, is_log=is_log)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escaped(title)}">']
    for y, label in up.ticks(5):
        parts.append(f'<path class="grid" d="M{_LEFT} {y}H{WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="y" x="{_LEFT - 6}" y="{y + 3.5:g}">{label}</text>')
    for x, label in across.ticks(5):
        parts.append(f'<text class="x" x="{x}" y="{HEIGHT - _BOTTOM + 14}">{label}</text>')
    axis = f"{x_label} · logarithmic" if is_log else x_label
    parts.append(f'<text class="axis" x="{WIDTH - _RIGHT}" y="{HEIGHT - 3}">{escaped(axis)}</text>')
    if limit is not None:
        y = up.place(limit)
        parts.append(f'<path class="limit" d="M{_LEFT} {y}H{WIDTH - _RIGHT}"><title>limit</title></path>')
    for line in lines:
        parts.append(_drawn(line, across, up))
    return "".join([*parts, "</svg>"])


def _drawn(line: ChartLine, across: Axis, up: Axis) -> str:
    """Return a line with its gaps, where values are no finite numbers; a dot for a single point."""
    title = f"<title>{escaped(line.name)}</title>"
    path, dots = [], []
    for part in _parts(line.points):
        places = [f"{across.place(x):g} {up.place(y):g}" for x, y in _thinned(part)]
        if len(places) == 1:
            x, y = places[0].split(" ")
            dots.append(
                f'<circle class="{line_class(line.number)}" cx="{x}" cy="{y}" r="2.5">{title}</circle>'
            )
        else:
            path.append(f"M{'L'.join(places)}")
    drawn = f'<path class="line {line_class(line.number)}" d="{"".join(path)}">{title}</path>' if path else ""
    return drawn + "".join(dots)


def _parts(points: Points) -> Iterator[list[tuple[float, float]]]:
    """Yield the points between those that are no finite numbers."""
    part: list[tuple[float, float]] = []
    for point in points:
        if all(map(math.isfinite, point)):
            part.append(point)
        elif part:
            yield part
            part = []
    if part:
        yield part


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points, of very many the lowest and highest of each column."""
    if len(points) <= 2 * _COLUMNS:
        return points
    size = -(-len(points) // _COLUMNS)
    found = points[:1]
    for at in range(0, len(points), size):
        column = points[at : at + size]
        low, high = min(column, key=lambda one: one[1]), max(column, key=lambda one: one[1])
        found += sorted({low, high})
    return [*found, points[-1]]
