"""Calls abort(), as a failed check in C code does."""

import os


def crash():
    os.abort()


def start(args, api):
    if args["input"][0] == "misbehave":
        crash()
    return "served"
