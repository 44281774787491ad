"""Has an exit() that never returns."""

import signal
import time


def start(args, api):
    return "served"


def exit(options):
    signal.alarm(60)
    time.sleep(60)
