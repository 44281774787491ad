"""Leaves three processes running when it is done. Answers its pid and which of all it has started still run.

Input: how many of the earlier ones are expected to run still; that is waited for.
"""

import os
import signal
import subprocess
import time

children = []


def start(args, api):
    signal.alarm(60)
    if args["input"]:
        deadline = time.monotonic() + 10
        while len(running()) != args["input"][0] and time.monotonic() < deadline:
            time.sleep(0.005)
    seen = running()
    for _ in range(3):
        children.append(subprocess.Popen(["sleep", "30"]))
    time.sleep(0.3)
    return [os.getpid(), seen]


def running():
    return [one.pid for one in children if one.poll() is None]
