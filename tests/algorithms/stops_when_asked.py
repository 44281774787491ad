"""Ends its work when stop() is called, and says what was called."""

import signal
import threading

asked = threading.Event()


def start(args, api):
    signal.alarm(60)
    print("at work", flush=True)
    asked.wait(60)
    print("work has ended", flush=True)
    return "half of it"


def stop(options):
    print(f"stop called with {options}", flush=True)
    asked.set()


def exit(options):
    print(f"exit called with {options}", flush=True)
