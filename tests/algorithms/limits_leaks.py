"""Keeps a little more with each task. Input: [MIB, WHATEVER]."""

import os
import signal

kept = []


def start(args, api):
    signal.alarm(60)
    kept.append(b"x" * (args["input"][0] << 20))
    return [os.getpid(), len(kept)]
