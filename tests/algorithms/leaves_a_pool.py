"""Leaves a pool of processes behind: neither closed nor joined."""

import multiprocessing

pools = []


def square(value):
    return value * value


def start(args, api):
    pool = multiprocessing.get_context("fork").Pool(4)
    pools.append(pool)
    return pool.map(square, args["input"])
