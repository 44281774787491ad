"""Has a stop() that does nothing, and works on."""

import signal
import time


def start(args, api):
    signal.alarm(60)
    print("at work", flush=True)
    while True:
        time.sleep(1)


def stop(options):
    print("not now", flush=True)
