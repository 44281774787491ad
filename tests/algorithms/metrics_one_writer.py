"""Makes one writer at import, for all tasks: TensorBoard's, which opens its file with each flush."""

import os

from tensorboard.summary import Writer

writer = Writer(os.environ["ALGO_METRICS_DIR"])


def start(args, api=None):
    for step in range(args["input"][0]):
        writer.add_scalar("loss", 1 / (step + 1), step)
    writer.flush()
