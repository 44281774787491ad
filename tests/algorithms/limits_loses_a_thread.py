"""A thread ends with MemoryError, and others wait for it.

Input: ["event"] waits for ever for an Event, ["feed"] for a program that the thread was to feed, ["timed"] for
the thread's end, ["pool"] for results of a Pool that are too large.
"""

import multiprocessing
import subprocess
import threading
import time


def take_all(pause_s=0):
    """Take memory until there is none."""
    blocks = []
    while True:
        blocks.append(bytearray(b"x") * (256 << 10))
        time.sleep(pause_s)


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
        # With pauses, it is refused memory also where a busy machine has the warden look late.
        take_all(0.001 if way == "timed" else 0)
        program.stdin.close()
        done.set()

    thread = threading.Thread(target=work, name="works", daemon=True)
    thread.start()
    if way == "event":
        program.kill()
        done.wait()
    if way == "feed":
        program.wait()
    thread.join(20)
    program.kill()
    program.wait()
    return "went on"
