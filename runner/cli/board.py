"""`hkrunner board`: TensorBoard over the runs that are kept. And `hkrunner boards`: HKube's routes for it."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import BoardFailed, HkrunnerError, SettingsError

if TYPE_CHECKING:
    from ...boards.board_record import Board
    from ...boards.manager import BoardManager
    from ...boards.targets import Target

STATE_DIR = click.Option(
    ["--state-dir"],
    envvar="HKRUNNER_STATE_DIR",
    default="./.hkrunner",
    show_default=True,
    metavar="DIR",
    help="Where the records are.",
)


#: How long `board start` waits beyond the first answer for the first run.
READY_S = 2.0
#: A browser that has not refused by then is there.
BROWSER_DEADLINE_S = 5.0


def _root(state_dir: str) -> Path:
    return Path(state_dir).absolute()


def _manager(state_dir: str, **options: Any) -> BoardManager:
    from ...boards.manager import BoardManager

    return BoardManager(_root(state_dir), **options)


def board_target(
    root: Path,
    words: tuple[str, ...],
    *,
    job: str | None,
    node: str | None,
    pipeline: str | None,
    everything: bool,
) -> Target:
    """Return what the board is to show. Raises SettingsError for words that do not fit together."""
    from ...boards import targets

    if everything or (not words and job is None and node is None and pipeline is None):
        return targets.all_target(root)
    if len(words) > 1:
        return targets.pick_target(root, words)
    if words:
        return targets.task_target(root, words[0], job=job) if job else targets.find_target(root, words[0])
    if node is None and job is not None:
        return targets.find_target(root, job)
    if node is None:
        raise SettingsError("--pipeline needs --node: a board shows a node of a pipeline")
    if job is not None:
        return targets.batch_target(root, job, node)
    return targets.node_target(root, pipeline or "local", node)


def _start(state_dir: str, words: tuple[str, ...], **given: Any) -> None:
    from ...boards.board_record import Readiness
    from ...boards.errors import BoardError

    root = _root(state_dir)
    target = board_target(
        root,
        words,
        job=given["job"],
        node=given["node"],
        pipeline=given["pipeline"],
        everything=given["all"],
    )
    # A board in the foreground lasts as long as its command, visited or not.
    kind = {"attached": True, "idle_timeout_s": None} if given["foreground"] else {}
    manager = _manager(state_dir, **kind)
    started = manager.start(target, port=given["port"])
    reference = started.board.reference
    wanted = Readiness.READY if given["wait"] == "ready" else Readiness.LISTENING
    board = manager.wait(reference, wanted)
    if wanted is Readiness.LISTENING and _has_events(board):
        with contextlib.suppress(BoardError):  # so that it says how many runs there are
            board = manager.wait(reference, Readiness.READY, deadline_s=READY_S)
    _print(board, as_json=given["json"])
    _note_port(board, given["port"])
    if given["open"]:
        _show(manager.address(reference))
    if given["foreground"]:
        _stay(manager, reference)
    manager.close()


def _has_events(board: Board) -> bool:
    # What is only linked (a picked task) is not looked into, and needs no look: it was just named.
    return board.type == "pick" or any(Path(board.log_dir).rglob("*tfevents*"))


def _note_port(board: Board, port: int) -> None:
    if port and f":{port}/" not in (board.url or ""):
        click.echo(f"  it was there already, so it is not on port {port}", err=True)


def _show(url: str) -> None:
    """The browser was asked. Raises BoardError when there is none."""
    from ...boards.browser import show
    from ...boards.errors import BoardError

    browser = show(url)
    problem = browser.problem(deadline_s=BROWSER_DEADLINE_S)
    browser.detach()
    if problem is not None:
        raise BoardError(problem)


def _stay(manager: BoardManager, reference: str) -> None:
    """Keep a board that ends with us until Ctrl-C, or until it ends by itself."""
    import select

    from ...boards.board_record import BoardStatus
    from ...boards.errors import BoardError

    click.echo("  Ctrl-C ends it", err=True)
    try:
        while (board := manager.find(reference)) is not None and board.is_live:
            fds = manager.fds()
            if not fds:
                break
            select.select(fds, [], [], 1.0)
            manager.poll()
        # One that died since the last look is only known to be gone: how it ended is told by who reaps it.
        manager.reap(reference)
        board = manager.find(reference)
        if board is not None and board.status is BoardStatus.FAILED:
            raise BoardError(f"board {board.id} failed: {board.error}", hint=board.hint or "")
    except KeyboardInterrupt:
        pass
    finally:
        manager.close()
        manager.wait_for_end()


def _print(board: Board, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(board.to_dict()))
        return
    if board.error is not None:
        click.echo(f"✘ board {board.id} {board.status.value}: {board.error}" + _behind("; ", board.hint))
    elif board.url is None:
        click.echo(f"◌ board {board.id} {board.status.value}" + _behind(": ", board.result))
    else:
        count = f"{board.runs} {'run' if board.runs == 1 else 'runs'}, live" if board.runs else "no runs yet"
        click.echo(f"● board {board.id}  {board.url}   {count}")
    for note in board.notes:
        click.echo(f"  {note}", err=True)


def _behind(sign: str, text: str | None) -> str:
    return f"{sign}{text}" if text else ""


def _ls(state_dir: str, json: bool) -> None:
    boards = _manager(state_dir).boards()
    if not boards and not json:
        click.echo("no boards; start one with: hkrunner board start", err=True)
    for board in boards:
        _print(board, as_json=json)


def _open(state_dir: str, id: str) -> None:
    url = _manager(state_dir).address(id)
    click.echo(url)
    _show(url)


def _logs(state_dir: str, id: str) -> None:
    manager = _manager(state_dir)
    board = manager.get(id)
    try:
        sys.stdout.write(manager.records.log_path(board.reference).read_text("utf-8", "replace"))
    except OSError as error:
        raise BoardFailed(f"the log of board {id} cannot be read: {error.strerror}") from None


def _stop(state_dir: str, ids: tuple[str, ...], all: bool) -> None:
    if not ids and not all:
        raise SettingsError("which board? name one (hkrunner board ls), or --all")
    manager = _manager(state_dir)
    for board in manager.stop_all() if all else (manager.stop(one) for one in ids):
        click.echo(f"■ board {board.id} stopped")


def _serve(state_dir: str, port: int) -> None:
    from ...boards.rest_server import serve

    def listening(url: str) -> None:
        click.echo(f"● board routes at {url}", err=True)

    serve(_root(state_dir), port=port, on_listening=listening)


class ErrorReportingGroup(click.Group):
    """Commands whose BoardError is told as an error of this kind, in one sentence."""

    def __init__(self, name: str, *, reported_as: type[HkrunnerError], **more: Any) -> None:
        super().__init__(name, **more)
        self._told_as = reported_as

    def invoke(self, ctx: click.Context) -> Any:
        """As click does."""
        from ...boards.errors import BoardError

        try:
            return super().invoke(ctx)
        except BoardError as error:
            raise self._told_as(str(error)) from None


def _flag(name: str, help: str) -> click.Option:
    return click.Option([name], is_flag=True, help=help)


_PORT = click.Option(["--port"], type=int, default=0, help="Port on 127.0.0.1.  [default: a free one]")
_JSON = click.Option(["-j", "--json"], is_flag=True, help="Print a JSON object a board.")

command = ErrorReportingGroup(
    "board",
    reported_as=BoardFailed,
    help="Compare runs in TensorBoard.",
    commands=[
        click.Command(
            "start",
            callback=_start,
            help="Start a board, or find the one that shows the same.\n\nTASKS: one task or job, or several "
            "tasks to compare; without any, everything that is kept.",
            params=[
                click.Argument(["words"], nargs=-1, metavar="[TASKS]..."),
                click.Option(["--job"], metavar="JOB", help="The tasks of one job."),
                click.Option(["--node"], metavar="NODE", help="A node: of the job, or over all its runs."),
                click.Option(["--pipeline"], metavar="NAME", help="The node's pipeline.  [default: local]"),
                _flag("--all", "Everything that is kept."),
                _PORT,
                _flag("--open", "Show it in the browser."),
                click.Option(
                    ["--wait"],
                    type=click.Choice(["listening", "ready"]),
                    default="listening",
                    show_default=True,
                    help="Return when it answers, or when it shows at least one run.",
                ),
                _flag("--foreground", "Stay, and end the board on Ctrl-C."),
                _JSON,
                STATE_DIR,
            ],
        ),
        click.Command("ls", callback=_ls, help="List the boards.", params=[_JSON, STATE_DIR]),
        click.Command(
            "open",
            callback=_open,
            help="Show a board in the browser.",
            params=[click.Argument(["id"], metavar="BOARD"), STATE_DIR],
        ),
        click.Command(
            "logs",
            callback=_logs,
            help="Print what a board's process has said.",
            params=[click.Argument(["id"], metavar="BOARD"), STATE_DIR],
        ),
        click.Command(
            "stop",
            callback=_stop,
            help="Stop boards.",
            params=[
                click.Argument(["ids"], nargs=-1, metavar="[BOARDS]..."),
                _flag("--all", "All of them."),
                STATE_DIR,
            ],
        ),
    ],
)

boards_command = ErrorReportingGroup(
    "boards",
    reported_as=BoardFailed,
    help="HKube's REST routes for boards.",
    commands=[
        click.Command(
            "serve",
            callback=_serve,
            help="Answer HKube's board routes until stopped; boards started by them end with it.",
            params=[
                _PORT,
                STATE_DIR,
            ],
        )
    ],
)

__all__ = ["STATE_DIR", "ErrorReportingGroup", "board_target", "boards_command", "command"]
