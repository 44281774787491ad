"""limits_spins.py with the kernel's own account of it: {"cpu_s", "wall_s"}, or {"late_ms"} for "light".

It spins for a second before the account begins: what was saved up before is used up by then. Input: [SHAPE,
SECONDS]. It prints "counting" and "counted" around the account.
"""

import os
import resource
import signal
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import limits_spins


def used():
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in both)


def start(args, api):
    signal.alarm(90)
    shape, seconds = args["input"]
    spin = limits_spins.SHAPES[shape]
    if shape == "light":
        return {"late_ms": spin(time.monotonic() + seconds)}
    spin(time.monotonic() + 1)
    print("counting", file=sys.stderr, flush=True)
    began, cpu_s = time.monotonic(), used()
    spin(began + seconds)
    answer = {"cpu_s": used() - cpu_s, "wall_s": time.monotonic() - began}
    print("counted", file=sys.stderr, flush=True)
    return answer
