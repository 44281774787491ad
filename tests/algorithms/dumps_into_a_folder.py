"""Dumps arrays into a new folder of /dev/shm, as joblib does for its workers, and hangs or returns the folder.

Input: [HOW]; hang, or return.
"""

import os
import signal
import tempfile
import time

BLOCK = b"x" * (1 << 20)


def start(args, api):
    signal.alarm(60)
    folder = tempfile.mkdtemp(prefix="dumps_test_", dir="/dev/shm")
    os.mkdir(f"{folder}/deeper")
    for name in ("first", "second", "deeper/third"):
        with open(f"{folder}/{name}", "wb") as file:
            for _ in range(8):
                file.write(BLOCK)
    with open(f"{folder}/small", "w") as file:
        file.write("seen by nobody while it is open")
    if args["input"][0] == "hang":
        time.sleep(60)
    return folder
