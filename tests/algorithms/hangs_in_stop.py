"""Has a stop() that never returns, and a start() that does not end."""

import signal
import time


def start(args, api):
    signal.alarm(60)
    print("at work", flush=True)
    time.sleep(60)


def stop(options):
    time.sleep(60)
