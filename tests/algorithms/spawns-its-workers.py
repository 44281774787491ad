"""Sends functions and objects of its own to processes that import this file again."""

import concurrent.futures
import multiprocessing
import pickle
import subprocess
import sys

#: What `pickle.dumps(Model(3), 0)` gives where this file runs as a script.
OF_A_SCRIPT = b"ccopy_reg\n_reconstructor\n(c__main__\nModel\nc__builtin__\nobject\nNtR(dVfactor\nI3\nsb."


class Model:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, value):
        return value * self.factor


def square(value):
    return value * value


def read_and_apply(value):
    return pickle.loads(OF_A_SCRIPT)(value)


def in_a_worker(function, value):
    """As loky does it: a program that gets sys.path, and then a pickle."""
    work = "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    work += "function, value = pickle.load(sys.stdin.buffer); print(function(value))"
    sent = pickle.dumps(sys.path) + pickle.dumps((function, value))
    return int(subprocess.run([sys.executable, "-c", work], input=sent, stdout=-1, check=True, cwd="/").stdout)


def start(args, api):
    how, values = args["input"]
    if how == "pool":
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return [pool.map(one, values) for one in (square, Model(2), read_and_apply)]
    if how == "command":
        return [[in_a_worker(one, value) for value in values] for one in (square, Model(2))]
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(how)) as pool:
        return [list(pool.map(one, values)) for one in (square, Model(2), read_and_apply)]


if __name__ in ("__main__", "__mp_main__"):
    raise SystemExit("run as a script")
