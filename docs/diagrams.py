"""The diagrams of a task's states, generated from TABLE in runner/protocol/task_state.py.

    python docs/diagrams.py          write images/task-*.svg; needs the command dot (Debian: graphviz)
    python docs/diagrams.py --dot    print the input of dot

Each picture contains the digest of its source. The build of the documentation and a test compare it with the
digest of the table, without dot: a picture that is out of date is an error.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hkrunner.runner.protocol.task_state import AT_STORAGE, TABLE, Action, Event, Row, State

IMAGES = Path(__file__).with_name("images")
E, S = Event, State
_DIGEST = re.compile(r"<!-- source: ([0-9a-f]{64}) -->")
#: Events of the worker, which have their own color; the others are of the child, of timers and of signals.
_WORKER = {E.INITIALIZE, E.START, E.STOP, E.EXIT}
_COLORS = {"worker": "#1d5fa8", "child": "#2f7d32", "other": "#a35200"}
_FILLS = {
    S.IDLE: "#eef1f4",
    S.RUNNING: "#dcefdc",
    S.STOPPING: "#fdebd0",
    S.KILLING: "#f9d9d4",
    S.EXITING: "#e6e0f2",
    S.EXITED: "#d9d9d9",
}


@dataclass(frozen=True)
class Picture:
    """A part of the table: name of the file, title of the picture, and direction of its arrows."""

    name: str
    title: str
    rank: str = "LR"


STRAIGHT = Picture("task-answered", "A task that is answered")
STOP = Picture("task-stopped", "A task that is stopped")
NEXT = Picture("task-replaced", "The worker begins another task before this one is answered")
END = Picture("task-end", "The end of everything")
STORAGE = Picture("task-storage", "Storage v3: before and after the child")
PICTURES = (STRAIGHT, STORAGE, STOP, NEXT, END)


def picture_of(before: State, event: Event, row: Row) -> Picture | None:
    """Return the picture with this row; None for a row without a change of state and without actions."""
    if row.state is before and not row.actions:
        return None
    if row.state in (S.EXITING, S.EXITED):
        return END
    if event is E.INITIALIZE and before is not S.IDLE:
        return NEXT
    if before in AT_STORAGE or row.state in AT_STORAGE:
        return STORAGE
    if event is E.STOP or before in (S.STOPPING, S.KILLING, S.STOPPED):
        return STOP
    return STRAIGHT


def rows(picture: Picture) -> Iterator[tuple[State, Event, Row]]:
    """Return the rows of this picture, in the order of the table."""
    for (before, event), row in TABLE.items():
        if picture_of(before, event, row) is picture:
            yield before, event, row


def words(one: Event | Action) -> str:
    """Return `child gone` for CHILD_GONE."""
    return one.name.lower().replace("_", " ")


def dot(picture: Picture) -> str:
    """Return the picture in dot's language. Rows that differ only in their event share an arrow."""
    arrows: dict[tuple[State, State, str, tuple[Action, ...]], list[Event]] = {}
    for before, event, row in rows(picture):
        arrows.setdefault((before, row.state, _origin(event), row.actions), []).append(event)
    # States that have the same rows share a box.
    joined: dict[tuple[State, str, tuple[Event, ...], tuple[Action, ...]], list[State]] = {}
    for (before, after, origin, actions), events in arrows.items():
        joined.setdefault((after, origin, tuple(events), actions), []).append(before)
    boxes: dict[tuple[State, ...], str] = {}
    lines = []
    for (after, origin, together, actions), befores in joined.items():
        others = [one for one in befores if one is not after]
        groups = [(one,) for one in others] if len(others) < 3 else [tuple(others)]
        for group in [*groups, *([(after,)] if after in befores else [])]:
            label = _label(together, actions)
            color = _COLORS[origin]
            lines.append(
                f'  {_box(group, boxes)} -> {_box((after,), boxes)} [label={label}, color="{color}", '
                f'fontcolor="{color}"]'
            )
    shapes = [f'  {name} [label={_text(group)}, fillcolor="{_fill(group)}"]' for group, name in boxes.items()]
    return "\n".join(
        [
            f'digraph "{picture.title}" {{',
            f'  rankdir={picture.rank}; ranksep=0.9; nodesep=0.45; bgcolor="white"; pad=0.2',
            '  node [shape=box, style="rounded,filled", fontname="DejaVu Sans", fontsize=13]',
            '  edge [fontname="DejaVu Sans", fontsize=10, arrowsize=0.8]',
            *shapes,
            *lines,
            "}",
            "",
        ]
    )


def _origin(event: Event) -> str:
    return "worker" if event in _WORKER else "child" if event.name.startswith("CHILD") else "other"


def _box(group: tuple[State, ...], boxes: dict[tuple[State, ...], str]) -> str:
    return boxes.setdefault(group, f"s{len(boxes)}")


def _text(group: tuple[State, ...]) -> str:
    return '"' + "\\n".join(one.name for one in group) + '"'


def _fill(group: tuple[State, ...]) -> str:
    return _FILLS.get(group[0], "#ffffff") if len(group) == 1 else "#ffffff"


def _label(events: tuple[Event, ...], actions: tuple[Action, ...]) -> str:
    heads = "<br/>".join(f"<b>{words(event)}</b>" for event in events)
    tails = "".join(f"<br/>{words(action)}" for action in actions)
    return f"<{heads}{tails}>"


def digest(picture: Picture) -> str:
    """Return the digest by which out_of_date() compares the file with the table."""
    return hashlib.sha256(dot(picture).encode()).hexdigest()


def out_of_date() -> list[str]:
    """Return the names of the pictures that do not match the table."""
    wrong = []
    for picture in PICTURES:
        file = IMAGES / f"{picture.name}.svg"
        found = _DIGEST.search(file.read_text("utf-8")) if file.exists() else None
        if found is None or found[1] != digest(picture):
            wrong.append(picture.name)
    return wrong


def render(picture: Picture) -> None:
    """Write the picture."""
    made = subprocess.run(["dot", "-Tsvg"], input=dot(picture), capture_output=True, text=True, check=True)
    # Keep only the part from <svg on: the part before contains the version of dot.
    svg = re.sub(r"<!-- (?!source).*?-->\n?", "", made.stdout[made.stdout.index("<svg") :], flags=re.S)
    (IMAGES / f"{picture.name}.svg").write_text(f"<!-- source: {digest(picture)} -->\n{svg}", "utf-8")


if __name__ == "__main__":
    for one in PICTURES:
        if "--dot" in sys.argv[1:]:
            print(dot(one))
        else:
            render(one)
