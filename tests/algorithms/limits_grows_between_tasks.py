"""A thread that goes on after the task, and grows after a while. Input: [MIB, SECONDS]."""

import os
import signal
import threading
import time

kept = []


def grow(mib, seconds):
    time.sleep(seconds)
    for _ in range(mib // 4):
        kept.append(b"x" * (4 << 20))
        time.sleep(0.002)


def start(args, api):
    signal.alarm(60)
    if args["input"][0] == "behave":
        return "served"
    threading.Thread(target=grow, args=args["input"], daemon=True).start()
    return os.getpid()
