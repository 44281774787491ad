"""hkrunner sends nothing anywhere: a run with its records and a board talks to this machine alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hkrunner.boards.board_record import Readiness
from hkrunner.boards.targets import all_target
from support.boards import BOARD_DEADLINE_S, add_run, boards_of, python_with
from support.programs import HKRUNNER, ROOT, run, run_hkrunner

# Written into the interpreter of hkrunner, its board and the algorithm: who is connected to, or asked for.
WATCHER = """
import json, os, sys

def told(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        address = arguments[0] if event.startswith("socket.get") else arguments[1]
        with open(os.environ["WATCHED"], "a") as file:
            file.write(json.dumps([event, str(address)]) + "\\n")

sys.addaudithook(told)
"""
HERE = ("('127.0.0.1'", "('localhost'", "('::1'", "localhost", "127.0.0.1", "::1", "/", "b'/")


def test_a_run_with_a_board_connects_to_this_machine_alone(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WATCHER)
    watched = tmp_path / "watched"
    env = {"WATCHED": str(watched), "PYTHONPATH": str(tmp_path)}
    ended = run_hkrunner(ROOT / "examples" / "sum.py", "-i", "[1]", "--board", cwd=tmp_path, env=env)
    assert run([HKRUNNER, "board", "stop", "--all"], cwd=tmp_path, env=env).status == 0
    assert (ended.status, ended.stdout) == (0, "1\n"), ended
    assert connections_elsewhere(watched) == []


def test_a_board_connects_to_this_machine_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No PYTHON* variable reaches its process: the watcher comes with the interpreter."""
    (tmp_path / "watcher.py").write_text(WATCHER)
    watched = tmp_path / "watched"
    monkeypatch.setenv("WATCHED", str(watched))
    add_run(tmp_path / "state", "t1")
    with boards_of(tmp_path / "state") as manager, monkeypatch.context() as patch:
        python = python_with(tmp_path, tmp_path / "python", first="import watcher")
        patch.setattr(sys, "executable", str(python))
        manager.start(all_target(manager.root))
        manager.wait("all", Readiness.READY, deadline_s=BOARD_DEADLINE_S)
    assert connections_elsewhere(watched) == []


def connections_elsewhere(watched: Path) -> list[list[str]]:
    """Return the watched connections to other machines."""
    seen = [json.loads(line) for line in watched.read_text().splitlines()]
    assert any("127.0.0.1" in address for _, address in seen), "the watcher sees nothing"
    return [one for one in seen if not one[1].startswith(HERE)]
