"""The report as HTML: one page without scripts, and without anything that is fetched.

A policy in the page forbids both, should a user's text ever be taken for HTML.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ..runs.curve_names import common_names, curve_name
from ..runs.event_files import Point
from ..runs.history import Curve
from ..runs.layout import RESOURCES
from ..runs.resource_series import LIMIT, MEMORY
from ..runs.task_values import Scalar, numbers, shown, shown_exactly
from .charts import ChartLine, chart, line_class
from .escaping import text
from .reported_task import ReportedTask
from .style import STYLE

#: Columns of inputs and of metrics in the table; all of them are in the tasks' own sections.
_COLUMNS = 6
#: Characters of a value in the table.
_CELL = 40
#: Columns that fit on paper without words being broken.
_PRINTED_COLUMNS = 11
#: Lines in one chart, charts, and tasks with a section of their own.
_LINES = 40
_CHARTS = 60
_SECTIONS = 200
_MARKS = {"succeed": "✔", "stopped": "■", "active": "▶"}
_MIB = 1 << 20
_NO_BREAK = "\u00a0"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def document(tasks: Sequence[ReportedTask], *, made_s: float) -> str:
    """Return the report as a page. made_s: when it was made, in seconds since the epoch."""
    count = "1 task" if len(tasks) == 1 else f"{len(tasks)} tasks"
    title = f"{count} of {', '.join(dict.fromkeys(task.entry for task in tasks if task.entry)) or 'hkrunner'}"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{text(title)}</title>\n<style>body {{ margin: 0; }}\n{STYLE}</style>\n</head>\n<body>\n"
        f'<div class="hkrunner-report page">\n<h1>{text(title)}</h1>\n'
        f"<p>Made by hkrunner on {_when(made_s)}.</p>\n{_content(tasks)}</div>\n</body>\n</html>\n"
    )


def fragment(tasks: Sequence[ReportedTask], note: str = "") -> str:
    """Return the report as an element, for a page of others: a notebook. note: what it says first."""
    said = f"<p>{text(note)}</p>\n" if note else ""
    return f'<div class="hkrunner-report">\n<style>{STYLE}</style>\n{said}{_content(tasks)}</div>\n'


def _content(tasks: Sequence[ReportedTask]) -> str:
    parts = [_table(tasks), _charts(tasks)]
    left_out = max(0, len(tasks) - _SECTIONS)
    if left_out:
        parts.append(f"<p>The first {left_out} tasks are in the table only.</p>\n")
    parts += [_section(number, task) for number, task in enumerate(tasks) if number >= left_out]
    return "".join(parts)


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(seconds)).strip()


# ---- the table


def _table(tasks: Sequence[ReportedTask]) -> str:
    inputs = _differing([task.inputs for task in tasks])
    # Names with a tilde are hkrunner's own, of values that have columns already.
    results = [
        {key: one for key, one in task.metrics.items() if key[:1] != "~"} or numbers(task.output)
        for task in tasks
    ]
    metrics = list(dict.fromkeys(key for one in results for key in one))[:_COLUMNS]
    extremes = _extremes(metrics, [one for task, one in zip(tasks, results, strict=True) if _is_good(task)])
    alike = _alike(inputs, [task.inputs for task in tasks])
    alike_metrics = _alike(metrics, results)
    compared = [shown(key, limit=24) for key in (*inputs, *metrics)]
    heads = ["run", "outcome", *compared, "duration", "peak memory", "CPU time", "started"]
    rows = "".join(
        f'<tr><th>{_sample(number)}{text(task.run)}</th><td class="whole">{_outcome(task)}</td>'
        + "".join(_cell(task.inputs.get(key), exactly=key in alike) for key in inputs)
        + "".join(
            _cell(
                result.get(key), extremes.get(key) if _is_good(task) else None, exactly=key in alike_metrics
            )
            for key in metrics
        )
        + "".join(f'<td class="number">{one}</td>' for one in _measured(task))
        + "</tr>\n"
        for number, (task, result) in enumerate(zip(tasks, results, strict=True))
    )
    cells = "".join(f"<th>{text(one)}</th>" for one in heads)
    kind = "wide many" if len(heads) > _PRINTED_COLUMNS else "wide"
    note = "<p>▲ highest and ▼ lowest of the tasks that succeeded</p>\n" if extremes else ""
    table = f"<table>\n<thead><tr>{cells}</tr></thead>\n<tbody>\n{rows}</tbody></table>"
    return f'<div class="{kind}">{table}</div>\n{note}'


def _extremes(keys: Iterable[str], results: Sequence[Mapping[str, Scalar]]) -> dict[str, tuple[float, float]]:
    """Return the lowest and the highest value of each metric in which the results differ."""
    found = {}
    for key in keys:
        values = [value for one in results if isinstance(value := one.get(key), (int, float))]
        known = [value for value in values if not math.isnan(value)]
        if known and min(known) < max(known):
            found[key] = (min(known), max(known))
    return found


def _alike(keys: Iterable[str], values: Sequence[Mapping[str, Scalar]]) -> set[str]:
    """Return the keys with values that differ, and that would be shown alike: 0.1 and 0.1000000001."""
    found = set()
    for key in keys:
        texts: dict[str, Scalar] = {}
        have = [one[key] for one in values if key in one]
        if any(texts.setdefault(shown(value, limit=_CELL), value) != value for value in have):
            found.add(key)
    return found


def _is_good(task: ReportedTask) -> bool:
    return task.status == "succeed"


def _differing(inputs: Sequence[Mapping[str, Scalar]]) -> list[str]:
    """Return the inputs that are not the same in all tasks; any inputs of a single task."""
    keys = dict.fromkeys(key for one in inputs for key in one)
    if len(inputs) > 1:
        keys = dict.fromkeys(key for key in keys if len({repr(one.get(key)) for one in inputs}) > 1)
    return list(keys)[:_COLUMNS]


def _outcome(task: ReportedTask) -> str:
    mark = _MARKS.get(task.status, "✘")
    reason = f" ({task.reason})" if task.reason else ""
    kind = "good" if task.status == "succeed" else "bad" if mark == "✘" else "other"
    return f'<span class="{kind}">{mark}</span> {text(task.status + reason)}'


def _measured(task: ReportedTask) -> Iterable[str]:
    yield "" if task.duration_s is None else f"{task.duration_s:.2f}{_NO_BREAK}s"
    yield "" if task.peak_bytes is None else _memory(task)
    yield "" if task.cpu_s is None else f"{task.cpu_s:.2f}{_NO_BREAK}s"
    if task.started_s is None:
        yield ""
    else:
        day, clock, *_ = _when(task.started_s).split()  # the zone is at the top
        yield f'<span class="whole">{day}</span> {clock}'


def _memory(task: ReportedTask) -> str:
    assert task.peak_bytes is not None, "it was measured"
    limit = "" if task.limit_bytes is None else f" of {task.limit_bytes / _MIB:,.0f}"
    return f"{task.peak_bytes / _MIB:,.1f}{limit} MiB"


def _cell(value: Scalar | None, extremes: tuple[float, float] | None = None, *, exactly: bool = False) -> str:
    """Return the cell of a value; one of the extremes has a sign. exactly: all digits, or a text's end."""
    if value is None:
        return "<td></td>"
    kind = "" if isinstance(value, (str, bool)) else ' class="number"'
    sign = ""
    if extremes is not None:
        sign = "▼ " if value == extremes[0] else "▲ " if value == extremes[1] else ""
    value_text = (shown_exactly if exactly else shown)(value, limit=_CELL)
    return f"<td{kind}>{sign}{text(value_text)}</td>"


def _sample(number: int) -> str:
    """Return the task's line in charts, as a legend shows it."""
    return (
        f'<svg class="sample" viewBox="0 0 20 8"><path class="line {line_class(number)}" d="M0 4H20"/></svg>'
    )


# ---- curves


def _charts(tasks: Sequence[ReportedTask]) -> str:
    """Return one chart for each tag, with a line for each task that has it; resources are last."""
    lines: dict[str, list[ChartLine]] = {}
    named = [_named(task) for task in tasks]
    common = common_names([[name for name, _ in of_task] for of_task in named])
    for number, (task, of_task, new) in enumerate(zip(tasks, named, common, strict=True)):
        for name, curve in of_task:
            line = ChartLine(task.run, number, _points(curve.points, curve.run))
            lines.setdefault(new[name], []).append(line)
    if not lines:
        return ""
    names = sorted(lines, key=lambda name: (name.startswith("~"), name))
    limits = {task.limit_bytes for task in tasks}
    # One line for all tasks, if they had the same limit.
    limit = next(iter(limits)) if len(limits) == 1 else None
    figures = [
        _figure(
            name,
            lines[name],
            is_resource=name.startswith("~resources"),
            limit=limit if name == MEMORY else None,
        )
        for name in names[:_CHARTS]
    ]
    more = len(names) - _CHARTS
    left_out = f"<p>{more} more curves: hkrunner board shows them.</p>\n" if more > 0 else ""
    return f'<h2>Curves</h2>\n<div class="charts">\n{"".join(figures)}</div>\n{left_out}'


def _named(task: ReportedTask) -> list[tuple[str, Curve]]:
    """Return the curves that are drawn, with their names: two of one name keep their folders."""
    drawn = [one for one in task.curves if one.tag != LIMIT and (one.run == RESOURCES or one.tag[:1] != "~")]
    names = [one.tag if one.run == RESOURCES else curve_name(one.run, one.tag) for one in drawn]
    times = Counter(names)
    return [
        (name if times[name] == 1 else f"{one.run}/{one.tag}", one)
        for name, one in zip(names, drawn, strict=True)
    ]


def _points(points: Sequence[Point], run: str) -> list[tuple[float, float]]:
    if run == RESOURCES:  # its steps are milliseconds since the task's start
        return [(point.step / 1000, point.value) for point in points]
    return [(float(point.step), point.value) for point in points]


def _figure(name: str, lines: Sequence[ChartLine], *, is_resource: bool, limit: int | None) -> str:
    drawn = lines[-_LINES:]  # the latest, if all recorded tasks are reported
    svg = chart(
        name,
        drawn,
        limit=None if limit is None else limit / _MIB,
        x_label="seconds" if is_resource else "step",
        from_zero=is_resource,
    )
    legend = "".join(f"<li>{_sample(line.number)}{text(line.name)}</li>" for line in drawn)
    more = f"<li>and {len(lines) - _LINES} more tasks, not drawn</li>" if len(lines) > _LINES else ""
    dashed = '<li><svg class="sample" viewBox="0 0 20 8"><path class="limit" d="M0 4H20"/></svg>limit</li>'
    told = f"{legend}{dashed if limit is not None else ''}{more}"
    return f"<figure><figcaption>{text(name.removeprefix('~'))}</figcaption>{svg}<ul>{told}</ul></figure>\n"


# ---- one task


def _section(number: int, task: ReportedTask) -> str:
    facts = {
        "outcome": _outcome(task),
        "entry": text(task.entry),
        "pipeline/node": text(task.place),
        "limits": text(task.limits),
    }
    rows = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in facts.items() if value)
    parts = [
        f"<details open><summary>{_sample(number)}{text(task.run)}</summary>\n",
        f'<table class="facts"><tbody>{rows}</tbody></table>\n',
        _values("Input", task.inputs, exactly=True),
        _values("Result", task.output),
        _values("Last metrics", task.metrics),
    ]
    if task.error:
        parts.append(f'<h4>Error</h4>\n<pre class="error">{text(task.error)}</pre>\n')
    if task.details:
        parts.append(f"<h4>Traceback</h4>\n<pre>{text(task.details)}</pre>\n")
    for stream, tail in task.logs.items():
        if tail.text:
            title = f"{stream}, the end" if tail.is_cut else stream
            parts.append(f"<h4>{text(title)}</h4>\n<pre>{text(tail.text)}</pre>\n")
    return "".join([*parts, "</details>\n"])


def _values(title: str, values: Mapping[str, Scalar], *, exactly: bool = False) -> str:
    if not values:
        return ""
    value_text = shown_exactly if exactly else shown
    rows = "".join(
        f"<tr><th>{text(key)}</th><td>{text(value_text(value, limit=400))}</td></tr>"
        for key, value in values.items()
    )
    return f'<h4>{title}</h4>\n<table class="facts"><tbody>{rows}</tbody></table>\n'
