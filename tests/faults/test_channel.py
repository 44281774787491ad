"""User code that finds the runner's own channel: the task fails with what was found, never hangs."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.local import error_of, misbehave_once, run_tasks

BROKEN = {
    "closes_all_descriptors": "closed the socket",
    "writes_garbage_to_the_channel": "bad frame at byte",
    "announces_a_huge_frame": "frame of 1.15 EB, limit 1.05 MB",
    "sends_a_frame_with_a_bad_body": "bad body",
    "writes_deep_json_into_the_channel": "bad body",
}


@pytest.mark.parametrize("algorithm", BROKEN)
def test_a_channel_that_is_broken_costs_the_child_and_one_task(algorithm: str, tmp_path: Path) -> None:
    run = misbehave_once(f"{algorithm}.py", cwd=tmp_path)
    code, message = error_of(run.tasks[0])
    assert code == "CHANNEL_BROKEN"
    assert BROKEN[algorithm] in message
    assert (run.status, run.tasks[0]["reason"]) == (1, "Crashed")


def test_an_answer_without_a_channel_is_no_answer(tmp_path: Path) -> None:
    run = misbehave_once("closes_all_descriptors_and_returns.py", cwd=tmp_path)
    assert error_of(run.tasks[0])[0] in ("CHANNEL_BROKEN", "EXITED")
    assert run.status == 1


def test_sockets_that_the_algorithm_has_made_nonblocking_still_serve(tmp_path: Path) -> None:
    run = run_tasks("makes_every_descriptor_nonblocking.py", [250_000], [3], [250_000], cwd=tmp_path)
    assert [len(one) for one in run.outputs] == [250_000, 3, 250_000]


def test_a_death_in_the_middle_of_a_frame_is_reported_as_that_death(tmp_path: Path) -> None:
    run = misbehave_once("killed_in_a_frame.py", cwd=tmp_path)
    code, message = error_of(run.tasks[0])
    assert code == "KILLED_BY_SIGNAL" and "SIGKILL" in message
    assert run.status == 137


def test_a_second_answer_is_dropped(tmp_path: Path) -> None:
    run = misbehave_once("answers_twice.py", cwd=tmp_path)
    assert run.outputs == ["forged", "served"]
    assert run.status == 0


@pytest.mark.parametrize("what", ["descriptors", "long texts"])
def test_a_flood_of_right_frames_uses_up_nothing_of_the_runner(what: str, tmp_path: Path) -> None:
    run = run_tasks("floods_the_channel.py", [what], ["behave"], cwd=tmp_path)
    assert run.outputs[-1] == "served"
    if what == "descriptors":
        code, message = error_of(run.tasks[0])
        assert code == "CHANNEL_BROKEN" and "descriptors without a frame" in message
    else:
        for told in (str(run.tasks[0]), run.stderr):
            assert len(told) < 20 * 25_000  # of 400 MB
