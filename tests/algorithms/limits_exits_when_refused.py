"""Ends the process when an allocation is refused far below the limit, as OpenBLAS does.

At import with the variable AT_IMPORT, else in the first task.
"""

import os
import sys


def allocate():
    keep = bytearray(40 << 20)
    try:
        return len(keep) + len(bytearray(160 << 20))
    except MemoryError:
        print("OpenBLAS error: Memory allocation still failed after 10 retries, giving up.", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)


if "AT_IMPORT" in os.environ:
    allocate()


def start(args, api):
    return "served" if args["input"] == ["behave"] else allocate()
