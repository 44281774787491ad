"""Uses all the CPU it gets. Input: [SHAPE, SECONDS]; says the CPU time before and after on the machine's clock.

thread, threads (2), processes (4), forks (fork and exit, one after the other), light (little each 5 ms).
"""

import hashlib
import os
import signal
import threading
import time

BLOCK = b"x" * 65536


def burn(end):
    # hashlib lets go of the GIL, so two threads burn two processors.
    while time.monotonic() < end:
        hashlib.sha256(BLOCK).digest()


def threads(end):
    other = threading.Thread(target=burn, args=(end,))
    other.start()
    burn(end)
    other.join()


def processes(end):
    for _ in range(3):
        if os.fork() == 0:
            signal.alarm(60)
            burn(end)
            os._exit(0)
    burn(end)
    for _ in range(3):
        os.wait()


def forks(end):
    while time.monotonic() < end:
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            began = time.process_time()
            while time.process_time() - began < 0.004:
                hashlib.sha256(BLOCK).digest()
            os._exit(0)
        os.waitpid(pid, 0)


def light(end):
    late = []
    while time.monotonic() < end:
        planned = time.monotonic() + 0.005
        time.sleep(0.005)
        late.append(time.monotonic() - planned)
    late.sort()
    return late[int(len(late) * 0.95)] * 1000


SHAPES = {"thread": burn, "threads": threads, "processes": processes, "forks": forks, "light": light}


def start(args, api):
    signal.alarm(60)
    shape, seconds = args["input"]
    if shape == "behave":
        return "served"
    return SHAPES[shape](time.monotonic() + min(seconds, 30))
