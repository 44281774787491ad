"""How busy the machine is: a bad day can be told from a bad build.

The load is the kernel's average of the last minute. A wake-up is the time from a write on one core to the
return of the read that a process on another core waits in, half of a round trip. hkrunner needs four of them
for a task, the programs that it is compared with two.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import NamedTuple

ROUNDS = 400
#: Between two round trips: long enough for the other core to become idle.
PAUSE_S = 0.0005


class Noise(NamedTuple):
    """One look at the machine."""

    load: float
    wake_up_us: float | None  #: median; None: there is only one core
    worst_wake_up_us: float | None  #: 99 of 100 were faster

    def text(self) -> str:
        if self.wake_up_us is None:
            return f"load {self.load:.1f}, one core"
        wake_up = f"{self.wake_up_us:.0f} µs, p99 {self.worst_wake_up_us:.0f} µs"
        return f"load {self.load:.1f}, wake-up of another core {wake_up}"


def measure() -> Noise:
    """Look at the machine; takes half a second."""
    load = os.getloadavg()[0]
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return Noise(load, None, None)
    times = sorted(_wake_ups(cores[0], cores[1]))
    return Noise(load, statistics.median(times), times[len(times) * 99 // 100])


def _wake_ups(here: int, there: int) -> list[float]:
    """Return the time of each wake-up, in µs."""
    question, asks = os.pipe()
    answers, answer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.sched_setaffinity(0, {there})
            os.close(asks)
            while os.read(question, 1):
                os.write(answer, b"a")
        finally:
            os._exit(0)
    os.close(question)
    os.close(answer)
    allowed = os.sched_getaffinity(0)
    times = []
    try:
        os.sched_setaffinity(0, {here})
        for _ in range(ROUNDS):
            time.sleep(PAUSE_S)
            began = time.perf_counter()
            os.write(asks, b"q")
            os.read(answers, 1)
            times.append((time.perf_counter() - began) / 2 * 1e6)
    finally:
        os.sched_setaffinity(0, allowed)
        os.close(asks)
        os.close(answers)
        os.waitpid(pid, 0)
    return times[ROUNDS // 10 :]


if __name__ == "__main__":
    print(measure().text())
