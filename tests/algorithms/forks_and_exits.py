"""Forks, and lets the copy call sys.exit()."""

import os
import sys


def start(args, api):
    if args["input"][0] == "misbehave":
        pid = os.fork()
        if not pid:
            sys.exit(4)
        os.waitpid(pid, 0)
        return "from the parent"
    return "served"
