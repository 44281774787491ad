"""Raises an exception that cannot be pickled: its class is local, and it holds a lock."""

import threading


def start(args, api):
    class Local(Exception):
        def __init__(self):
            super().__init__("holds a lock")
            self.lock = threading.Lock()

    if args["input"][0] == "misbehave":
        raise Local()
    return "served"
