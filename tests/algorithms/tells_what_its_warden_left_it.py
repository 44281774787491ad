"""Tells who has started it, and the scheduling policy and time slice it was given, unless it is to end."""

import os


def start(args, api):
    if args["input"] == ["exit"]:
        os._exit(3)
    lines = []
    if os.path.exists("/proc/self/sched"):  # not every kernel has it
        with open("/proc/self/sched") as file:
            lines = [line.split()[-1] for line in file if line.startswith("se.slice")]
    return [os.getppid(), os.sched_getscheduler(0), lines]
