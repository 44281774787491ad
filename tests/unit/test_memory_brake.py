"""What does not fit fails inside the algorithm, as its own error; what may fit is let through."""

from __future__ import annotations

import os
import resource
import select
import time
from collections.abc import Callable

import pytest
from hkrunner.sandbox.linux import procfs
from hkrunner.sandbox.shared.limits import MI, Limits
from hkrunner.sandbox.usage.sampler import TreeSampler
from hkrunner.sandbox.usage.usage import breach
from hkrunner.sandbox.warden import memory_brake, own_time, reserved_brake
from hkrunner.sandbox.warden.memory_brake import NearLimitBrake
from hkrunner.sandbox.warden.own_time import OwnTime, TimeSince
from hkrunner.sandbox.warden.reserved_brake import ReservedBrake
from support.clock import Clock
from support.trees import Tree
from support.waiting import wait_until

LIMITS = Limits(memory_bytes=128 * MI)

WAITS_FOR_A_LINE = "import signal, sys; signal.alarm(20); sys.stdin.readline()\n"


class Braked:
    """One piece of code on the brake, with a pipe to its stdin and its output."""

    def __init__(
        self, code: str, *, mode: str = "brake", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.sampler = TreeSampler(os.getpid(), LIMITS._replace(mem_mode=mode), clock=clock)
        self._tree = Tree(self.sampler)
        self._in_read, self._in = os.pipe()
        self._out, self._out_write = os.pipe()
        self.pid = self._tree.start(code=WAITS_FOR_A_LINE + code, before_exec=self._connect)
        self.brake: NearLimitBrake | ReservedBrake = ReservedBrake(128 * MI)
        if mode == "auto":
            self.brake = NearLimitBrake(128 * MI, self.pid)

    def _connect(self) -> None:
        os.dup2(self._in_read, 0)
        os.dup2(self._out_write, 1)

    def __enter__(self) -> Braked:
        return self

    def __exit__(self, *_: object) -> None:
        self._tree.__exit__(None, None, None)
        for fd in (self._in_read, self._in, self._out, self._out_write):
            os.close(fd)
        self.sampler.close()

    def go(self) -> None:
        os.write(self._in, b"\n")

    def watch(self, until: Callable[[], object], what: str) -> None:
        self._tree.watch(lambda: self.brake.adjust(self.sampler, time.monotonic()) or until(), what=what)

    @property
    def is_over(self) -> bool:
        return self._tree.ended.get(self.pid) is not None

    def output(self) -> str:
        assert select.select([self._out], [], [], 20.0)[0], "it prints nothing"
        return os.read(self._out, 4096).decode()


def soft(pid: int) -> int:
    return resource.prlimit(pid, resource.RLIMIT_DATA)[0]


def test_one_large_allocation_fails_as_memory_error_and_the_process_goes_on() -> None:
    code = """
try:
    bytearray(b"x") * (200 << 20)
except MemoryError:
    print("MemoryError")
small = bytearray(b"x") * (40 << 20)
print("went on")
"""
    with Braked(code) as one:
        one.watch(lambda: soft(one.pid) != resource.RLIM_INFINITY, "the brake")
        one.go()
        one.watch(lambda: one.is_over, "its end")
        assert one.output() == "MemoryError\nwent on\n"
        assert one.sampler.peak_bytes < 128 * MI


@pytest.mark.parametrize("mode", ["auto", "brake"])
def test_small_steps_run_into_the_brake_before_they_run_into_the_limit(mode: str) -> None:
    # 2 MiB between two looks, as it may be in a millisecond: see memory_brake.py.
    code = """
import os
kept = []
try:
    while True:
        os.write(1, b".")
        os.read(0, 1)
        for _ in range(40):
            kept.append(bytearray(50_000))
except MemoryError:
    kept = None
    os.write(1, b"MemoryError")
"""
    clock = Clock()
    with Braked(code, mode=mode, clock=clock) as one:
        told = ""
        while "MemoryError" not in told:
            one.go()
            told = one.output()
            clock.now += 0.001
            one.sampler.look(clock.now)
            one.brake.adjust(one.sampler, clock.now)
            # What was reserved before and touched now is no allocation: it passes the brake, and is little.
            found = breach(one.sampler.usage, LIMITS)
            assert found is None or found.used - found.allowed <= 4 * MI


def test_the_hard_limit_is_never_touched() -> None:
    with Braked("") as one:
        before = resource.prlimit(one.pid, resource.RLIMIT_DATA)
        one.watch(lambda: soft(one.pid) != before[0], "the brake")
        assert resource.prlimit(one.pid, resource.RLIMIT_DATA)[1] == before[1]


def test_a_process_that_no_warden_has_looked_at_is_refused_memory_too_once_its_code_is_loaded() -> None:
    code = """
from hkrunner.sandbox.child.memory_reserve import lower_brake
lower_brake(64 << 20)
try:
    bytearray(80 << 20)
except MemoryError:
    print("MemoryError", flush=True)
import sys
sys.stdin.readline()
"""
    with Braked(code) as one:
        one.go()
        assert one.output() == "MemoryError\n"
        lowered = soft(one.pid)
        one.watch(lambda: soft(one.pid) > lowered, "the warden's own limit, above the one that was found")


def test_freed_memory_can_be_reserved_again() -> None:
    code = """
for _ in range(4):
    kept = bytearray(b"x") * (80 << 20)
    del kept
print("four times")
"""
    with Braked(code) as one:
        one.watch(lambda: soft(one.pid) != resource.RLIM_INFINITY, "the brake")
        one.go()
        one.watch(lambda: one.is_over, "its end")
        assert one.output() == "four times\n"


def test_the_users_own_lower_limit_is_never_raised() -> None:
    calls: list[tuple[int, int]] = []

    def prlimit(pid: int, which: int, pair: tuple[int, int] | None = None) -> tuple[int, int]:
        if pair is not None:
            calls.append(pair)
        return 30 * MI, 40 * MI

    sampler = TreeSampler(os.getpid(), LIMITS)
    with Tree(sampler) as tree:
        tree.start(code=WAITS_FOR_A_LINE)
        sampler.look(0.0)
        brake = ReservedBrake(128 * MI, prlimit=prlimit)
        brake.adjust(sampler, 0.0)
    sampler.close()
    assert all(soft <= 30 * MI and hard == 40 * MI for soft, hard in calls)


def test_processes_that_have_ended_or_changed_their_user_are_skipped() -> None:
    def prlimit(pid: int, which: int, pair: tuple[int, int] | None = None) -> tuple[int, int]:
        raise PermissionError(pid)

    sampler = TreeSampler(os.getpid(), LIMITS)
    with Tree(sampler) as tree:
        tree.start(code=WAITS_FOR_A_LINE)
        sampler.look(0.0)
        brake = ReservedBrake(128 * MI, prlimit=prlimit)
        brake.adjust(sampler, 0.0)
        assert brake.held_back is None
    sampler.close()


def test_what_a_process_held_is_remembered_when_it_ends_and_its_memory_is_gone() -> None:
    process = StubProcess(10, anon=6 * MI, data=7 * MI)
    sampler = StubSampler(process, limit=7 * MI)
    brake = ReservedBrake(7 * MI, prlimit=Limiter())
    brake.adjust(sampler, 1.0)  # type: ignore[arg-type]
    process.anon = process.data = 0  # a zombie's
    brake.adjust(sampler, 1.1)  # type: ignore[arg-type]
    assert brake.held_back is not None and brake.held_back.memory_bytes == 6 * MI


# ---- only near the limit


def test_what_is_reserved_and_not_used_is_let_through_near_the_limit_too() -> None:
    """64 stacks of 8 MiB at 100 of 128 MiB, and 40 GiB reserved: what a limit by reserving would refuse."""
    code = """
import mmap, threading
used = bytearray(b"x") * (88 << 20)
wait = threading.Event()
threads = [threading.Thread(target=wait.wait) for _ in range(64)]
for one in threads: one.start()
arena = mmap.mmap(-1, 40 << 30, flags=mmap.MAP_PRIVATE | 0x4000)  # MAP_NORESERVE
arena[0] = 1
wait.set()
for one in threads: one.join()
print("all of it")
"""
    with Braked(code, mode="auto") as one:
        one.watch(lambda: one.sampler.processes, "its begin")
        one.go()
        one.watch(lambda: one.is_over, "its end")
        assert one.output() == "all of it\n"


class StubProcess:
    """As much of a process as the brake asks for."""

    def __init__(self, pid: int, anon: int, data: int) -> None:
        self.pid, self.anon, self.data = pid, anon, data
        self.rss, self.first_seen, self.clock = anon, 0.0, procfs.process_clock(os.getpid())


class StubSampler:
    """A tree whose memory is what the test says."""

    growing = 1
    next_at = float("inf")

    def __init__(self, *processes: StubProcess, limit: int = 256 * MI) -> None:
        self.processes = {one.pid: one for one in processes}
        self._limit = limit

    @property
    def headroom_bytes(self) -> int:
        return self._limit - self.least_bytes

    @property
    def least_bytes(self) -> int:
        return sum(one.anon for one in self.processes.values())


class AllTime:
    """The time of a process that never waits for a processor."""

    def __init__(self, process: StubProcess, now: float) -> None:
        self._at = now

    def passed_s(self, now: float) -> float:
        before, self._at = self._at, now
        return now - before


@pytest.fixture(autouse=True)
def _all_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (memory_brake, reserved_brake):
        monkeypatch.setattr(module, "OwnTime", AllTime)


class Limiter:
    """Stands for prlimit(2), and remembers the soft limit of each process."""

    def __init__(self) -> None:
        self.soft: dict[int, int] = {}

    def __call__(self, pid: int, which: int, pair: tuple[int, int] | None = None) -> tuple[int, int]:
        before = self.soft.get(pid, resource.RLIM_INFINITY)
        if pair is not None:
            self.soft[pid] = pair[0]
        return before, resource.RLIM_INFINITY


def near_limit(process: StubProcess, *others: StubProcess) -> tuple[NearLimitBrake, StubSampler, Limiter]:
    limiter = Limiter()
    brake = NearLimitBrake(256 * MI, process.pid, prlimit=limiter)
    return brake, StubSampler(process, *others), limiter


def test_the_brake_is_armed_only_in_the_last_of_the_limit_and_only_while_the_process_grows() -> None:
    process = StubProcess(10, anon=200 * MI, data=300 * MI)
    brake, sampler, limiter = near_limit(process)
    brake.adjust(sampler, 1.0)  # type: ignore[arg-type]
    assert 10 not in limiter.soft
    process.anon = 250 * MI
    brake.adjust(sampler, 1.1)  # type: ignore[arg-type]
    assert limiter.soft[10] == 300 * MI, "6 of 256 MiB are left: what is kept back"
    assert brake.held_back is not None and brake.held_back.room_bytes == 0
    brake.adjust(sampler, 1.2)  # type: ignore[arg-type]
    assert limiter.soft[10] == 300 * MI
    brake.adjust(sampler, 1.4)  # type: ignore[arg-type]
    assert limiter.soft[10] == resource.RLIM_INFINITY, "it does not grow: judging by use is enough"
    process.anon = 251 * MI
    brake.adjust(sampler, 1.5)  # type: ignore[arg-type]
    assert limiter.soft[10] == 300 * MI


@pytest.mark.parametrize("limit", [1 << 60, 2**63 - 1])
def test_a_limit_for_which_the_kernel_has_no_number_is_none(limit: int) -> None:
    limiter = Limiter()
    brake = NearLimitBrake(limit, 10, prlimit=limiter)
    brake.adjust(StubSampler(StubProcess(10, anon=200 * MI, data=300 * MI)), 1.0)  # type: ignore[arg-type]
    assert limiter.soft == {}, "as it was: unlimited"


def test_a_process_that_frees_memory_is_released_at_once() -> None:
    process = StubProcess(10, anon=250 * MI, data=300 * MI)
    brake, sampler, limiter = near_limit(process)
    brake.adjust(sampler, 1.0)  # type: ignore[arg-type]
    assert limiter.soft[10] == 300 * MI
    process.anon = 100 * MI
    brake.adjust(sampler, 1.01)  # type: ignore[arg-type]
    assert limiter.soft[10] == resource.RLIM_INFINITY
    limiter.soft[10] = 304 * MI  # the process has raised what it had read before
    brake.adjust(sampler, 1.02)  # type: ignore[arg-type]
    assert limiter.soft[10] == resource.RLIM_INFINITY


def test_a_process_that_repeats_what_is_refused_is_let_through_until_more_is_free() -> None:
    process = StubProcess(10, anon=250 * MI, data=300 * MI)
    brake, sampler, limiter = near_limit(process)
    for tenth in range(0, 20, 2):  # fills what there is, is refused more, frees a sixteenth, and begins again
        for process.anon in (250 * MI + tenth * MI // 4, 236 * MI):
            is_full = process.anon > 240 * MI
            brake.adjust(sampler, 1 + tenth / 10)  # type: ignore[arg-type]
            assert brake.is_holding == (is_full and tenth < 16)
    assert limiter.soft[10] == resource.RLIM_INFINITY
    for anon in (200, 250):
        process.anon = anon * MI
        brake.adjust(sampler, 4.0)  # type: ignore[arg-type]
    assert brake.is_holding


def times_held(brake: NearLimitBrake, sampler: StubSampler, looks: list[tuple[float, int]]) -> list[bool]:
    """Return whether the only process is held back when it is at 250 MiB; looks: (seconds, its MiB then)."""
    held = []
    for now, mebibytes in looks:
        sampler.processes[10].anon = mebibytes * MI
        brake.adjust(sampler, now)  # type: ignore[arg-type]
        if mebibytes == 250:
            held.append(brake.is_holding)
    return held


@pytest.mark.parametrize(
    ("freed", "pause_s", "times"), [(4, 0.5, 2), (100, 1.5, 2), (100, 0.5, 3), (100, 0.15, 4), (100, 0.08, 7)]
)
def test_a_loop_that_is_refused_again_and_again_is_let_through_whatever_it_frees_in_between(
    freed: int, pause_s: float, times: int
) -> None:
    brake, sampler, _ = near_limit(StubProcess(10, anon=0, data=300 * MI))
    looks = [(1 + at * pause_s, 250 if at % 2 == 0 else 250 - freed) for at in range(16)]
    assert times_held(brake, sampler, looks) == [True] * times + [False] * (8 - times)


@pytest.mark.parametrize(("share", "times"), [(1.0, 2), (0.2, 4)])
def test_what_a_program_waits_for_a_processor_does_not_count(
    share: float, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of eight times the limit that is halved until it fits is refused four times, on any machine."""
    monkeypatch.setattr(AllTime, "passed_s", lambda one, now: share)  # each second
    brake, sampler, _ = near_limit(StubProcess(10, anon=0, data=300 * MI))
    looks = [(1.0 + at, 20 if at % 2 else 250) for at in range(12)]
    assert times_held(brake, sampler, looks) == [True] * times + [False] * (6 - times)


def test_a_program_that_is_refused_twice_and_then_tries_less_is_never_let_through() -> None:
    brake, sampler, _ = near_limit(StubProcess(10, anon=0, data=300 * MI))
    looks = [(0.0, 20), (1.0, 250), (2.0, 20), (4.0, 250), (5.0, 20), (6.0, 200), (7.0, 20)]
    # A third one of another kind: there was other work in between.
    assert times_held(brake, sampler, [*looks, (8.0, 250)]) == [True] * 3


@pytest.mark.parametrize(("cores", "times"), [(0.5, 20), (0.0, 2)])
def test_a_process_that_waits_before_it_fills_its_memory_again_is_let_through_and_one_that_works_is_not(
    cores: float, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(memory_brake, "cpu_ns", lambda process: int(now * cores * 1e9))
    brake, sampler, _ = near_limit(StubProcess(10, anon=0, data=300 * MI))
    held = []
    for at in range(0, 80, 4):
        for now, mebibytes in ((1.0 + at, 250), (1.1 + at, 5), (1.5 + at, 5), (4.0 + at, 5)):
            held += times_held(brake, sampler, [(now, mebibytes)])
    assert held == [True] * times + [False] * (20 - times)


def test_the_limit_that_a_process_has_raised_for_a_thread_is_left_until_the_thread_has_begun() -> None:
    process = StubProcess(10, anon=250 * MI, data=300 * MI)
    brake, sampler, limiter = near_limit(process)
    brake.adjust(sampler, 1.0)  # type: ignore[arg-type]
    limiter.soft[10] = 312 * MI
    for at in (1.01, 1.2):
        process.anon += MI // 2
        process.data = 310 * MI
        brake.adjust(sampler, at)  # type: ignore[arg-type]
        assert limiter.soft[10] == 312 * MI and brake.is_holding
    set_again = ((1.3, 252, 310), (1.31, 253, 312), (1.32, 100, None), (1.33, 252, 310))
    for at, anon, mebibytes in set_again:
        process.anon = anon * MI
        brake.adjust(sampler, at)  # type: ignore[arg-type]
        assert limiter.soft[10] == (resource.RLIM_INFINITY if mebibytes is None else mebibytes * MI), at
        limiter.soft[10] += 2 * MI * (at == 1.3)


def test_a_process_that_grows_slowly_near_the_limit_is_held_back_all_the_time() -> None:
    process = StubProcess(10, anon=245 * MI, data=300 * MI)
    brake, sampler, _ = near_limit(process)
    for tenth in range(60):
        process.anon += 130 * 1024
        brake.adjust(sampler, 1 + tenth / 10)  # type: ignore[arg-type]
        assert brake.is_holding


def test_a_process_started_while_another_is_limited_gets_the_users_own_limit() -> None:
    process, started = StubProcess(10, anon=250 * MI, data=300 * MI), StubProcess(11, anon=MI, data=2 * MI)
    brake, sampler, limiter = near_limit(process)
    brake.adjust(sampler, 1.0)  # type: ignore[arg-type]
    limiter.soft[11] = limiter.soft[10]  # by fork
    sampler.processes[11] = started
    brake.adjust(sampler, 1.01)  # type: ignore[arg-type]
    assert limiter.soft[11] == resource.RLIM_INFINITY and limiter.soft[10] < 1 << 30
    limiter.soft[12] = limiter.soft[10]  # by fork, and seen only when the first one has its own limit again
    process.anon = 100 * MI
    brake.adjust(sampler, 1.02)  # type: ignore[arg-type]
    assert limiter.soft[10] == resource.RLIM_INFINITY
    sampler.processes[12] = StubProcess(12, anon=MI, data=2 * MI)
    brake.adjust(sampler, 1.03)  # type: ignore[arg-type]
    assert limiter.soft[12] == resource.RLIM_INFINITY


def test_a_low_limit_that_a_process_near_the_limit_has_set_itself_does_not_stay() -> None:
    """Its own answer to a refusal sets what it has read before, and may have been stopped in between."""
    process = StubProcess(10, anon=250 * MI, data=300 * MI)
    brake, sampler, limiter = near_limit(process)
    for at in (1.0, 2.0, 5.0):
        brake.adjust(sampler, at)  # type: ignore[arg-type]
    limiter.soft[10] = 304 * MI
    brake.adjust(sampler, 5.1)  # type: ignore[arg-type]
    assert limiter.soft[10] == resource.RLIM_INFINITY


def test_no_stack_of_a_thread_fits_while_the_brake_is_armed() -> None:
    """A thread that begins and then gets no memory for its first object is waited for by Thread.start()."""
    for limit in (32, 64, 128, 256, 1024, 65536):
        for free in range(0, 64):
            process = StubProcess(10, anon=(limit - free) * MI, data=0)
            brake, limiter = NearLimitBrake(limit * MI, 10, prlimit=(given := Limiter())), given
            brake.adjust(StubSampler(process), 1.0)  # type: ignore[arg-type]
            assert limiter.soft.get(10, 0) < 8 * MI


# ---- reserved memory that does not fit


def reserving(
    process: StubProcess, monkeypatch: pytest.MonkeyPatch, *, cores: float
) -> tuple[ReservedBrake, StubSampler, Callable[[float, int, int], bool]]:
    """Return a brake of 256 MiB, its sampler, and what looks at the process and tells if it is limited."""
    limiter, at = Limiter(), [0.0]
    monkeypatch.setattr(reserved_brake, "cpu_ns", lambda process: int(at[0] * cores * 1e9))
    monkeypatch.setattr(reserved_brake, "sleeps", lambda pid: cores < 0.5)
    brake, sampler = ReservedBrake(256 * MI, prlimit=limiter), StubSampler(process)

    def look(now: float, reserved: int, used: int) -> bool:
        at[0], process.data = now, reserved * MI
        process.anon = process.rss = used * MI
        brake.adjust(sampler, now)  # type: ignore[arg-type]
        return limiter.soft[process.pid] != resource.RLIM_INFINITY

    return brake, sampler, look


def test_a_process_that_runs_without_growing_may_reserve_what_it_likes_for_a_moment_each_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    brake, sampler, look = reserving(StubProcess(10, 60 * MI, 90 * MI), monkeypatch, cores=1.0)
    assert look(1.0, 90, 60) and look(1.1, 90, 60) and look(2.0, 90, 60)
    assert not look(2.2, 90, 60)
    assert sampler.next_at == pytest.approx(2.21)
    assert look(2.21, 90, 60), "it did not use that"
    assert look(3.1, 90, 60) and not look(3.3, 90, 60)
    assert not look(3.31, 2000, 70), "it has repeated this request"
    assert not look(9.0, 2000, 200) and not look(9.1, 90, 60)
    brake.forget_held_back(3.0)
    assert not look(9.2, 90, 60), "this task has repeated it"
    brake.forget_held_back(9.0)
    assert look(9.3, 91, 60)


def test_a_process_that_asks_from_time_to_time_may_reserve_what_it_likes_when_it_runs_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    brake, _, look = reserving(StubProcess(10, 60 * MI, 90 * MI), monkeypatch, cores=0.0)
    ran_s = 0.0
    monkeypatch.setattr(reserved_brake, "cpu_ns", lambda process: int(ran_s * 1e9))
    assert look(1.0, 90, 60) and look(1.1, 90, 60)
    ran_s += 0.001
    assert not look(2.2, 90, 60) and not look(4.0, 90, 60)
    ran_s += 0.001
    assert look(4.1, 90, 60), "it has run, and asked for nothing"
    brake.is_idle = True
    assert look(4.2, 90, 60)
    ran_s += 0.001
    assert look(5.3, 90, 60), "it waits for its next task"
    brake.is_idle = False
    assert look(5.4, 90, 60)
    ran_s += 0.001
    assert not look(6.5, 90, 60) and not look(8.0, 2000, 70) and not look(8.1, 2000, 90)


def test_a_process_that_waits_for_a_second_stays_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, look = reserving(StubProcess(10, 60 * MI, 90 * MI), monkeypatch, cores=0.0)
    assert all(look(1 + at / 10, 90, 60) for at in range(50))


@pytest.mark.parametrize("top", [(270, 248), (250, 130)], ids=["small blocks", "a large block"])
def test_a_loop_that_fills_its_memory_again_and_again_is_judged_by_use_the_fifth_time(
    top: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, look = reserving(StubProcess(10, 10 * MI, 30 * MI), monkeypatch, cores=1.0)
    for at in (1.0, 1.6, 2.2, 2.8):
        assert look(at, 30, 10) and look(at + 0.4, *top), "it may be refused four times"
        assert look(at + 0.5, top[0], 60), "while much is unmapped, what is reserved shrinks last"
    assert not look(3.4, 30, 10) and not look(3.8, *top)
    assert not look(4.0, 600, 248), "it takes more than is left"
    assert not look(4.9, 600, 250)


def test_what_was_refused_just_before_a_process_was_let_through_is_not_taken_for_all_that_it_wants(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, _, look = reserving(StubProcess(10, 10 * MI, 30 * MI), monkeypatch, cores=1.0)
    for fill in range(5):
        assert look(1.0 + fill * 0.26, 270, 248), "it is refused more"
        is_limited = look(1.1 + fill * 0.26, 30, 10)
    assert not is_limited, "a second after the first, at the end of its fifth round"
    assert not look(2.3, 270, 248) and not look(2.4, 600, 250)


def test_a_loop_that_doubles_a_buffer_until_it_is_refused_is_judged_by_use_the_fifth_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, _, look = reserving(StubProcess(10, 10 * MI, 30 * MI), monkeypatch, cores=1.0)
    for at in (1.0, 1.6, 2.2, 2.8):
        assert look(at, 30, 10) and look(at + 0.3, 70, 50) and look(at + 0.4, 150, 130)
    assert not look(3.4, 30, 10)


def test_a_program_that_looks_for_the_largest_buffer_stays_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was refused at once is not seen; each buffer that fits is another one."""
    _, _, look = reserving(StubProcess(10, 10 * MI, 30 * MI), monkeypatch, cores=1.0)
    for at, size in enumerate((64, 128, 192, 224, 240)):
        assert look(1.0 + at, 30, 10) and look(1.5 + at, 20 + size, 5 + size), size


@pytest.mark.parametrize(("cores", "is_limited"), [(0.01, False), (0.5, True)])
def test_a_process_that_waits_before_it_fills_its_memory_again_is_judged_by_use_and_one_that_works_is_not(
    cores: float, is_limited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, look = reserving(StubProcess(10, 10 * MI, 30 * MI), monkeypatch, cores=cores)
    monkeypatch.setattr(reserved_brake, "sleeps", lambda pid: False)  # it has just woken up
    for at in (1.0, 6.0):
        look(at, 270, 248)
        for tenths in (1, 2, 15, 30):
            look(at + tenths / 10, 30, 10)
    assert look(11.0, 270, 248) == is_limited


def test_a_program_that_needs_nearly_all_of_its_memory_again_and_again_stays_limited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, _, look = reserving(StubProcess(10, 10 * MI, 30 * MI), monkeypatch, cores=1.0)
    limited = []
    for at in range(1, 20):
        limited += [look(at, 30, 10), look(at + 0.5, 270, 246)]
    # To find out, it was let through for one whole round.
    assert limited.count(False) <= 4 and all(limited[10:])


def test_a_program_that_is_refused_twice_and_then_reserves_less_stays_limited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, _, look = reserving(StubProcess(10, 10 * MI, 30 * MI), monkeypatch, cores=1.0)
    for at, (reserved, used) in enumerate([(270, 248), (30, 10), (270, 248), (30, 10), (120, 100), (30, 10)]):
        look(1.0 + at, reserved, used)
    assert look(7.5, 270, 248)


def test_an_array_that_grows_by_being_copied_stays_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, look = reserving(StubProcess(10, 10 * MI, 30 * MI), monkeypatch, cores=1.0)
    for copies in range(1, 31):
        small, large = 10 + copies * 4, 10 + copies * 8
        assert look(copies / 5, 20 + small, small) and look(copies / 5 + 0.1, 20 + large, large), copies


# ---- the time of a process itself


@pytest.mark.parametrize(
    ("cores", "is_asleep", "passed"),
    [(1.0, False, 0.5), (0.2, False, 0.1), (0.0, False, 0.0), (0.0, True, 0.5), (4.0, False, 0.5)],
)
def test_what_a_process_computes_or_sleeps_is_its_time(
    cores: float, is_asleep: bool, passed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1.0
    monkeypatch.setattr(own_time, "cpu_ns", lambda process: int(now * cores * 1e9))
    monkeypatch.setattr(own_time, "sleeps", lambda pid: is_asleep)
    one = OwnTime(StubProcess(10, 0, 0), now)  # type: ignore[arg-type]
    now = 1.01
    assert one.passed_s(now) == 0.0, "too little to tell"
    now = 1.5
    assert one.passed_s(now) == pytest.approx(passed)
    assert one.passed_s(now) == 0.0


def test_a_process_of_which_one_thread_runs_does_not_sleep() -> None:
    code = """
import threading, time
threading.Thread(target=time.sleep, args=(20,), daemon=True).start()
end = threading.Event()
def run():
    while not end.is_set(): pass
thread = threading.Thread(target=run)
print("sleeps", flush=True)
import sys
sys.stdin.readline()
thread.start()
print("runs", flush=True)
sys.stdin.readline()
end.set()
"""
    with Braked(code) as one:
        one.go()
        assert one.output() == "sleeps\n"
        wait_until(lambda: own_time.sleeps(one.pid), what="its sleep")
        one.go()
        assert one.output() == "runs\n"
        wait_until(lambda: not own_time.sleeps(one.pid), what="its run")
        one.go()


def test_what_a_process_waits_for_a_processor_after_it_was_held_back_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A library that frees a large document for long before its error was still refused memory just then."""
    used_s = 1.0
    monkeypatch.setattr(own_time, "cpu_ns", lambda process: int(used_s * 1e9))
    monkeypatch.setattr(own_time, "sleeps", lambda pid: False)
    since, process = TimeSince(), StubProcess(10, 0, 0)
    since.look(5.0, process, 5.0)  # type: ignore[arg-type]
    used_s = 1.2
    since.look(5.0, process, 6.0)  # type: ignore[arg-type]
    used_s = 1.3
    assert since.ago_s(5.0, 7.0) == pytest.approx(0.3)
    assert since.ago_s(6.5, 7.0) == 0.5, "held back again, and not looked at since"
    used_s = 0.0  # it has ended
    since.look(5.0, None, 9.0)
    assert since.ago_s(5.0, 9.0) == pytest.approx(2.3)
