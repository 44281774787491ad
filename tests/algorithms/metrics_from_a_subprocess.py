"""Lets a program of its own write the metrics."""

import subprocess
import sys

PROGRAM = """
import os, sys
from tensorboard.summary import Writer
writer = Writer(os.environ["ALGO_METRICS_DIR"])
for step in range(int(sys.argv[1])):
    writer.add_scalar("loss", 1 / (step + 1), step)
writer.close()
"""


def start(args, api=None):
    subprocess.run([sys.executable, "-c", PROGRAM, str(args["input"][0])], check=True)
