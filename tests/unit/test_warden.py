"""The warden's decisions, in a time that passes only where it waits: see support/simulated_warden.py."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hkrunner.sandbox.linux import process_tree
from hkrunner.sandbox.linux.cgroup import REMOVE_S
from hkrunner.sandbox.parent.warded_child import WARDEN_DEADLINE_S
from hkrunner.sandbox.shared.channel import LAST_STACK_SIGNAL, STACK_SIGNAL
from hkrunner.sandbox.shared.messages import (
    AskUsage,
    Ended,
    EndOthers,
    Kill,
    LimitCpu,
    Sample,
    Spawned,
    WatchTree,
)
from hkrunner.sandbox.usage.usage import Breach
from hkrunner.sandbox.warden.child_tree import LAST_STACK_MOST_S, LAST_STACK_S, STACK_S, TRACKERS_S
from hkrunner.sandbox.warden.warden import KILL_DEADLINE_S, SAMPLE_S
from support.simulated_warden import CHECK_S, CHILD, OTHER, THIRD, SimulatedWarden

MEMORY = Breach("memory", 300.0, 256.0)
PROCESSES = Breach("processes", 12.0, 10.0)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedWarden]:
    """A warden that was asked to start its child, and has not read the message yet."""
    with monkeypatch.context() as patch:
        made = SimulatedWarden(patch)
        made.spawn()
        yield made
        made.close()


def breach_at(world: SimulatedWarden, after_s: float, found: Breach, confirmed: Breach | None) -> None:
    """Have the first check after that time find the one, and the second look the other."""

    def exceed() -> None:
        world.enforcer.found, world.enforcer.confirmed = found, confirmed

    world.at(after_s, exceed)


# ---- the end of the child


def test_the_parent_gets_the_childs_pid_first_and_its_exit_status_last(world: SimulatedWarden) -> None:
    world.at(1.0, lambda: world.tree.end(CHILD, 3 << 8))
    told = world.run()
    assert isinstance(told[0], Spawned) and (told[0].pid, told[0].problem) == (CHILD, "")
    assert isinstance(told[-1], Ended)
    assert (told[-1].status, told[-1].was_killed, told[-1].broken) == (3 << 8, False, None)
    assert told[-1].max_rss_bytes == 1000 * 1024


def test_what_the_child_leaves_running_is_ended_and_named(world: SimulatedWarden) -> None:
    world.at(1.0, lambda: world.tree.end(CHILD))
    ended = world.run_to_ended()
    assert {one.pid for one in ended.others} == {OTHER, THIRD}
    assert world.tree.names == {} and ended.left == []


def test_a_process_that_survives_sigkill_is_named_as_left(world: SimulatedWarden) -> None:
    world.tree.immortal.add(OTHER)
    world.at(1.0, lambda: world.tree.end(CHILD))
    assert [one.pid for one in world.run_to_ended().left] == [OTHER]


def test_the_end_of_another_process_does_not_end_the_child(world: SimulatedWarden) -> None:
    world.at(1.0, lambda: world.tree.end(OTHER))
    world.at(2.0, lambda: world.tree.end(CHILD))
    world.run()
    assert world.clock.now == 102.0
    assert [one for one in world.enforcer.calls if one.startswith("reaped")] == [
        f"reaped {OTHER}", f"reaped {CHILD}", f"reaped {THIRD}",
    ]  # fmt: skip


def test_the_tree_is_measured_before_it_is_killed_and_accounted_for_after(world: SimulatedWarden) -> None:
    world.at(1.0, lambda: world.say(Kill()))
    world.run()
    calls = world.enforcer.calls
    assert calls.index("check_before_kill") < calls.index(f"reaped {CHILD}") < calls.index("finish")


# ---- a limit


def test_a_limit_that_the_second_measurement_confirms_ends_the_tree(world: SimulatedWarden) -> None:
    breach_at(world, 0.95, MEMORY, Breach("memory", 310.0, 256.0))
    ended = world.run_to_ended()
    assert ended.broken is not None and (ended.broken.cause, ended.broken.used) == ("memory", 310.0)
    assert not ended.was_killed and ended.status == signal.SIGKILL
    assert world.clock.now == pytest.approx(101.0), "at the first check after that"


@pytest.mark.parametrize("kind", ["memory", "shared_memory"])
def test_memory_that_the_second_measurement_does_not_confirm_lets_the_tree_continue(
    world: SimulatedWarden, kind: str
) -> None:
    breach_at(world, 0.5, Breach(kind, 300.0, 256.0), None)
    world.at(2.0, lambda: world.tree.end(CHILD))
    ended = world.run_to_ended()
    assert (ended.broken, ended.status) == (None, 0)
    for pid in (CHILD, OTHER, THIRD):
        assert world.tree.received(pid)[:1] == [signal.SIGCONT]
    calls = world.enforcer.calls
    assert calls.index("cpu stop") < calls.index("check_frozen_tree") < calls.index("cpu restart")


@pytest.mark.parametrize("kind", ["processes", "disk", "cpu_time"])
def test_another_limit_ends_the_tree_though_the_second_measurement_finds_it_kept(
    world: SimulatedWarden, kind: str
) -> None:
    breach_at(world, 0.5, Breach(kind, 12.0, 10.0), None)
    ended = world.run_to_ended()
    assert ended.broken is not None and (ended.broken.cause, ended.broken.used) == (kind, 12.0)


def test_the_largest_process_is_asked_for_its_stack_if_it_can_write_one(world: SimulatedWarden) -> None:
    world.tree.handlers = {CHILD, OTHER}
    world.tree.grows_by_s = 1 << 30
    breach_at(world, 0.95, MEMORY, MEMORY)
    world.run()
    assert world.tree.received(OTHER) == [LAST_STACK_SIGNAL, signal.SIGCONT, signal.SIGKILL]
    assert world.tree.received(CHILD) == [signal.SIGKILL]
    assert world.clock.now == pytest.approx(101.0 + LAST_STACK_S, abs=0.001), "no longer than that"


def test_a_process_that_waits_for_a_processor_to_write_its_stack_is_given_longer(
    world: SimulatedWarden,
) -> None:
    world.tree.handlers = {CHILD}
    breach_at(world, 0.95, MEMORY, MEMORY)
    world.run()
    assert world.tree.received(CHILD) == [LAST_STACK_SIGNAL, signal.SIGCONT, signal.SIGKILL]
    assert world.clock.now == pytest.approx(101.0 + LAST_STACK_MOST_S, abs=0.001), "it has not grown"


def test_the_child_is_asked_for_its_stack_if_the_largest_process_cannot_write_one(
    world: SimulatedWarden,
) -> None:
    world.tree.handlers = {CHILD}
    breach_at(world, 0.95, MEMORY, MEMORY)
    world.at(1.005, lambda: world.tree.end(CHILD, signal.SIGSEGV))
    ended = world.run_to_ended()
    assert world.tree.received(CHILD) == [LAST_STACK_SIGNAL, signal.SIGCONT]
    assert world.clock.now == pytest.approx(101.005), "its end ends the wait"
    assert ended.broken is not None and ended.status == signal.SIGSEGV


def test_a_process_that_had_ended_by_itself_is_not_reported_as_left(world: SimulatedWarden) -> None:
    world.tree.names[OTHER] = process_tree.ENDED
    world.at(1.0, lambda: world.tree.end(CHILD))
    assert [one.pid for one in world.run_to_ended().others] == [THIRD]


def test_a_fork_bomb_is_not_asked_for_its_stack(world: SimulatedWarden) -> None:
    world.tree.handlers = {CHILD, OTHER}
    breach_at(world, 0.5, PROCESSES, PROCESSES)
    world.run()
    assert LAST_STACK_SIGNAL not in {number for _, number in world.tree.signals}


# ---- Kill


def test_kill_ends_the_tree_at_once(world: SimulatedWarden) -> None:
    world.at(1.0, lambda: world.say(Kill()))
    ended = world.run_to_ended()
    assert ended.was_killed and ended.status == signal.SIGKILL and ended.broken is None
    assert world.clock.now == 101.0
    assert world.tree.received(CHILD) == [signal.SIGKILL]


def test_kill_with_stack_waits_until_the_stacks_are_whole(world: SimulatedWarden) -> None:
    world.at(1.0, lambda: world.say(Kill(stack=True)))
    for step in range(5):
        world.at(1.01 + step / 1000, lambda: os.write(world.stacks, b"a line\n"))
    assert world.run_to_ended().was_killed
    assert world.tree.received(CHILD) == [STACK_SIGNAL, signal.SIGCONT, signal.SIGKILL]
    assert 101.014 < world.clock.now < 101.02


def test_kill_with_stack_does_not_wait_for_ever(world: SimulatedWarden) -> None:
    world.at(1.0, lambda: world.say(Kill(stack=True)))
    world.run()
    assert world.clock.now == pytest.approx(101.0 + STACK_S, abs=0.002)


def test_kill_with_stack_does_not_wait_for_a_child_that_has_ended(world: SimulatedWarden) -> None:
    world.at(1.0, lambda: world.say(Kill(stack=True)))
    world.at(1.01, lambda: world.tree.end(CHILD, 0))
    assert world.run_to_ended().status == 0
    assert world.clock.now == pytest.approx(101.01)


# ---- the parent


def test_a_broken_lifeline_ends_the_tree(world: SimulatedWarden) -> None:
    world.at(1.0, world.hang_up)
    told = world.run()
    assert world.tree.names == {} and "finish" in world.enforcer.calls
    assert not [one for one in told if isinstance(one, Ended)], "nobody is there to read it"
    assert not world.may_serve_another


def test_what_concerned_the_last_child_of_a_warden_does_not_concern_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        world = SimulatedWarden(patch)
        world.say(Kill())  # for a child that ended meanwhile
        world.spawn()
        world.at(1.0, lambda: world.tree.end(CHILD, 0))
        ended = world.run_to_ended()
        world.close()
    assert (ended.status, ended.was_killed) == (0, False) and world.may_serve_another


@pytest.mark.parametrize("has_ended", [True, False])
def test_temporary_folders_are_removed_if_the_parent_has_ended_and_not_if_it_lives(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, has_ended: bool
) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "main.py").touch()
    with monkeypatch.context() as patch:
        world = SimulatedWarden(patch)
        world.spawn(temporary_folders=[str(folder)])
        world.at(1.0, lambda: setattr(world, "parent_has_ended", has_ended))
        world.at(1.0, world.hang_up)
        world.run()
        world.close()
    assert folder.exists() is not has_ended


def test_temporary_folders_are_the_parents_to_remove_when_the_child_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        world = SimulatedWarden(patch)
        world.spawn(temporary_folders=[str(tmp_path)])
        world.at(1.0, lambda: world.tree.end(CHILD))
        world.run()
        world.close()
    assert tmp_path.exists()


def test_temporary_folders_of_a_child_that_has_ended_are_removed_if_the_parent_has_ended_before_it_could(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "box"
    folder.mkdir()
    with monkeypatch.context() as patch:
        world = SimulatedWarden(patch)
        world.spawn(temporary_folders=[str(folder)])
        world.at(1.0, lambda: world.tree.end(CHILD))
        assert world.begin_next()
        world.parent_has_ended = True
        world.hang_up()
        world.run()
        world.close()
    assert not folder.exists()


def test_a_parent_of_another_version_gets_the_reason_why_nothing_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        world = SimulatedWarden(patch)
        world.say(Ended(None, False, None, [], 0, [], 0, None))
        (told,) = world.run()
        world.close()
    assert isinstance(told, Spawned) and told.pid == 0 and "frame" in told.problem


# ---- the other messages


def test_end_others_leaves_the_child_alone(world: SimulatedWarden) -> None:
    world.at(1.0, lambda: world.say(EndOthers()))
    world.at(2.0, lambda: world.tree.end(CHILD, 0))
    ended = world.run_to_ended()
    assert (world.tree.received(OTHER), world.tree.received(THIRD)) == ([signal.SIGKILL], [signal.SIGKILL])
    assert ended.status == 0 and ended.others == [] and world.clock.now == 102.0


def test_end_others_leaves_a_resource_tracker_to_python(world: SimulatedWarden) -> None:
    world.tree.trackers = {OTHER}
    world.at(1.0, lambda: world.say(EndOthers()))
    world.at(1.5, lambda: world.tree.end(OTHER))
    world.at(2.0, lambda: world.tree.end(CHILD, 0))
    world.run()
    assert (world.tree.received(OTHER), world.tree.received(THIRD)) == ([], [signal.SIGKILL])


def test_end_others_gives_the_helper_of_an_ended_process_time_to_end(world: SimulatedWarden) -> None:
    world.tree.trackers = {CHILD + 10, OTHER, THIRD}
    world.tree.names[CHILD + 10] = "helper of the child"
    world.at(1.0, lambda: world.say(EndOthers([CHILD + 10])))
    world.at(1.5, lambda: world.tree.end(OTHER))
    early: list[int] = []
    world.at(1 + TRACKERS_S - 0.1, lambda: early.extend(world.tree.received(THIRD)))
    world.at(TRACKERS_S + 2, lambda: world.tree.end(CHILD, 0))
    assert [one.pid for one in world.run_to_ended().others] == [CHILD + 10]
    assert early == [] and world.tree.received(THIRD) == [signal.SIGKILL]
    assert world.tree.received(OTHER) == []


def test_end_others_finds_a_process_that_is_forked_meanwhile(world: SimulatedWarden) -> None:
    world.at(1.0, lambda: world.say(EndOthers()))
    world.at(1.001, lambda: world.tree.names.update({THIRD + 1: "late"}))
    world.tree.immortal.add(OTHER)
    world.at(1.005, lambda: world.tree.end(OTHER))
    world.at(2.0, lambda: world.tree.end(CHILD, 0))
    assert world.run_to_ended().others == []
    assert signal.SIGKILL in world.tree.received(THIRD + 1)


def test_end_others_gives_up_on_a_process_that_survives_sigkill(world: SimulatedWarden) -> None:
    world.tree.immortal.add(OTHER)
    world.at(1.0, lambda: world.say(EndOthers()))
    world.at(2.0, lambda: world.tree.end(CHILD, 0))
    assert [one.pid for one in world.run_to_ended().left] == [OTHER]


def test_a_question_for_usage_is_answered_with_its_number(world: SimulatedWarden) -> None:
    world.at(1.1, lambda: world.say(AskUsage(7, restart=True, began_at=100.5)))
    world.at(2.0, lambda: world.tree.end(CHILD))
    answers = [one for one in world.run() if isinstance(one, Sample) and one.answers is not None]
    assert [one.answers for one in answers] == [7]
    calls = world.enforcer.calls
    assert calls.index("fresh_sample") < calls.index("restart_peak 100.5")


def test_the_peak_is_kept_if_no_task_has_begun(world: SimulatedWarden) -> None:
    world.at(1.0, lambda: world.say(AskUsage(7, restart=False)))
    world.at(2.0, lambda: world.tree.end(CHILD))
    world.run()
    assert not [one for one in world.enforcer.calls if one.startswith("restart_peak")]


def test_the_cpu_limit_is_suspended_and_resumed_when_the_parent_asks(world: SimulatedWarden) -> None:
    world.at(1.0, lambda: world.say(LimitCpu(False)))
    world.at(1.5, lambda: world.say(LimitCpu(True)))
    world.at(2.0, lambda: world.tree.end(CHILD))
    world.run()
    assert [one for one in world.enforcer.calls if one.startswith("cpu")] == [
        "cpu suspend", "cpu resume", "cpu stop",
    ]  # fmt: skip


# ---- resource trackers


def test_resource_trackers_end_by_themselves_after_all_others(world: SimulatedWarden) -> None:
    world.enforcer.has_unproven = True
    world.tree.trackers = {OTHER}
    world.at(1.0, lambda: world.tree.end(CHILD))
    world.at(1.2, lambda: world.tree.end(OTHER))
    assert [one.pid for one in world.run_to_ended().others] == [THIRD]
    assert world.tree.received(OTHER) == [signal.SIGCONT]
    assert world.tree.received(THIRD) == [signal.SIGKILL]
    assert world.clock.now == pytest.approx(101.2, abs=0.01)


def test_resource_trackers_that_do_not_end_are_killed(world: SimulatedWarden) -> None:
    world.enforcer.has_unproven = True
    world.tree.trackers = {OTHER}
    world.at(1.0, lambda: world.tree.end(CHILD))
    assert {one.pid for one in world.run_to_ended().others} == {OTHER, THIRD}
    assert world.clock.now == pytest.approx(101.0 + TRACKERS_S, abs=0.01)
    # With what is waited for in between, the parent would take the warden for one that hangs.
    assert world.tree.kill_ends_at == pytest.approx(101.0 + KILL_DEADLINE_S, abs=0.01)
    assert KILL_DEADLINE_S + REMOVE_S + STACK_S + 1.0 < WARDEN_DEADLINE_S


def test_resource_trackers_are_not_waited_for_without_shared_memory_in_doubt(world: SimulatedWarden) -> None:
    world.tree.trackers = {OTHER}
    world.at(1.0, lambda: world.tree.end(CHILD))
    world.run()
    assert world.clock.now == 101.0


# ---- the timing


def test_limits_are_checked_as_often_as_the_enforcer_asks_for(world: SimulatedWarden) -> None:
    world.at(1.05, lambda: world.tree.end(CHILD))
    world.run()
    checks = world.enforcer.checks
    assert checks == pytest.approx([100 + CHECK_S * step for step in range(11)])


def test_samples_are_sent_at_a_steady_pace_while_a_task_runs(world: SimulatedWarden) -> None:
    world.enforcer.check_every_s = SAMPLE_S * 100
    world.at(SAMPLE_S * 4.5, lambda: world.tree.end(CHILD))
    assert sum(isinstance(one, Sample) for one in world.run()) == 5


def test_no_sample_is_sent_while_no_task_runs(world: SimulatedWarden) -> None:
    world.at(SAMPLE_S / 2, lambda: world.say(WatchTree(idle=True, loaded=True)))
    world.at(SAMPLE_S * 10, lambda: world.tree.end(CHILD))
    assert sum(isinstance(one, Sample) for one in world.run()) == 1
    assert "code_loaded" in world.enforcer.calls
    assert len(world.enforcer.checks) > 20, "limits hold between tasks too"


def test_a_task_that_begins_makes_samples_due_at_once(world: SimulatedWarden) -> None:
    world.at(0.1, lambda: world.say(WatchTree(idle=True, loaded=False)))
    world.at(10.0, lambda: world.say(AskUsage(1, restart=True)))
    world.at(10.05, lambda: world.tree.end(CHILD))
    samples = [one for one in world.run() if isinstance(one, Sample)]
    assert [one.answers for one in samples] == [None, 1, None]


def test_limits_are_checked_while_the_parent_is_stopped_and_reads_nothing(world: SimulatedWarden) -> None:
    world.leave_little_room()
    stopped_s = 100 * SAMPLE_S
    world.at(stopped_s, world.read)
    world.at(stopped_s + SAMPLE_S / 2, lambda: world.tree.end(CHILD))
    told = world.run()
    assert sum(isinstance(one, Sample) for one in told) < 50, "the others found no room"
    assert isinstance(told[-1], Ended) and told[-1].status == 0
    assert len(world.enforcer.checks) > stopped_s / CHECK_S - 2
