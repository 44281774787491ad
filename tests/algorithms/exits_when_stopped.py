"""Ends its process with sys.exit() in start() once stop() was called."""

import signal
import sys
import threading

asked = threading.Event()


def start(args, api):
    signal.alarm(60)
    print("at work", flush=True)
    asked.wait(60)
    sys.exit(3)


def stop(options):
    asked.set()
