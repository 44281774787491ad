"""Fills a new folder of /dev/shm with files, each closed before the next. Input: [FILES, MIB each, PAUSE]."""

import signal
import tempfile
import time


def start(args, api):
    signal.alarm(60)
    files, mib, pause = args["input"]
    folder = tempfile.mkdtemp(prefix="fills_test_", dir="/dev/shm")
    for number in range(files):
        with open(f"{folder}/part{number}", "wb") as file:
            file.write(b"x" * (mib << 20))
        time.sleep(pause)
    return folder
