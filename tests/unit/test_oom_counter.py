"""Which ends are attributed to the kernel's out-of-memory killer; the tests play its counter."""

from __future__ import annotations

from hkrunner.sandbox.linux.oom_counter import OomWatch, machine_kills


class Machine:
    """Counts kills as the kernel does, for the whole machine."""

    def __init__(self) -> None:
        self.kills = 7
        self.watch = OomWatch(0.0, count=lambda: self.kills)


def test_a_kill_since_the_last_look_counts() -> None:
    machine = Machine()
    for second in range(1, 10):
        machine.watch.look(second)
    assert not machine.watch.has_struck()
    machine.kills += 1
    assert machine.watch.has_struck()


def test_an_early_kill_elsewhere_is_not_the_cause_of_a_later_end() -> None:
    machine = Machine()
    machine.watch.look(1.0)
    machine.kills += 1
    for second in range(2, 10):
        machine.watch.look(second)
    assert not machine.watch.has_struck()


def test_a_process_may_take_a_second_to_die_of_an_oom_kill() -> None:
    machine = Machine()
    machine.watch.look(1.0)
    machine.kills += 1
    for hundredth in range(101, 200):
        machine.watch.look(hundredth / 100)
    machine.watch.look(2.0)
    assert machine.watch.has_struck()


def test_a_kill_in_a_pause_before_a_task_is_not_the_cause_of_its_end() -> None:
    machine = Machine()
    machine.watch.task_begins(1.0)
    machine.kills += 1
    machine.watch.task_begins(3600.0)
    assert not machine.watch.has_struck()


def test_a_kill_in_the_task_before_is_not_the_cause_of_an_end() -> None:
    machine = Machine()
    machine.watch.task_begins(10.0)
    machine.kills += 1
    machine.watch.task_begins(10.2)
    assert not machine.watch.has_struck()


def test_a_kill_in_one_of_many_brief_tasks_counts_whenever_the_count_was_read() -> None:
    machine = Machine()
    for hundredth in range(1000, 1200):
        machine.watch.task_begins(hundredth / 100)
        assert not machine.watch.has_struck()
    machine.kills += 1
    assert machine.watch.has_struck()


def test_a_kill_between_the_beginning_of_a_task_and_the_first_look_at_it_counts() -> None:
    machine = Machine()
    machine.kills += 1
    machine.watch.look(3600.0)
    assert machine.watch.has_struck()


def test_the_kernels_counter_is_read() -> None:
    first = machine_kills()
    assert 0 <= first <= machine_kills()
