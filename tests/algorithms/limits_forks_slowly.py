"""Starts a process each few milliseconds. Input: [HOW_MANY, SECONDS_BETWEEN]."""

import os
import signal
import time


def start(args, api):
    signal.alarm(60)
    if args["input"][0] == "behave":
        return "served"
    count, pause = args["input"]
    for number in range(min(count, 200)):
        if os.fork() == 0:
            signal.alarm(30)
            signal.pause()
            os._exit(0)
        print("started", number + 1, flush=True)
        time.sleep(pause)
    time.sleep(1)
    return "nobody minded"
