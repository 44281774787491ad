"""Leaves a process, and the resource tracker of multiprocessing, which lives as long as that process."""

import os
import time
from multiprocessing import resource_tracker


def start(args):
    if args["input"][0] == "misbehave":
        resource_tracker.ensure_running()
        if os.fork() == 0:
            time.sleep(600)
            os._exit(0)
    return "served"
