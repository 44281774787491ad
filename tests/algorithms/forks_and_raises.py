"""Forks, and lets the copy raise out of start()."""

import os


def start(args, api):
    if args["input"][0] == "misbehave":
        pid = os.fork()
        if not pid:
            raise RuntimeError("in the copy")
        os.waitpid(pid, 0)
        return "from the parent"
    return "served"
