"""Has the cluster show the metrics of a job that has ended in boards of its own, and opens them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...boards.browser import show_and_detach
from ..cluster.api import ClusterApi
from ..cluster.boards import start_board
from ..console.terminal import Output
from ..errors import BoardFailed, HkrunnerError

#: Most boards for one job: it has a node for each number of arguments, and each board is a pod of its own.
BOARDS_MAX = 4
#: Longest wait for the browser's exit status.
BROWSER_DEADLINE_S = 1.0

Post = Callable[[Callable[..., object]], Callable[..., None]]


def show_boards(
    api: ClusterApi,
    job: str,
    nodes: Sequence[str],
    output: Output,
    *,
    open_them: bool,
    post: Post,
    pause: Callable[[float], object],
) -> int:
    """Show a board for each of the first nodes; return the exit status.

    For the thread that talks to the cluster. `post(function)` returns a function by which a thread has the
    loop call `function`.
    """
    status = 0
    say, warn, emit = post(output.say), post(output.warn), post(output.events.emit)
    for node in nodes[:BOARDS_MAX]:
        try:
            board = start_board(api, job, node, on_wait=say, pause=pause)
        except HkrunnerError as error:
            warn(f"✘ no board: {error}")
            status = BoardFailed.exit_status
            continue
        say(f"● board {board.id}  {board.url}")
        emit("board", {"id": board.id, "url": board.url})
        if open_them and (problem := _opened(board.url)) is not None:
            warn(f"✘ {problem}")
    if len(nodes) > BOARDS_MAX:
        say(f"◌ boards for {BOARDS_MAX} of {len(nodes)} nodes")
    return status


def _opened(url: str) -> str | None:
    """Open the address in the browser; return the problem, None if there is none."""
    try:
        return show_and_detach(url, deadline_s=BROWSER_DEADLINE_S)
    except OSError as error:
        return f"no browser could be started: {error.strerror}"
