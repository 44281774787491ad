"""A thread ends for want of memory, and others wait for it.

Input: ["event"] waits for ever for an Event, ["feed"] for a program that the thread was to feed, ["timed"] for
the thread's end, ["pool"] for results of a Pool that are too large, ["starts"] for an Event of a thread that
could not start another one.
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

    def start_threads():
        wait = threading.Event().wait
        while True:
            threading.Thread(target=wait, daemon=True).start()

    thread = threading.Thread(target=start_threads if way == "starts" else work, name="works", daemon=True)
    thread.start()
    if way in ("event", "starts"):
        program.kill()
        done.wait()
    if way == "feed":
        program.wait()
    thread.join(20)
    program.kill()
    program.wait()
    return "went on"
