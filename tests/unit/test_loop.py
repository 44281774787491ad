"""One thread serves descriptors, timers and signals, in the order in which they become due."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from hkrunner.runner.io import loop as loop_module
from hkrunner.runner.io.loop import Loop, Promptness
from hypothesis import given
from hypothesis import strategies as st
from support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def loop(clock: Clock) -> Iterator[Loop]:
    loop = Loop(clock=clock)
    yield loop
    loop.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            pass  # the test has closed it


def nothing() -> None:
    """A callback."""


@given(st.lists(st.integers(0, 20), max_size=20))
def test_timers_fire_in_order_of_time_then_of_making(delays: list[int]) -> None:
    clock, fired = Clock(), list[tuple[int, int]]()
    loop = Loop(clock=clock)
    for index, delay in enumerate(delays):
        loop.after(delay, partial(fired.append, (delay, index)))
    clock.now += 20
    loop.turn(0)
    loop.close()
    assert fired == sorted((delay, index) for index, delay in enumerate(delays))


def test_a_timer_does_not_fire_before_its_time(loop: Loop, clock: Clock) -> None:
    fired: list[int] = []
    timer = loop.after(5, lambda: fired.append(1))
    clock.now += 4.999
    loop.turn(0)
    assert fired == [] and timer.pending
    clock.now += 0.001
    loop.turn(0)
    loop.turn(0)
    assert fired == [1] and not timer.pending


def test_a_cancelled_timer_does_not_fire(loop: Loop, clock: Clock) -> None:
    timer = loop.after(1, lambda: pytest.fail("it fired"))
    timer.cancel()
    timer.cancel()
    clock.now += 2
    loop.turn(0)


def test_cancelled_timers_of_a_far_time_do_not_add_up(loop: Loop, clock: Clock) -> None:
    fired: list[str] = []
    loop.after(1, partial(fired.append, "first"))
    for _ in range(3 * loop_module.MANY_TIMERS):
        loop.after(3600, nothing).cancel()
        loop.turn(0)
    assert len(loop._timers) <= loop_module.MANY_TIMERS
    loop.after(2, partial(fired.append, "second"))
    clock.now += 2
    loop.turn(0)
    assert fired == ["first", "second"]


def test_an_alarm_set_to_a_far_and_a_near_time_in_turns_has_few_timers(loop: Loop, clock: Clock) -> None:
    gone_off: list[float] = []
    alarm = loop.alarm(lambda: gone_off.append(clock.now))
    for _ in range(3 * loop_module.MANY_TIMERS):
        alarm.set(1_000_000)
        alarm.set(1)
        clock.now += 1
        loop.turn(0)
    assert len(gone_off) == 3 * loop_module.MANY_TIMERS
    assert len(loop._timers) <= loop_module.MANY_TIMERS


def test_a_timer_may_cancel_another_that_is_due(loop: Loop, clock: Clock) -> None:
    second: list[Callable[[], None]] = []
    loop.after(1, lambda: second[0]())
    second.append(loop.after(1, lambda: pytest.fail("it fired")).cancel)
    clock.now += 2
    loop.turn(0)


def test_a_descriptor_is_served_while_it_is_asked_for(loop: Loop, pipe: tuple[int, int]) -> None:
    read, write = pipe
    got: list[bytes] = []
    loop.on_readable(read, lambda: got.append(os.read(read, 1)))
    loop.turn(0)
    os.write(write, b"abc")
    loop.turn(0)
    loop.turn(0)
    loop.on_readable(read, None)
    loop.on_readable(read, None)
    loop.turn(0)
    assert got == [b"a", b"b"]


def test_reading_and_writing_are_asked_for_one_by_one(loop: Loop, pipe: tuple[int, int]) -> None:
    _, write = pipe
    calls: list[str] = []
    loop.on_writable(write, lambda: calls.append("old"))
    loop.on_writable(write, lambda: calls.append("new"))
    loop.on_readable(write, nothing)
    loop.on_readable(write, None)
    loop.turn(0)
    assert calls == ["new"]


def test_a_callback_may_remove_another_descriptor_that_is_ready(loop: Loop, pipe: tuple[int, int]) -> None:
    read, write = pipe
    other = os.dup(read)
    os.write(write, b"x")
    served: list[int] = []

    def serve(mine: int, others: int) -> None:
        served.append(mine)
        loop.on_readable(others, None)
        os.close(others)

    loop.on_readable(read, lambda: serve(read, other))
    loop.on_readable(other, lambda: serve(other, read))
    loop.turn(0)
    assert len(served) == 1
    loop.on_readable(served[0], None)
    os.close(served[0])


def test_a_stop_ends_the_run_after_the_callback(loop: Loop) -> None:
    calls: list[str] = []
    loop.after(0, loop.stop)
    loop.after(0, lambda: calls.append("late"))
    loop.run()
    assert calls == []


def test_a_signal_wakes_the_loop_and_its_handler_is_given_back() -> None:
    loop = Loop()
    before = signal.getsignal(signal.SIGUSR1)
    got: list[int] = []
    loop.on_signal(signal.SIGUSR1, lambda: (got.append(1), loop.stop()))  # type: ignore[func-returns-value]
    loop.after(0, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    loop.after(30, lambda: pytest.fail("no signal came"))
    loop.run()
    loop.close()
    assert got == [1]
    assert signal.getsignal(signal.SIGUSR1) is before
    assert signal.set_wakeup_fd(-1) == -1


def test_another_thread_can_post() -> None:
    loop = Loop()
    main = threading.get_ident()
    ran: list[bool] = []

    def done() -> None:
        ran.append(threading.get_ident() == main)
        loop.stop()

    thread = threading.Thread(target=loop.post_from_thread, args=(done,))
    loop.after(0, thread.start)
    loop.after(30, lambda: pytest.fail("nothing was posted"))
    loop.run()
    thread.join()
    loop.close()
    loop.post_from_thread(nothing)  # from a thread that is late: it has no effect, and raises nothing
    assert ran == [True]


def test_an_exception_ends_the_run(loop: Loop) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    loop.after(0, fail)
    with pytest.raises(ZeroDivisionError):
        loop.run()


def test_waiting_for_a_condition_ends_as_soon_as_it_holds(loop: Loop, pipe: tuple[int, int]) -> None:
    seen: list[str] = []
    loop.on_readable(pipe[0], lambda: seen.append(os.read(pipe[0], 10).decode()))
    os.write(pipe[1], b"there")
    loop.expect("it")
    loop.turn()
    assert seen == ["there"]
    loop.expect("it")
    loop.turn(0)
    loop.after(0, lambda: seen.append("due"))
    loop.expect("it")
    loop.turn()
    assert seen == ["there", "due"]


def test_what_can_wait_is_read_after_what_is_expected(
    loop: Loop, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "SPIN_S", 60.0)
    loop.cores = 2
    seen: list[str] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        loop.on_readable(pipe[0], lambda: seen.append(os.read(pipe[0], 10).decode()), can_wait=True)
        loop.on_readable(ours, lambda: seen.append(ours.recv(10).decode()))
        os.write(pipe[1], b"printed")
        answer = threading.Timer(0.05, theirs.send, (b"answer",))
        answer.start()
        loop.expect("it")
        loop.turn()
        answer.join()
        assert sorted(seen) == ["answer", "printed"], "one turn: the loop has polled until the answer came"
        monkeypatch.setattr(loop_module, "SPIN_S", 0.0)
        os.write(pipe[1], b"more")
        loop.expect("it")
        loop.turn()
        assert seen[2:] == ["more"], "it does not wait for what does not come"
        loop.on_readable(ours, None)


def test_what_has_often_taken_long_is_polled_for_less_often() -> None:
    promptness = Promptness()
    polled = []
    for number in range(400):
        if promptness.is_likely():
            polled.append(number)
            promptness.note(False)
    assert polled[:8] == [0, 1, 2, 3, 5, 8, 13, 22] and polled[-1] - polled[-2] == 65
    while not promptness.is_likely():
        pass
    promptness.note(True)
    assert promptness.is_likely() and promptness.is_likely()


def test_an_alarm_goes_off_once_at_the_time_set_last() -> None:
    clock = Clock()
    loop = Loop(clock=clock)
    gone_off: list[float] = []
    alarm = loop.alarm(lambda: gone_off.append(clock.now))
    try:
        for at in (1.0, 5.0, 2.0):
            alarm.set(at)
        begun = clock.now
        for after in (1.0, 1.9, 2.0, 5.0, 9.0):
            clock.now = begun + after
            loop.turn(0)
        assert gone_off == [begun + 2.0] and not alarm.pending
        alarm.set(1.0)
        alarm.cancel()
        clock.now += 2.0
        loop.turn(0)
        assert len(gone_off) == 1
    finally:
        loop.close()


def test_a_timer_in_a_month_does_not_overflow_the_wait() -> None:
    loop = Loop()
    try:
        loop.after(30 * 86_400.0, lambda: None)
        loop.post_from_thread(loop.stop)
        loop.run()
    finally:
        loop.close()
