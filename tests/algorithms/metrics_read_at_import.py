"""Reads ALGO_METRICS_DIR once, at import."""

import os

from tensorboard.summary import Writer

FOLDER = os.environ["ALGO_METRICS_DIR"]


def start(args, api=None):
    writer = Writer(FOLDER)
    for step in range(args["input"][0]):
        writer.add_scalar("loss", 1 / (step + 1), step)
    writer.close()
