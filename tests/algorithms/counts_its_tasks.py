"""Keeps a count in a global, as algorithms keep their models."""

import os

tasks = 0
loaded_by = os.getpid()


def start(args, api):
    global tasks
    tasks += 1
    if args["input"][0] == "raise":
        raise ValueError("counted, but not answered")
    if args["input"][0] == "exit":
        os._exit(3)
    return [tasks, os.getpid() == loaded_by]
