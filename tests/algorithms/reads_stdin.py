"""Asks for input on stdin, where there is nobody."""

import sys


def start(args, api):
    return [sys.stdin.read(), sys.stdin.isatty()]
