"""`hkrunner board`: TensorBoard over recorded tasks. `hkrunner boards`: HKube's REST routes for boards."""

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


def _not_empty(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    if not value:
        raise SettingsError("--state-dir wants DIR, not ''")
    return value


STATE_DIR = click.Option(
    ["--state-dir"],
    envvar="HKRUNNER_STATE_DIR",
    default="./.hkrunner",
    show_default=True,
    metavar="DIR",
    show_envvar=True,
    help="Folder with the records of tasks.",
    callback=_not_empty,
)


#: How long `board start` waits for the first data once the board answers.
READY_S = 2.0
#: Without an error by then, the browser has started.
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
    """Return what the board is to show. Raises SettingsError for options that exclude each other."""
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


def _start(state_dir: str, words: tuple[str, ...], **options: Any) -> None:
    from ...boards.board_record import Readiness

    root = _root(state_dir)
    target = board_target(
        root,
        words,
        job=options["job"],
        node=options["node"],
        pipeline=options["pipeline"],
        everything=options["all"],
    )
    # A board in the foreground lasts as long as its command, with or without visitors.
    lifetime = {"attached": True, "idle_timeout_s": None} if options["foreground"] else {}
    manager = _manager(state_dir, **lifetime)
    started = manager.start(target, port=options["port"])
    reference = started.board.reference
    wanted = Readiness.READY if options["wait"] == "ready" else Readiness.LISTENING
    board = manager.wait(reference, wanted)
    if wanted is Readiness.LISTENING:
        board = _with_first_data(manager, board)
    _print(board, as_json=options["json"])
    _note_port(board, options["port"])
    if options["open"]:
        _show(manager.address(reference))
    if options["foreground"]:
        _stay(manager, reference)
    manager.close()


def show_target(state_dir: str, target: Target) -> str | None:
    """Start the board that shows the target, and return its address. Raises BoardError."""
    from ...boards.board_record import Readiness

    manager = _manager(state_dir)
    reference = manager.start(target).board.reference
    board = _with_first_data(manager, manager.wait(reference, Readiness.LISTENING))
    manager.close()
    return board.url


def _with_first_data(manager: BoardManager, board: Board) -> Board:
    """Return the board, after a moment for the first data if there is some."""
    from ...boards.board_record import Readiness
    from ...boards.errors import BoardError

    if _has_events(board):
        with contextlib.suppress(BoardError):  # late data only lacks the count of runs
            return manager.wait(board.reference, Readiness.READY, deadline_s=READY_S)
    return board


def _has_events(board: Board) -> bool:
    from ...boards.runs.folders import files_below

    # The folder of hand-picked tasks has links only, which are not followed.
    files = files_below(str(board.log_dir))
    return board.type == "pick" or any("tfevents" in entry.name for entry in files)


def _note_port(board: Board, port: int) -> None:
    if port and f":{port}/" not in (board.url or ""):
        click.echo(f"  it was running already, so it does not use port {port}", err=True)


def _show(url: str) -> None:
    """Ask the browser to show the page. Raises BoardError when there is none."""
    from ...boards.browser import show_and_detach
    from ...boards.errors import BoardError

    problem = show_and_detach(url, deadline_s=BROWSER_DEADLINE_S)
    if problem is not None:
        raise BoardError(problem)


def _stay(manager: BoardManager, reference: str) -> None:
    """Wait until Ctrl-C, which ends the board, or until it ends by itself."""
    import select

    from ...boards.board_record import BoardStatus
    from ...boards.errors import BoardError

    click.echo("  Ctrl-C stops it", err=True)
    try:
        while (board := manager.find(reference)) is not None and board.is_live:
            fds = manager.fds()
            if not fds:
                break
            select.select(fds, [], [], 1.0)
            manager.poll()
        # The record of a board that has just died does not say how it ended: its exit status does.
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
        click.echo(f"✘ board {board.id} {board.status.value}: {board.error}" + _suffix("; ", board.hint))
    elif board.url is None:
        click.echo(f"◌ board {board.id} {board.status.value}" + _suffix(": ", board.result))
    else:
        count = f"{board.runs} {'run' if board.runs == 1 else 'runs'}, live" if board.runs else "no runs yet"
        click.echo(f"● board {board.id}  {board.url}   {count}")
    for note in board.notes:
        click.echo(f"  {note}", err=True)


def _suffix(sign: str, text: str | None) -> str:
    return f"{sign}{text}" if text else ""


def _ls(state_dir: str, json: bool) -> None:
    boards = _manager(state_dir).boards()
    if not boards and not json:
        click.echo("no boards; start one: hkrunner board start", err=True)
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
        raise SettingsError("no board given: name one (hkrunner board ls), or use --all")
    from ...boards.errors import BoardError

    failures = []
    stopped = 0
    for result in _manager(state_dir).stop_each(None if all else ids):
        if isinstance(result, BoardError):
            failures.append(result)
        else:
            stopped += 1
            click.echo(f"■ board {result.id} stopped")
    if len(failures) == 1:
        raise failures[0]
    if failures:
        for failure in failures:
            click.echo(f"✘ {failure}", err=True)
        raise BoardError(f"{len(failures)} of {stopped + len(failures)} boards were not stopped")


def _serve(state_dir: str, port: int) -> None:
    from ...boards.rest_server import serve

    def listening(url: str) -> None:
        click.echo(f"● board routes at {url}", err=True)

    serve(_root(state_dir), port=port, on_listening=listening)


class ErrorReportingGroup(click.Group):
    """Commands whose BoardError becomes a command-line error of this kind, in one sentence."""

    def __init__(self, name: str, *, reported_as: type[HkrunnerError], **more: Any) -> None:
        super().__init__(name, **more)
        self._told_as = reported_as

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Raises the error of this group instead of BoardError."""
        from ...boards.errors import BoardError

        try:
            return super().invoke(ctx)
        except BoardError as error:
            # HKube's own text, which its REST routes have to use, names no remedy.
            is_hkubes = str(error).endswith("Not Found")
            remedy = ": hkrunner board ls and hkrunner runs ls show what there is" if is_hkubes else ""
            raise self._told_as(f"{error}{remedy}") from None


def _flag(name: str, help: str) -> click.Option:
    return click.Option([name], is_flag=True, help=help)


_PORT = click.Option(
    ["--port"], type=int, metavar="PORT", default=0, help="Port on 127.0.0.1.  [default: a free one]"
)
_JSON = click.Option(["-j", "--json"], is_flag=True, help="Print one JSON object per board.")

command = ErrorReportingGroup(
    "board",
    reported_as=BoardFailed,
    help="Compare tasks in TensorBoard.",
    commands=[
        click.Command(
            "start",
            callback=_start,
            help="Start a board, or find the running one that shows the same.\n\nTASKS: a task, a job, or "
            "several tasks to compare. Without any, the board shows all recorded tasks.",
            params=[
                click.Argument(["words"], nargs=-1, metavar="[TASKS]..."),
                click.Option(["--job"], metavar="JOB", help="Show the tasks of one job."),
                click.Option(["--node"], metavar="NODE", help="Show one node: of the job, or of all jobs."),
                click.Option(["--pipeline"], metavar="NAME", help="Pipeline of the node.  [default: local]"),
                _flag("--all", "Show all recorded tasks."),
                _PORT,
                _flag("--open", "Open the board in the browser."),
                click.Option(
                    ["--wait"],
                    type=click.Choice(["listening", "ready"]),
                    default="listening",
                    show_default=True,
                    help="Return once the board answers, or once it shows at least one run.",
                ),
                _flag("--foreground", "Do not return, and stop the board on Ctrl-C."),
                _JSON,
                STATE_DIR,
            ],
        ),
        click.Command("ls", callback=_ls, help="List boards.", params=[_JSON, STATE_DIR]),
        click.Command(
            "open",
            callback=_open,
            help="Open a board in the browser.",
            params=[click.Argument(["id"], metavar="BOARD"), STATE_DIR],
        ),
        click.Command(
            "logs",
            callback=_logs,
            help="Print the log of a board's process.",
            params=[click.Argument(["id"], metavar="BOARD"), STATE_DIR],
        ),
        click.Command(
            "stop",
            callback=_stop,
            help="Stop boards.",
            params=[
                click.Argument(["ids"], nargs=-1, metavar="[BOARDS]..."),
                _flag("--all", "Stop all boards."),
                STATE_DIR,
            ],
        ),
    ],
)

boards_command = ErrorReportingGroup(
    "boards",
    reported_as=BoardFailed,
    help="Serve HKube's REST routes for boards.",
    commands=[
        click.Command(
            "serve",
            callback=_serve,
            short_help="Serve the routes until stopped.",
            help="Serve the routes until stopped; boards that they start end with this command.",
            params=[
                _PORT,
                STATE_DIR,
            ],
        )
    ],
)

__all__ = ["STATE_DIR", "ErrorReportingGroup", "board_target", "boards_command", "command"]
