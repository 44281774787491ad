"""Closes its stdout and stderr, in Python and below."""

import os
import sys


def start(args, api):
    if args["input"][0] == "misbehave":
        sys.stdout.close()
        sys.stderr.close()
        for number in (1, 2):
            try:
                os.close(number)
            except OSError:
                pass
    return "served"
