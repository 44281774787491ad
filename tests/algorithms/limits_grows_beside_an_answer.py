"""Answers with many numbers, which takes a parent long to read, while a child of it grows. Input: [MIB]."""

import os
import signal
import time


def start(args, api):
    signal.alarm(60)
    if args["input"][0] == "behave":
        return "served"
    answer = list(range(3_000_000))
    if os.fork() == 0:
        signal.alarm(30)
        time.sleep(0.5)
        kept = []
        for _ in range(args["input"][0]):
            kept.append(b"x" * (1 << 20))
        time.sleep(10)
        os._exit(0)
    return answer
