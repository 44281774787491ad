"""Has a functools.partial for a start."""

import functools


def run(model, args, api):
    return [model, args["input"]]


start = functools.partial(run, "model")
