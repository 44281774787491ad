"""A thread ends with MemoryError, and others wait for it.

Input: ["event"] waits for ever for an Event, ["feed"] for a program that the thread was to feed, ["timed"] for
a second, ["pool"] for results of a Pool that are too large.
"""

import multiprocessing
import subprocess
import threading
import time


def take_all():
    """Take memory until there is none."""
    blocks = []
    while True:
        blocks.append(bytearray(b"x") * (256 << 10))


def start(args, api):
    way = args["input"][0]
    if way == "behave":
        return "served"
    if way == "pool":
        with multiprocessing.get_context("fork").Pool(1) as pool:
            return sum(map(len, pool.map(bytes, [12 << 20] * 20, chunksize=1)))
    done = threading.Event()
    program = subprocess.Popen(["cat"], stdin=subprocess.PIPE)

    def work():
        take_all()
        program.stdin.close()
        done.set()

    threading.Thread(target=work, name="works", daemon=True).start()
    if way == "event":
        program.kill()
        done.wait()
    if way == "feed":
        program.wait()
    time.sleep(1)
    program.kill()
    program.wait()
    return "went on"
