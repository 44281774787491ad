"""Limits of several processes at once: what all may use together is shared out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.local import ALGORITHMS, run_tasks
from support.programs import run_hkrunner

OBEYS = ALGORITHMS / "obeys.py"


def test_the_total_of_all_processes_is_shared(tmp_path: Path) -> None:
    inputs = (["text", 300_000_000], ["give", 1], ["give", 2])
    args = ("--parallel", "3", "--total-mem", "384Mi")
    ran = run_tasks(OBEYS, *inputs, args=args, cwd=tmp_path)
    assert [task["memLimitBytes"] for task in ran.tasks] == [128 << 20] * 3
    assert (ran.status, ran.tasks[0]["reason"], ran.outputs) == (137, "MemoryLimit", [None, 1, 2])
    again = run_hkrunner("--again", "t2", "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["memLimitBytes"] == 128 << 20


def plan(cwd: Path, *args: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(
        run_hkrunner(OBEYS, *("-i", "1") * 5, "--dry-run", "--json", *args, cwd=cwd).stdout
    )
    return {one["name"]: (one["value"], one["from"]) for one in told["limits"]} | {"in": told["processes"]}


def test_the_dry_run_shows_the_shares_and_their_source(tmp_path: Path) -> None:
    shares = plan(tmp_path, "--parallel", "4", "--total-mem", "1Gi", "--total-cpu", "2")
    assert shares["memory"] == (256 << 20, "--total-mem 1Gi for 4 processes")
    assert shares["cpu"] == (0.5, "--total-cpu 2 for 4 processes")
    assert shares["in"] == 4
    less = plan(
        tmp_path, "--parallel", "8", "--mem", "64Mi", "--cpu", "100m", "--total-mem=1Gi", "--total-cpu=2"
    )
    assert less == {"memory": (64 << 20, "--mem"), "cpu": (0.1, "--cpu"), "in": 5}


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("--parallel", "2"), "--parallel is for local runs: give --input or --tasks"),
        (("-i", "1", "--parallel", "0"), "--parallel wants a whole number from 1 on, not '0'"),
        (("-i", "1", "--parallel", "two"), "--parallel wants a whole number, not 'two'"),
        (
            ("-i", "1", "--parallel", "2", "--in-process"),
            "--in-process runs the code in this one process: leave",
        ),
        (
            ("-i", "1", "--parallel", "2", "--pdb"),
            "--pdb runs the code in this one process: leave --parallel out",
        ),
        (("-i", "1", "--unordered"), "--unordered is for several processes at once: give --parallel with it"),
        (("-i", "1", "--total-mem", "1Gi"), "--total-mem is for several processes at once: give --parallel"),
        (("-i", "1", "--total-cpu", "2"), "--total-cpu is for several processes at once: give --parallel"),
        (
            ("-i", "1", "--parallel", "2", "--total-mem", "6Mi"),
            "--total-mem 6Mi: 2 processes would get less than 4 MiB",
        ),
        (("-i", "1", "--parallel", "2", "--total-cpu", "x"), "--total-cpu x: cpu should be number of cores"),
    ],
)
def test_options_that_exclude_each_other_are_refused_in_one_sentence(
    args: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    ended = run_hkrunner(OBEYS, *args, cwd=tmp_path)
    assert (ended.status, ended.stdout) == (2, "") and ended.stderr.startswith(f"hkrunner: {sentence}")
    assert ended.stderr.count("\n") == 1
