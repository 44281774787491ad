"""Four kinds of fork bomb, six times each: ended with a reason, and no process survives.

Bounded: a user of its own with 300 processes at most (as root), and each process of a bomb ends itself.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.local import ALGORITHMS
from support.programs import HKRUNNER, run
from support.users import bounded_command, give_to_bounded

pytestmark = pytest.mark.alone

RUNS = 6
BOMBS = {
    "comet": ("--timeout", "0.15"),
    "comet-sid": ("--timeout", "0.15"),
    "classic": ("--pids", "60"),
    "classic-sid": ("--pids", "60"),
}
ENDS = {"--timeout": "TASK_TIMEOUT", "--pids": "TOO_MANY_PROCESSES"}


@pytest.mark.parametrize("kind", BOMBS)
def test_no_process_survives_a_fork_bomb(kind: str, tmp_path: Path) -> None:
    """The task after each bomb counts who is there of the same program: itself."""
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text(f'["{kind}"]\n["who"]\n' * RUNS)
    give_to_bounded(tmp_path)
    limit = BOMBS[kind]
    command = [HKRUNNER, "-e", ALGORITHMS / "limits_fork_bomb.py", *limit, "--tasks", tasks, "-j", "-q"]
    ended = run(bounded_command(command, tasks=300), cwd=tmp_path, deadline_s=90)
    results = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(results) == 2 * RUNS, ended.stderr[-3000:]
    bombs, counts = results[::2], results[1::2]
    assert {one["output"] for one in counts} == {1}, [one["output"] or one["error"] for one in counts]
    for one in bombs:
        # A comet may be counted while it is many, whatever the time.
        assert one["error"]["code"] in (ENDS[limit[0]], "TOO_MANY_PROCESSES"), one["error"]
        assert "could not be ended" not in one["error"]["message"]


def test_a_process_that_forks_and_exits_at_once_is_counted_too(tmp_path: Path) -> None:
    give_to_bounded(tmp_path)
    inputs = ["-i", '["comet"]', "-i", '["who"]']
    command = [HKRUNNER, "-e", ALGORITHMS / "limits_fork_bomb.py", "--pids", "6", *inputs, "-j"]
    ended = run(bounded_command(command, tasks=300), cwd=tmp_path)
    bomb, count = map(json.loads, ended.stdout.splitlines())
    assert bomb["error"]["code"] == "TOO_MANY_PROCESSES"
    assert "processes of 6 allowed (--pids)" in bomb["error"]["message"]
    assert (ended.status, count["output"]) == (1, 1)
