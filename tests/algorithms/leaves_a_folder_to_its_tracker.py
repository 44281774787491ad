"""Starts a process that makes an empty folder in /dev/shm and removes it at the end of this one.

As the resource tracker of loky does it, by whose command line it is known. Input: [HOW]; hang, or grow.
"""

import os
import signal
import subprocess
import sys
import time

TRACKER = """from multiprocessing.resource_tracker import main; main(0) if False else None
import os, signal, sys, tempfile
signal.alarm(60)
folder = tempfile.mkdtemp(prefix="tracked_test_", dir="/dev/shm")
print(folder, flush=True)
while os.read(int(sys.argv[1]), 1):
    pass
os.rmdir(folder)
"""


def start(args, api):
    signal.alarm(60)
    reading, writing = os.pipe()
    command = [sys.executable, "-c", TRACKER, str(reading)]
    tracker = subprocess.Popen(command, pass_fds=[reading], stdout=subprocess.PIPE)
    os.close(reading)
    print("made", os.path.isdir(tracker.stdout.readline().strip()), flush=True)
    blocks = []
    while True:
        time.sleep(0.002)
        if args["input"][0] == "grow":
            blocks.append(b"x" * (1 << 20))
