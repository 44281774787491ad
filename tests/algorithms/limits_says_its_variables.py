"""Answers the values of some variables of its environment. Input: their names."""

import os


def start(args, api):
    return [os.environ.get(name) for name in args["input"]]
