"""Sleeps, fills so much memory and gives it back. Input: [SECONDS, MIB]."""

import signal
import time


def start(args):
    signal.alarm(60)
    seconds, mib = args["input"]
    time.sleep(seconds)
    filled = bytearray(b"x") * (mib << 20)
    return len(filled) >> 20
