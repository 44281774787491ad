"""Changes folder, umask, sys.path, environment and signal handlers, and tells what it finds."""

import os
import signal
import sys


def start(args, api):
    found = {
        "folder": os.path.basename(os.getcwd()),
        "umask": os.umask(0o022),
        "variable": os.environ.get("LEFT_HERE"),
        "first": sys.path[0],
    }
    os.chdir("/")
    os.umask(0o777)
    os.environ["LEFT_HERE"] = "yes"
    sys.path.insert(0, "/nowhere")
    sys.path[:] = ["/nowhere"]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    if args["input"][0] == "misbehave":
        os._exit(1)
    return found
