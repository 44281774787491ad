"""Waits for SIGUSR1 and SIGUSR2, which it handles, and returns the numbers that came."""

import signal
import time

received = []


def start(args):
    signal.alarm(60)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, frame: received.append(number))
    print("at work", flush=True)
    while len(received) < 2:
        time.sleep(0.01)
    return received
