"""`hkrunner board …` and `hkrunner boards serve`, as a user types them."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hkrunner.boards.manager import BoardManager
from support.boards import (
    BOARD_DEADLINE_S,
    add_run,
    boards_of,
    boards_of_another_host,
    no_browser,
    python_with,
    recording_browser,
    runs_of,
    taken_port,
    visited,
)
from support.ports import free_port
from support.processes import runs
from support.programs import HKRUNNER, Program, Result, run, run_hkrunner, serving
from support.routes import Client, running
from support.waiting import wait_until


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in which four tasks of two jobs have run."""
    root = tmp_path / ".hkrunner"
    for task, job in (("t1", "job1"), ("t2", "job1"), ("t3", "job2")):
        add_run(root, task, job=job)
    add_run(root, "t4", job="job2", node="test", pipeline="local")
    with boards_of(root):
        yield tmp_path


def hkrunner(folder: Path, *args: str, env: dict[str, Any] | None = None) -> Result:
    return run_hkrunner(*args, cwd=folder, env=env, deadline_s=BOARD_DEADLINE_S)


def started(folder: Path, *args: str) -> dict[str, Any]:
    ended = hkrunner(folder, "board", "start", *args, "--json", "--wait", "ready")
    assert ended.status == 0, ended.stderr
    (board,) = map(json.loads, ended.stdout.splitlines())
    return dict(board)


def refused(ended: Result, sentence: str, *, status: int = 6) -> None:
    """One sentence on stderr, and this exit status."""
    assert (ended.status, ended.stdout) == (status, ""), ended
    assert ended.stderr.startswith("hkrunner: ") and len(ended.stderr.splitlines()) == 1, ended.stderr
    assert sentence in ended.stderr


def test_a_board_of_more_files_than_may_be_open_shows_every_task_and_the_curves_of_the_latest(
    tmp_path: Path,
) -> None:
    """The data server would forget all of them, load them again, and so on."""
    root = tmp_path / ".hkrunner"
    for number in range(60):
        add_run(root, f"t{number}", points=1)
    with boards_of(root) as manager:
        limited: list[str | Path] = ["sh", "-c", 'ulimit -n 300; exec "$@"', "sh", HKRUNNER]
        ended = run(
            [*limited, "board", "start", "--wait", "ready"], cwd=tmp_path, deadline_s=BOARD_DEADLINE_S
        )
        assert ended.status == 0, ended
        board = manager.find("all")
        assert board is not None and board.url is not None
        wait_until(lambda: len(runs_of(str(board.url))) == 60, deadline_s=60, what="60 tasks")
        wait_until(lambda: len(with_loss(str(board.url))) == 44, deadline_s=60, what="44 curves")
        note = "16 older tasks are shown without their curves: TensorBoard holds every event file open"
        wait_until(lambda: note in hkrunner(tmp_path, "board", "ls").stderr, deadline_s=60, what="the note")


def with_loss(url: str) -> list[str]:
    """The runs whose curve of the loss is loaded."""
    with urllib.request.urlopen(f"{url}data/plugin/timeseries/tags", timeout=30) as answer:
        tags = json.load(answer)["scalars"]["runTagInfo"]
    return [run for run, of_run in tags.items() if "loss" in of_run]


def test_every_kind_of_board_runs_at_once(folder: Path) -> None:
    wanted = {
        ("t1",): ("t1", ["t1"]),
        ("--job", "job1", "--node", "train"): ("job1:train", ["t1", "t2"]),
        ("--pipeline", "mnist", "--node", "train"): ("mnist:train", ["t1", "t2", "t3"]),
        ("--node", "test"): ("local:test", ["t4"]),
        ("--all",): ("all", ["t1 train", "t2 train", "t3 train", "t4 test"]),
        ("t1", "t4"): ("", ["t1 train", "t4 test"]),
    }
    boards = {}
    for words, (id, names) in wanted.items():
        board = started(folder, *words)
        boards[board["id"]] = board
        assert id in ("", board["id"])
        wait_until(lambda board=board, names=names: runs_of(board["url"]) == names, what=f"{names}")
    assert len({board["url"] for board in boards.values()}) == len(wanted)

    listed = [json.loads(line) for line in hkrunner(folder, "board", "ls", "--json").stdout.splitlines()]
    assert [board["id"] for board in listed] == list(boards)
    assert {board["readiness"] for board in listed} == {"ready"}
    stopped = hkrunner(folder, "board", "stop", "--all")
    assert stopped.stdout.splitlines() == [f"■ board {id} stopped" for id in boards]
    ended = hkrunner(folder, "board", "ls")
    assert (ended.stdout, ended.stderr) == ("", "no boards; start one: hkrunner board start\n")


def test_a_job_is_named_by_one_word_and_everything_by_none(folder: Path) -> None:
    assert started(folder, "job1")["id"] == "job1:train"
    assert started(folder)["id"] == "all"
    refused(
        hkrunner(folder, "board", "start", "job2"), "job job2 ran more than one node: test, train; choose one"
    )


def test_a_board_is_reported_on_one_line(folder: Path) -> None:
    ended = hkrunner(folder, "board", "start", "job1")
    assert ended.status == 0 and ended.stderr == ""
    (line,) = ended.stdout.splitlines()
    words = line.split()
    assert words[:3] == ["●", "board", "job1:train"] and words[3].startswith("http://127.0.0.1:")
    # It waits for the runs for a moment only, see READY_S.
    whole = wait_until(
        lambda: (said := hkrunner(folder, "board", "ls").stdout).endswith("   2 runs, live\n") and said,
        what="both runs",
    )
    assert whole.split()[:4] == words[:4] and len(whole.splitlines()) == 1


def test_starting_a_board_again_finds_it(folder: Path) -> None:
    first = started(folder, "t1", "--port", str(free_port()))
    assert started(folder, "t1")["url"] == first["url"]
    port = free_port()
    ended = hkrunner(folder, "board", "start", "t1", "--port", str(port))
    assert first["url"] in ended.stdout
    assert ended.stderr == f"  it was running already, so it does not use port {port}\n"


def test_a_board_opens_in_the_browser_or_gives_its_address_and_has_a_log(folder: Path) -> None:
    env = recording_browser(folder)
    url = json.loads(hkrunner(folder, "board", "start", "t1", "--open", "--json", env=env).stdout)["url"]
    # A browser that takes long to start is not waited for.
    wait_until(lambda: visited(folder) == [url], what="a visit")
    ended = hkrunner(folder, "board", "open", "t1", env=env)
    assert (ended.status, ended.stdout) == (0, f"{url}\n")
    wait_until(lambda: visited(folder) == [url, url], what="a second visit")
    ended = hkrunner(folder, "board", "open", "t1", env=no_browser(folder))
    assert (ended.status, ended.stdout) == (6, f"{url}\n")
    assert ended.stderr == f"hkrunner: no browser could be started; open {url} in one\n"
    (board,) = map(json.loads, hkrunner(folder, "board", "ls", "--json").stdout.splitlines())
    with (folder / ".hkrunner" / "boards" / f"{board['boardReference']}.log").open("a") as log:
        log.write("last words\n")
    assert hkrunner(folder, "board", "logs", "t1").stdout.endswith("last words\n")


def test_a_board_is_stopped_by_its_id_or_its_reference(folder: Path) -> None:
    by_id, by_reference = started(folder, "t1"), started(folder, "t2")
    ended = hkrunner(folder, "board", "stop", "t1", by_reference["boardReference"])
    assert ended.stdout == "■ board t1 stopped\n■ board t2 stopped\n"
    assert runs_of(by_id["url"]) == runs_of(by_reference["url"]) == []


def test_every_board_is_tried_and_every_failure_reported(folder: Path) -> None:
    board = started(folder, "t1")
    with boards_of_another_host(folder / ".hkrunner", "a", "b"):
        ended = hkrunner(folder, "board", "stop", "a", "t1", "nothing")
        assert (ended.status, ended.stdout) == (6, "■ board t1 stopped\n")
        assert ended.stderr.splitlines() == [
            "✘ board a runs on the host elsewhere; stop it from there",
            "✘ board nothing Not Found",
            "hkrunner: 2 of 3 boards were not stopped",
        ]
        assert runs_of(board["url"]) == []
        ended = hkrunner(folder, "board", "stop", "--all")
        assert ended.status == 6 and ended.stderr.endswith("hkrunner: 2 of 2 boards were not stopped\n")
        assert "✘ board b runs on the host elsewhere" in ended.stderr


def test_a_board_ends_with_its_command_in_the_foreground(folder: Path) -> None:
    for number in (signal.SIGINT, signal.SIGKILL):
        with serving("board", "start", "--all", "--foreground", cwd=folder) as program:
            program.wait_for_line("● board all", stream="stdout", deadline_s=BOARD_DEADLINE_S)
            family = program.family()
            assert len(family) == 3, family
            program.send_signal(number)
            assert program.wait() == (0 if number == signal.SIGINT else -9)
            wait_until(lambda family=family: not any(map(runs, family)), what="the end of the board")
    assert hkrunner(folder, "board", "ls").stdout == ""


def test_a_board_that_ends_in_the_foreground_is_reported(folder: Path) -> None:
    with serving("board", "start", "--all", "--foreground", cwd=folder) as program:
        program.wait_for_line("Ctrl-C stops it", deadline_s=BOARD_DEADLINE_S)
        (board,) = BoardManager(folder / ".hkrunner").boards()
        assert board.process is not None
        os.kill(board.process.pid, signal.SIGKILL)
        assert program.wait() == 6
    assert "hkrunner: board all failed: the board's process was ended by SIGKILL" in program.stderr[-1]


# ---- what cannot be


@pytest.mark.parametrize(
    ("words", "sentence", "status"),
    [
        (("start", "nothing"), "there is neither a task nor a job nothing in ", 6),
        (("start", "t1", "nothing"), "there is no task nothing in ", 6),
        (("start", "--job", "job1", "--node", "none"), "node none for job job1 Not Found", 6),
        (("start", "--port", "70000"), "70000 is not a port; choose one of 1 to 65535", 6),
        (("start", "--pipeline", "mnist"), "--pipeline needs --node: a board shows a node of a pipeline", 2),
        (("stop", "nothing"), "board nothing Not Found: hkrunner board ls and hkrunner runs ls show ", 6),
        (("stop",), "no board given: name one (hkrunner board ls), or use --all", 2),
        (("open", "nothing"), "board nothing Not Found", 6),
        (("logs", "nothing"), "board nothing Not Found", 6),
    ],
)
def test_each_impossible_request_is_refused_in_one_sentence(
    folder: Path, words: tuple[str, ...], sentence: str, status: int
) -> None:
    refused(hkrunner(folder, "board", *words), sentence, status=status)


def test_a_port_in_use_is_reported_and_listed(folder: Path) -> None:
    with taken_port() as port:
        sentence = f"board all failed: port {port} is in use; choose another one, or 0 for a free one"
        refused(hkrunner(folder, "board", "start", "--port", str(port)), sentence)
    assert hkrunner(folder, "board", "ls").stdout == f"✘ {sentence}\n"
    refused(hkrunner(folder, "board", "open", "all"), "board all has no address: it is failed")
    assert started(folder)["status"] == "running"


def test_a_broken_tensorboard_is_reported(folder: Path) -> None:
    broken = folder / "path" / "tensorboard"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'pkg_resources'\", name='pkg_resources')"
    )
    interpreter = python_with(broken.parent, folder / "python")
    ended = run([interpreter, HKRUNNER, "board", "start"], cwd=folder, deadline_s=BOARD_DEADLINE_S)
    refused(ended, "needs pkg_resources, which setuptools")
    assert "run: pip install 'tensorboard>=2.21'" in ended.stderr
    assert started(folder)["status"] == "running", "the next one has the whole TensorBoard"


def test_a_state_folder_that_is_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / ".hkrunner").write_text("")
    refused(hkrunner(tmp_path, "board", "start"), "board all cannot be started: ")


# ---- hkrunner boards serve


def routes(program: Program) -> Client:
    line = program.wait_for_line("● board routes at ", deadline_s=BOARD_DEADLINE_S)
    return Client(line.removeprefix("● board routes at "))


def test_hkubes_routes_are_served_until_they_are_stopped(folder: Path) -> None:
    port = free_port()
    with serving("boards", "serve", "--port", str(port), cwd=folder) as program:
        client = routes(program)
        assert client.url == f"http://127.0.0.1:{port}/api/v1/boards"
        assert client("POST", "/tensors", {"jobId": "job1", "nodeName": "train"})[1]["id"] == "job1:train"
        assert running(client, "job1:train")["jobId"] == "job1"
        refused(
            hkrunner(folder, "boards", "serve", "--port", str(port)), f"cannot listen on port {port}: Address"
        )
        family = program.family()
        assert len(family) == 3, family
    assert not any(map(runs, family))
    assert hkrunner(folder, "board", "ls").stdout == ""
