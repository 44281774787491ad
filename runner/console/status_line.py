"""The status line at the bottom of a terminal during a local run: what the task is doing.

    ▶ t3  2 of 10 done  00:14  cpu 0.98  mem 212 MiB of 512 MiB ▂▃▅▇  40 %  ━━━━━━────  epoch 3
    ▶ 4 tasks  2 of 10 done  00:14  cpu 3.91  mem 848 MiB of 2 GiB ▄      with --parallel: of all together

It is drawn a few times a second from the samples that exist anyway, removed before anything else is written,
and not drawn while the terminal is slow or the algorithm is in the middle of a line of its own. rich renders
it into a string; it is imported in a thread once a run has lasted START_S, so that the loop never waits.
"""

from __future__ import annotations

import importlib
import io
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ...sandbox.shared.limits import format_bytes
from ..io.loop import Loop, Timer
from .terminal import Output

if TYPE_CHECKING:
    from rich.text import Text

#: A shorter run shows no status line.
START_S = 0.5
#: Loading that takes longer is shown.
LOADING_S = 1.0
TICK_S = 0.2
_CURVE = "▁▂▃▄▅▆▇█"
_CURVE_POINTS = 8
_BAR = 12
_LEAST_DETAILS = 8
#: (seconds since the epoch, cores, bytes, processes)
Sample = tuple[float, float, int, int]


class ShownTask:
    """What the line shows of a task."""

    progress: float | None = None
    details: str = ""

    def __init__(self, began: float) -> None:
        self.began = began


def can_be_drawn(environ: Mapping[str, str]) -> bool:
    """Whether stderr is a terminal that can erase a line."""
    return os.isatty(2) and environ.get("TERM", "dumb") != "dumb"


class StatusLine:
    """Draws the line between begin() and end() of each task."""

    def __init__(
        self,
        loop: Loop,
        output: Output,
        *,
        total: int,
        limit_bytes: int | None,
        samples: Callable[[], Sequence[Sample]],
        color: bool,
        code: str,
    ) -> None:
        """code: shown while it is loaded. total: the number of tasks.

        samples: returns those of the current task.
        """
        self._loop = loop
        self._output = output
        self._total = total
        self._limit_bytes = limit_bytes
        self._samples = samples
        self._no_color = not color
        self._tasks: dict[str, ShownTask] = {}
        self._loading: str | None = code
        self._began = loop.clock()
        self._done = 0
        self._ready = False
        self._timer: Timer = loop.after(START_S, self._load)

    def begin(self, task: str) -> None:
        """Show this task from now on."""
        self._loading = None
        self._tasks[task] = ShownTask(self._loop.clock())

    def progress(self, task: str, percent: object, details: object) -> None:
        """Show the progress that a task has reported."""
        shown = self._tasks.get(task)
        if shown is None:
            return
        if isinstance(percent, int | float):
            shown.progress = min(100.0, max(0.0, float(percent)))
        shown.details = "" if details is None else " ".join(str(details).split())[:200]

    def end(self, task: str) -> None:
        """Remove the line: the task is over. Where others run, the next tick draws it again."""
        self._tasks.pop(task, None)
        self._done += 1
        self._output.show_status(None)

    def close(self) -> None:
        """Remove the line for good."""
        self._timer.cancel()
        self._loading = None
        self._tasks.clear()
        self._ready = False
        self._output.show_status(None)

    def _load(self) -> None:
        def load() -> None:
            for name in ("console", "table", "text", "progress_bar"):
                importlib.import_module(f"rich.{name}")
            self._ready = True

        threading.Thread(target=load, name="rich", daemon=True).start()
        self._timer = self._loop.after(TICK_S, self._tick)

    def _tick(self) -> None:
        elapsed_s = self._loop.clock() - self._began
        if self._ready and self._tasks:
            self._output.show_status(self._render())
        elif self._loading is not None and elapsed_s >= LOADING_S:
            line = f"◌ loading {self._loading}  {_clock(elapsed_s)}"
            self._output.show_status(line[: columns()])
        self._timer = self._loop.after(TICK_S, self._tick)

    def _render(self) -> str:
        """Return the line with its escape sequences, at most as wide as the terminal."""
        from rich.console import Console
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        width = columns()
        (name, task), *others = self._tasks.items()
        what = f"{1 + len(others)} tasks" if others else name
        cells: list[Text | ProgressBar] = [Text(f"▶ {what}", style="bold cyan")]
        if self._total > 1:
            cells.append(Text(f"{self._done} of {self._total} done"))
        cells.append(Text(_clock(self._loop.clock() - task.began)))
        samples = self._samples()
        if samples:
            _, cores, used_bytes, _ = samples[-1]
            cells.append(Text(f"cpu {cores:.2f}"))
            cells.append(self._memory(Text, used_bytes, samples))
        if task.progress is not None and not others:
            cells.append(Text(f"{task.progress:.0f} %"))
            cells.append(ProgressBar(total=100, completed=task.progress, width=_BAR))
        details = "" if others else task.details
        if details:
            cells.append(Text(details, style="dim"))
        # A narrow terminal drops the last cells first; only the details are shortened.
        grid = Table.grid(padding=(0, 2), pad_edge=False)
        row, left = [], width
        for cell in cells:
            own = _BAR if isinstance(cell, ProgressBar) else cell.cell_len
            if own > left:
                if left < _LEAST_DETAILS or cell is not cells[-1] or not details:
                    break
                own = left
            row.append(cell)
            grid.add_column(width=own, no_wrap=True, overflow="ellipsis")
            left -= own + 2
        grid.add_row(*row)
        text = io.StringIO()
        console = Console(
            file=text,
            width=max(width, 20),
            force_terminal=True,
            legacy_windows=False,
            no_color=self._no_color,
            color_system=None if self._no_color else "standard",
        )
        console.print(grid, end="")
        return text.getvalue().split("\n")[0].rstrip()

    def _memory(self, make: Callable[..., Text], used_bytes: int, samples: Sequence[Sample]) -> Text:
        of = "" if self._limit_bytes is None else f" of {format_bytes(self._limit_bytes)}"
        is_close = self._limit_bytes is not None and used_bytes > 0.9 * self._limit_bytes
        curve_of = [memory for _, _, memory, _ in samples[-_CURVE_POINTS:]]
        line = f"mem {format_bytes(used_bytes)}{of} {curve(curve_of, self._limit_bytes)}"
        return make(line, style="red" if is_close else "")


def curve(values: Sequence[int], top: int | None) -> str:
    """Return one block for each value, its height relative to `top`, or to the highest value without one."""
    highest = top or max(values, default=0) or 1
    steps = len(_CURVE) - 1
    return "".join(_CURVE[min(steps, round(steps * value / highest))] for value in values)


def columns() -> int:
    """Return the width of the terminal, without the last column, which may wrap."""
    try:
        return (os.get_terminal_size(2).columns or 80) - 1  # 0: a terminal whose size was never set
    except OSError:
        return 79


def _clock(seconds: float) -> str:
    whole = int(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes:02}:{whole % 60:02}"
