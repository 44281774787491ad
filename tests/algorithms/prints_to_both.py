"""Prints to stdout and stderr, from Python, from the descriptor and from a program."""

import os
import subprocess
import sys

print("out at import")


def start(args, api):
    print("out from python")
    print("err from python", file=sys.stderr)
    sys.stdout.flush()
    os.write(1, b"out from the descriptor\n")
    os.write(2, b"err from the descriptor\n")
    subprocess.run("echo out from a program; echo err from a program >&2", shell=True, check=True)
    print("out without an end of line", end="")
    return "printed"
