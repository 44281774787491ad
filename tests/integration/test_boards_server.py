"""One board: what a visitor sees, and what it says when it cannot be."""

from __future__ import annotations

import importlib.metadata
import json
import os
import resource
import socket
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
from hkrunner.boards.board_record import Board, BoardStatus, Readiness
from hkrunner.boards.errors import BoardError
from hkrunner.boards.manager import BoardManager
from hkrunner.boards.runs.event_files import EventWriter
from hkrunner.boards.targets import Target, all_target, batch_target, node_target, pick_target, task_target
from support.boards import BOARD_DEADLINE_S, add_run, get, get_json, python_with, runs_of
from support.ports import free_port
from support.waiting import wait_until


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[BoardManager]:
    manager = BoardManager(tmp_path / "state", attached=True)
    yield manager
    list(manager.stop_each())
    manager.close()
    manager.wait_for_end()


def start(manager: BoardManager, target: Target, readiness: Readiness = Readiness.READY) -> Board:
    manager.start(target)
    return manager.wait(target.id, readiness, deadline_s=BOARD_DEADLINE_S)


def address(board: Board) -> str:
    assert board.url is not None
    return board.url


def test_a_board_shows_the_curves_of_its_runs(manager: BoardManager) -> None:
    add_run(manager.root, "t1")
    add_run(manager.root, "t2", points=5)
    board = start(manager, batch_target(manager.root, "job1", "train"))
    url = address(board)
    wait_until(lambda: runs_of(url) == ["t1", "t2"], what="both runs")
    wait_until(lambda: manager.get(board.id).runs == 2, what="both in the record")
    points = get_json(f"{url}data/plugin/scalars/scalars?run=t2&tag=loss")
    assert [(step, round(value, 3)) for _, step, value in points] == [
        (0, 1),
        (1, 0.5),
        (2, 0.333),
        (3, 0.25),
        (4, 0.2),
    ]
    assert (board.status, board.loader) == (BoardStatus.RUNNING, "fast")
    assert get(url)[0] == 200 and b"TensorBoard" in get(url)[1]
    assert get_json(f"{url}data/environment")["window_title"] == "job1:train"


def test_each_kind_of_board_names_runs_by_what_tells_them_apart(manager: BoardManager) -> None:
    add_run(manager.root, "t1", job="j1")
    add_run(manager.root, "t2", job="j2")
    add_run(manager.root, "t3", job="j2", node="test")
    for target, names in (
        (task_target(manager.root, "t1"), ["t1"]),
        (node_target(manager.root, "mnist", "train"), ["t1", "t2"]),
        (all_target(manager.root), ["t1 train", "t2 train", "t3 test"]),
        (pick_target(manager.root, ["t1", "t3"]), ["t1 train", "t3 test"]),
    ):
        url = address(start(manager, target))
        wait_until(lambda url=url, names=names: runs_of(url) == names, what=f"the runs {names}")


def test_names_with_every_sign_are_shown(manager: BoardManager) -> None:
    add_run(manager.root, "a,b:c &?#é שלום", job="11-23-2026, 6:55:01 PM")
    url = address(start(manager, batch_target(manager.root, "11-23-2026, 6:55:01 PM", "train")))
    assert runs_of(url) == ["a,b:c &?#é שלום"]
    assert len(get_json(f"{url}data/plugin/scalars/scalars?run={quote('a,b:c &?#é שלום')}&tag=loss")) == 20


def test_new_runs_and_points_appear_while_it_runs(manager: BoardManager) -> None:
    first = start(manager, node_target(manager.root, "mnist", "train"), Readiness.LISTENING)
    assert (first.readiness, first.runs) == (Readiness.LISTENING, 0)
    url = address(first)
    record = add_run(manager.root, "t1", points=1)
    wait_until(lambda: runs_of(url) == ["t1"], what="the new run")
    manager.wait(first.id, Readiness.READY, deadline_s=BOARD_DEADLINE_S)
    writer = EventWriter(record.metrics_dir / "later")
    writer.add({"loss": 1.0}, step=7, at_s=1007.0)
    writer.close()
    wait_until(lambda: runs_of(url) == ["t1", "t1/later"], what="the new sub-run")


def test_only_loopback_names_and_the_secret_address_lead_to_a_board(manager: BoardManager) -> None:
    add_run(manager.root, "t1")
    board = start(manager, task_target(manager.root, "t1"))
    url = address(board)
    port = url.split(":")[2].split("/")[0]
    assert get(f"{url}data/runs", headers={"Host": "evil.example.com"})[0] == 403
    assert get(f"{url}data/runs", headers={"Host": f"localhost:{port}"})[0] == 200
    for path in ("", "data/runs", "hkube/board/", "hkube/board/abcd/data/runs"):
        assert get(f"http://127.0.0.1:{port}/{path}")[0] == 404
    assert len(board.reference) == 20
    assert board.process is not None and board.data_server is not None
    for identity in (board.process, board.data_server):
        process = psutil.Process(identity.pid)
        listening = [one for one in process.net_connections() if one.status == psutil.CONN_LISTEN]
        assert [one.laddr.ip for one in listening] == ["127.0.0.1"]
        assert board.reference not in " ".join(process.cmdline()), "every user can read it there"
    assert (manager.records.path(board.reference).stat().st_mode & 0o777) == 0o600


def test_the_pages_fonts_are_found(manager: BoardManager) -> None:
    url = address(start(manager, all_target(manager.root), Readiness.LISTENING))
    port = url.split(":")[2].split("/")[0]
    page = get(url)[1].decode()
    font = page.partition("font-roboto/")[2].partition(".woff2")[0]
    assert get(f"http://127.0.0.1:{port}/font-roboto/{font}.woff2")[0] == 200


def test_proxies_and_library_variables_of_the_environment_do_not_matter(
    manager: BoardManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTPS_PROXY", "grpc_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "cpp")
    add_run(manager.root, "t1")
    assert start(manager, task_target(manager.root, "t1")).loader == "fast"


def test_a_users_folder_named_tensorboard_does_not_matter(
    manager: BoardManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_hostile_modules(tmp_path)
    monkeypatch.chdir(tmp_path)
    add_run(manager.root, "t1")
    assert start(manager, task_target(manager.root, "t1")).runs == 1


def add_hostile_modules(folder: Path) -> None:
    """The folder has modules named like those that a board imports; each ends the process."""
    for name in ("tensorboard", "random", "events", "files", "google", "sitecustomize", "usercustomize"):
        (folder / f"{name}.py").write_text("import os; os._exit(99)")


@pytest.mark.parametrize("loader", ["fast", "slow"])
def test_no_python_variable_of_the_users_reaches_a_board(
    manager: BoardManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loader: str
) -> None:
    add_hostile_modules(tmp_path)
    hostile = {
        "PYTHONWARNINGS": "error",
        "PYTHONPATH": f"{tmp_path}{os.pathsep}.",
        "PYTHONHOME": "/nowhere",
        "PYTHONSTARTUP": str(tmp_path / "tensorboard.py"),
        "PYTHONINSPECT": "1",
        "PYTHONOPTIMIZE": "2",
        "PYTHONHASHSEED": "no number",
        "PYTHONINTMAXSTRDIGITS": "no number",
        "PYTHONTRACEMALLOC": "no number",
        "PYTHONMALLOC": "no allocator",
        "PYTHONIOENCODING": "no-encoding",
        "PYTHONUTF8": "no number",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONPLATLIBDIR": "nowhere",
        "PYTHONVERBOSE": "2",
        "PYTHONPROFILEIMPORTTIME": "1",
        "PYTHONDEVMODE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    for name, value in hostile.items():
        monkeypatch.setenv(name, value)
    if loader == "slow":
        monkeypatch.setenv("TENSORBOARD_DATA_SERVER_BINARY", "/nowhere")
    add_run(manager.root, "t1")
    board = start(manager, task_target(manager.root, "t1"))
    assert (board.loader, board.runs) == (loader, 1)
    assert "import " not in manager.records.log_path(board.reference).read_text()


def test_a_tensorboard_that_only_pythonpath_leads_to_is_found(
    manager: BoardManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on clusters whose module system sets PYTHONPATH; here with an interpreter that has no packages."""
    venv.create(tmp_path / "bare", with_pip=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    monkeypatch.setenv("PYTHONPATH", str(importlib.metadata.distribution("tensorboard").locate_file("")))
    add_run(manager.root, "t1")
    assert start(manager, task_target(manager.root, "t1")).runs == 1


# --- what cannot be


def test_a_port_in_use_is_reported(manager: BoardManager) -> None:
    for listens in (True, False):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            if listens:
                taken.listen()
            port = taken.getsockname()[1]
            manager.start(all_target(manager.root), port=port)
            with pytest.raises(BoardError) as caught:
                manager.wait("all", deadline_s=BOARD_DEADLINE_S)
        assert (
            str(caught.value)
            == f"board all failed: port {port} is in use; choose another one, or 0 for a free one"
        )
        (board,) = manager.boards()
        assert board.status is BoardStatus.FAILED


def test_a_port_that_is_asked_for_is_used(manager: BoardManager) -> None:
    port = free_port()
    manager.start(all_target(manager.root), port=port)
    assert address(manager.wait("all", deadline_s=BOARD_DEADLINE_S)).startswith(f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize("port", [-1, 65536])
def test_what_is_no_port_is_refused(manager: BoardManager, port: int) -> None:
    with pytest.raises(BoardError, match=f"{port} is not a port"):
        manager.start(all_target(manager.root), port=port)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("import pkg_resources_that_is_gone as pkg_resources", "cannot be imported"),
        (
            "raise ModuleNotFoundError(\"No module named 'pkg_resources'\", name='pkg_resources')",
            "needs pkg_resources",
        ),
        ("raise SystemExit(3)", "tensorboard ended"),
        ("raise MemoryError", "too little memory"),
        ("import os; os.kill(os.getpid(), 9)", "the board's process was ended by SIGKILL"),
        (
            "import os; os.write(2, b'last words\\n'); os._exit(3)",
            "ended with 3; the last line of its log: last words",
        ),
    ],
)
def test_a_tensorboard_that_cannot_be_imported_is_reported(
    manager: BoardManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, words: str
) -> None:
    broken = tmp_path / "path" / "tensorboard"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text(module)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(python_with(broken.parent, tmp_path / "python")))
        manager.start(all_target(manager.root))
    with pytest.raises(BoardError) as caught:
        manager.wait("all", deadline_s=BOARD_DEADLINE_S)
    assert words in str(caught.value)
    (board,) = manager.boards()
    assert board.status is BoardStatus.FAILED and words in (board.error or "")


@pytest.mark.parametrize("content", ["not a program", "#!/bin/sh\nexit 7\n"])
def test_a_data_server_that_cannot_run_gives_a_slow_board_that_says_so(
    manager: BoardManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    broken = tmp_path / "server"
    broken.write_text(content)
    broken.chmod(0o755)
    monkeypatch.setenv("TENSORBOARD_DATA_SERVER_BINARY", str(broken))
    add_run(manager.root, "t1")
    board = start(manager, task_target(manager.root, "t1"))
    assert (board.loader, board.data_server) == ("slow", None)
    (note,) = board.notes
    assert note.startswith(f"the fast loader cannot be used: {broken} ")
    assert len(get_json(f"{address(board)}data/plugin/scalars/scalars?run=t1&tag=loss")) == 20


def test_soft_limits_of_the_shell_do_not_apply_to_a_board(tmp_path: Path) -> None:
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from hkrunner.boards.manager import BoardManager; from hkrunner.boards.targets import all_target\n"
        "def limit(soft, hard):\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (soft << 20, hard))\n"
        "manager = BoardManager(Path(sys.argv[1]), attached=True)\n"
        "limit(300, resource.RLIM_INFINITY if sys.argv[2] == 'soft' else 300 << 20)\n"
        "manager.start(all_target(manager.root))\n"
        "try: print(manager.wait('all').status.value)\n"
        "except Exception as error: print(error)\n"
        "list(manager.stop_each())\n"
    )
    assert resource.getrlimit(resource.RLIMIT_AS)[1] == resource.RLIM_INFINITY
    said = {
        kind: subprocess.run(
            [sys.executable, "-c", program, tmp_path, kind], capture_output=True, text=True, check=True
        ).stdout
        for kind in ("soft", "hard")
    }
    assert said["soft"] == "running\n"
    assert "300 MiB that RLIMIT_AS allows" in said["hard"]


def test_a_log_directory_that_is_a_file_is_an_empty_board(manager: BoardManager) -> None:
    manager.root.mkdir()
    (manager.root / "file").write_text("not a folder")
    board = start(manager, Target("f", "node", manager.root / "file"), Readiness.LISTENING)
    assert board.runs == 0


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("raise RuntimeError('no GPU')", "RuntimeError: no GPU"),
        ("import series", "ModuleNotFoundError: No module named 'series'"),  # ours are not in anybody's way
    ],
)
def test_a_plugin_that_does_not_load_is_left_out_and_named(
    manager: BoardManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, reason: str
) -> None:
    site = tmp_path / "path"
    about = site / "broken-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[tensorboard_plugins]\nbroken = broken:Plugin\n")
    (site / "broken.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(site))
    board = start(manager, all_target(manager.root), Readiness.LISTENING)
    assert board.notes == (f"the plugin broken does not load: {reason}",)


def test_a_record_can_be_read_by_any_json_reader(manager: BoardManager) -> None:
    add_run(manager.root, "t1")
    board = start(manager, task_target(manager.root, "t1"))
    record = json.loads(manager.records.path(board.reference).read_bytes())
    assert Board.from_dict(record) == manager.find("t1")
    assert (record["status"], record["readiness"], record["url"]) == ("running", "ready", board.url)
