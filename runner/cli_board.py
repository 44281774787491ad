"""`hkrunner board`: TensorBoard over the runs that are kept. And `hkrunner boards`: HKube's routes for it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .errors import BoardFailed, SettingsError

if TYPE_CHECKING:
    from ..boards.manager import BoardManager
    from ..boards.records import Board
    from ..boards.targets import Target

STATE_DIR = click.Option(
    ["--state-dir"],
    envvar="HKRUNNER_STATE_DIR",
    default="./.hkrunner",
    show_default=True,
    metavar="DIR",
    help="Where the records are.",
)


def _root(state_dir: str) -> Path:
    return Path(state_dir).absolute()


def _manager(state_dir: str, **options: Any) -> BoardManager:
    from ..boards.manager import BoardManager

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
    from ..boards import targets

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
    from ..boards.errors import BoardError
    from ..boards.records import Readiness

    root = _root(state_dir)
    try:
        target = board_target(
            root,
            words,
            job=given["job"],
            node=given["node"],
            pipeline=given["pipeline"],
            everything=given["all"],
        )
        manager = _manager(state_dir, attached=given["foreground"])
        started = manager.start(target, port=given["port"])
        reference = started.board.reference
        wanted = Readiness.READY if given["wait"] == "ready" else Readiness.LISTENING
        board = manager.wait(reference, wanted)
        _print(board, as_json=given["json"])
        if given["open"]:
            manager.open_in_browser(reference)
        if given["foreground"]:
            _stay(manager, reference)
        manager.close()
    except BoardError as error:
        raise BoardFailed(str(error)) from None


def _stay(manager: BoardManager, reference: str) -> None:
    """Keep a board that ends with us until Ctrl-C, or until it ends by itself."""
    import select

    click.echo("  Ctrl-C ends it", err=True)
    try:
        while (board := manager.find(reference)) is not None and board.is_live:
            fds = manager.fds()
            if not fds:
                break
            select.select(fds, [], [], 1.0)
            manager.poll()
    except KeyboardInterrupt:
        pass
    finally:
        manager.close()
        manager.wait_for_end()


def _print(board: Board, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(board.to_dict()))
        return
    runs = f"   {board.runs} {'run' if board.runs == 1 else 'runs'}, live" if board.runs else "   no runs yet"
    click.echo(f"● board {board.id}  {board.url or board.status.value}{runs if board.url else ''}")
    for note in board.notes:
        click.echo(f"  {note}", err=True)


def _ls(state_dir: str, json: bool) -> None:
    boards = _manager(state_dir).boards()
    if not boards and not json:
        click.echo("no boards; start one with: hkrunner board start", err=True)
    for board in boards:
        _print(board, as_json=json)


def _open(state_dir: str, id: str) -> None:
    from ..boards.errors import BoardError

    try:
        click.echo(_manager(state_dir).open_in_browser(id))
    except BoardError as error:
        raise BoardFailed(str(error)) from None


def _logs(state_dir: str, id: str) -> None:
    from ..boards.errors import BoardError

    manager = _manager(state_dir)
    try:
        board = manager.get(id)
        sys.stdout.write(manager.records.log_path(board.reference).read_text("utf-8", "replace"))
    except BoardError as error:
        raise BoardFailed(str(error)) from None
    except OSError as error:
        raise BoardFailed(f"the log of board {id} cannot be read: {error.strerror}") from None


def _stop(state_dir: str, ids: tuple[str, ...], all: bool) -> None:
    from ..boards.errors import BoardError

    if not ids and not all:
        raise SettingsError("which board? name one (hkrunner board ls), or --all")
    manager = _manager(state_dir)
    try:
        for board in manager.stop_all() if all else [manager.stop(one) for one in ids]:
            click.echo(f"■ board {board.id} stopped")
    except BoardError as error:
        raise BoardFailed(str(error)) from None


def _serve(state_dir: str, port: int) -> None:
    from ..boards.api_server import serve
    from ..boards.errors import BoardError

    def listening(url: str) -> None:
        click.echo(f"● board routes at {url}", err=True)

    try:
        serve(_root(state_dir), port=port, on_listening=listening)
    except BoardError as error:
        raise BoardFailed(str(error)) from None


def _flag(name: str, help: str) -> click.Option:
    return click.Option([name], is_flag=True, help=help)


_PORT = click.Option(["--port"], type=int, default=0, help="Port on 127.0.0.1.  [default: a free one]")
_JSON = click.Option(["-j", "--json"], is_flag=True, help="Print a JSON object a board.")

command = click.Group(
    "board",
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
                click.Option(
                    ["--port"], type=int, default=0, help="Port on 127.0.0.1.  [default: a free one]"
                ),
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

boards_command = click.Group(
    "boards",
    help="HKube's REST routes for boards.",
    commands=[
        click.Command(
            "serve",
            callback=_serve,
            help="Answer HKube's board routes until stopped; boards started by them end with it.",
            params=[
                click.Option(
                    ["--port"], type=int, default=0, help="Port on 127.0.0.1.  [default: a free one]"
                ),
                STATE_DIR,
            ],
        )
    ],
)

__all__ = ["board_target", "boards_command", "command"]
