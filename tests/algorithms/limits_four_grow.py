"""Four processes touch 200 MiB each, all at once."""

import os
import signal
import time


def start(args, api):
    signal.alarm(60)
    if args["input"][0] != "misbehave":
        return "served"
    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            signal.alarm(30)
            kept = []
            try:
                for _ in range(200):
                    kept.append(b"x" * (1 << 20))
            except MemoryError:
                pass  # it holds what it has
            time.sleep(20)
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    return "nobody minded"
