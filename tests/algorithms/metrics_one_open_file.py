"""Makes one writer at import, for all tasks: tensorboardX's, which holds its file open."""

import os

from tensorboardX import SummaryWriter

writer = SummaryWriter(os.environ["ALGO_METRICS_DIR"])


def start(args, api=None):
    for step in range(args["input"][0]):
        writer.add_scalar("loss", 1 / (step + 1), step)
    writer.flush()
