"""Prints every byte there is, and what is no UTF-8."""

import os


def start(args, api):
    os.write(1, bytes(range(256)) + b"\xff\xfe\xc3\x28\n")
    os.write(2, b"\x00\xf0\x9f\x98 cut off\n")
    return "printed"
