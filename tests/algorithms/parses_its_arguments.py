"""Has a command line of its own, with defaults, as scripts have that were not written for HKube."""

import argparse
import sys

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="small")
options = parser.parse_args()


def start(args):
    return [options.model, sys.argv]
