"""Writes five points, reports progress, and then does what its input says."""

import os
import signal
import time

from tensorboard.summary import Writer

signal.alarm(100)


def start(args, api):
    writer = Writer(os.environ["ALGO_METRICS_DIR"])
    for step in range(5):
        writer.add_scalar("loss", 1 / (step + 1), step)
        api.progress(step * 20) if hasattr(api, "progress") else None
    writer.flush()
    what, value = (args["input"] + [None])[:2]
    print(what, flush=True)
    if what == "raise":
        raise ValueError("after five points")
    if what == "wait":
        while not os.path.exists(value):
            time.sleep(0.005)
    if what == "take memory":
        kept = []
        while True:
            kept.append(b"x" * 4_000_000)
            time.sleep(0.01)
    while what == "sleep":
        time.sleep(1)
    return len(os.listdir(os.environ["ALGO_METRICS_DIR"]))
