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


def test_a_kill_while_an_idle_tree_was_not_checked_is_dropped_at_the_next_check() -> None:
    machine = Machine()
    machine.watch.look(1.0)
    machine.kills += 1
    machine.watch.look(3600.0)
    assert not machine.watch.has_struck()


def test_the_kernels_counter_is_read() -> None:
    first = machine_kills()
    assert 0 <= first <= machine_kills()
