"""Answers, and then dies while no task runs."""

import os
import threading
import time


def later():
    time.sleep(0.02)
    os._exit(5)


def start(args, api):
    if args["input"][0] == "misbehave":
        threading.Thread(target=later, daemon=True).start()
    return "served"
