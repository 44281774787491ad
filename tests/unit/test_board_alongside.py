"""What a run asks of the board beside it."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hkrunner.boards import manager
from hkrunner.boards.board_record import Board, BoardStatus
from hkrunner.boards.targets import all_target
from hkrunner.runner.app.board_alongside import BoardAlongside
from hkrunner.runner.io.loop import Loop


@pytest.mark.parametrize(("detached", "timeout_s"), [(True, 3 * 3600), (False, None)])
def test_a_board_that_ends_with_its_run_does_not_expire_before(
    detached: bool, timeout_s: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[dict[str, Any]] = []

    def no_process(module: str, first_line: bytes, log: Path) -> None:
        orders.append(json.loads(first_line))
        raise OSError(errno.EAGAIN, "no process to be had")

    monkeypatch.setattr(manager, "spawn", no_process)
    said: list[str] = []
    output: Any = SimpleNamespace(say=said.append, warn=said.append)
    loop = Loop()
    beside = BoardAlongside(loop, output, tmp_path, detached=detached)
    beside.start_board(all_target(tmp_path), port=0, open_it=False)
    beside.wait(60.0)
    beside.close()
    loop.close()
    assert [order["idle_timeout_s"] for order in orders] == [timeout_s]
    assert beside.failed and said == ["✘ board all cannot be started: no process to be had"]


def test_what_is_missing_on_a_board_is_printed_once(tmp_path: Path) -> None:
    said: list[str] = []
    output: Any = SimpleNamespace(say=said.append, warn=said.append)
    loop = Loop()
    beside = BoardAlongside(loop, output, tmp_path, detached=False)
    board = Board("all", "reference", "all", str(tmp_path), BoardStatus.RUNNING, 0, url="http://127.0.0.1:1/")
    note = "the record of t1 cannot be read: KeyError: 'a'"
    for notes in ((), (note,), (note,)):
        beside._take_report(replace(board, notes=notes))
    loop.close()
    assert said == [f"◌ board all: {note}"]
