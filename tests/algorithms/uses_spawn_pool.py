"""Works with a pool of spawned processes, which import this file again."""

import multiprocessing


def square(value):
    return value * value


def start(args, api):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        return pool.map(square, args["input"])
