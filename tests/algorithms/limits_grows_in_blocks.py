"""Touches memory a block after the other and says how much it holds; the first block once a file is there.

Input: [MIB_AT_MOST, MIB_A_BLOCK, SECONDS_BETWEEN, WAITS_FOR].
"""

import os
import signal
import time


def start(args, api):
    signal.alarm(60)
    if args["input"][0] == "behave":
        return "served"
    most, block, pause, waits_for = args["input"]
    print("ready to grow", os.getpid(), flush=True)
    while waits_for and not os.path.exists(waits_for):
        time.sleep(0.005)
    kept = []
    while len(kept) * block < most:
        kept.append(b"x" * (block << 20))
        print("holding", len(kept) * block, "MiB", flush=True)
        time.sleep(pause)
    return len(kept) * block
