"""Reads ALGO_METRICS_DIR once, at import, and follows its links."""

import os

from tensorboard.summary import Writer

FOLDER = os.path.realpath(os.environ["ALGO_METRICS_DIR"])


def start(args, api=None):
    writer = Writer(FOLDER)
    for step in range(args["input"][0]):
        writer.add_scalar("loss", 1 / (step + 1), step)
    writer.close()
