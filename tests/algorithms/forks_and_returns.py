"""Forks, and lets the copy return from start() too."""

import os


def start(args, api):
    if args["input"][0] == "misbehave":
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            return "from the parent"
        return "from the copy"
    return "served"
