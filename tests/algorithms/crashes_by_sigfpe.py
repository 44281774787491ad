"""Ends as C code that divides by zero does."""

import signal


def crash():
    signal.raise_signal(signal.SIGFPE)


def start(args, api):
    if args["input"][0] == "misbehave":
        crash()
    return "served"
