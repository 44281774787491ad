"""Which ends are put down to the kernel's killer for want of memory; the counter is ours here."""

from __future__ import annotations

from hkrunner.sandbox.linux.oom_counter import OomWatch, machine_kills


class Machine:
    """Counts kills as the kernel does, for everybody on it."""

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


def test_a_kill_elsewhere_early_in_a_long_life_says_nothing_about_the_end() -> None:
    machine = Machine()
    machine.watch.look(1.0)
    machine.kills += 1
    for second in range(2, 10):
        machine.watch.look(second)
    assert not machine.watch.has_struck()


def test_a_process_may_take_a_second_to_die_of_it() -> None:
    machine = Machine()
    machine.watch.look(1.0)
    machine.kills += 1
    for hundredth in range(101, 200):
        machine.watch.look(hundredth / 100)
    machine.watch.look(2.0)
    assert machine.watch.has_struck()


def test_a_kill_while_nobody_looked_at_an_idle_tree_is_forgotten_at_the_next_look() -> None:
    machine = Machine()
    machine.watch.look(1.0)
    machine.kills += 1
    machine.watch.look(3600.0)
    assert not machine.watch.has_struck()


def test_the_kernels_counter_is_read() -> None:
    first = machine_kills()
    assert 0 <= first <= machine_kills()
