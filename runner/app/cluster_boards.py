"""Has the cluster show the metrics of a job that has ended in boards of its own, and opens them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...boards.browser import BrowserProcess, show
from ..cluster.api import ClusterApi
from ..cluster.boards import start_board
from ..console.terminal import Output
from ..errors import BoardFailed, HkrunnerError

#: Most boards for one job: it has a node for each number of arguments, and each board is a pod of its own.
BOARDS_MAX = 4
#: Time from the start of the browser in which its exit status is waited for.
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
    browsers: list[BrowserProcess] = []
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
        if open_them:
            try:
                browsers.append(show(board.url))
            except OSError as error:
                warn(f"✘ no browser could be started: {error.strerror}")
    for browser in browsers:  # once all are shown: one may stay in the foreground
        if (problem := browser.problem(deadline_s=BROWSER_DEADLINE_S)) is not None:
            warn(f"✘ {problem}")
        browser.detach()
    if len(nodes) > BOARDS_MAX:
        say(f"◌ boards for {BOARDS_MAX} of {len(nodes)} nodes")
    return status
