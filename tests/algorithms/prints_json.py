"""Prints what looks like a result."""

import os


def start(args, api):
    print('{"output": "not this one"}')
    os.write(1, b'"nor this"\n')
    return "the result"
