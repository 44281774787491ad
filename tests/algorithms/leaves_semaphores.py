"""Makes semaphores of multiprocessing and dies without removing them. Input: [HOW, SECONDS until then].

exit: its process ends at once, as after a crash; hang: it waits to be killed.
"""

import multiprocessing
import os
import signal
import time


def start(args, api):
    signal.alarm(60)
    how, seconds = args["input"]
    context = multiprocessing.get_context("spawn")
    held = context.Queue(), context.Lock(), context.Event()
    time.sleep(seconds)
    if how == "exit":
        os._exit(3)
    time.sleep(60)
    return len(held)
