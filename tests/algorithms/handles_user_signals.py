"""Waits for SIGUSR1 and SIGUSR2, which it handles, and returns the numbers that came.

Before that it sends itself a signal that its thread has blocked, and waits for it.
"""

import os
import signal
import time

received = []


def start(args):
    signal.alarm(60)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGVTALRM])
    os.kill(os.getpid(), signal.SIGVTALRM)
    assert signal.sigtimedwait([signal.SIGVTALRM], 10) is not None
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, frame: received.append(number))
    print("at work", flush=True)
    while len(received) < 2:
        time.sleep(0.01)
    return received
