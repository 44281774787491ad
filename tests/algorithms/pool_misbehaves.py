"""Misbehaves as its input says, in a worker of hkrunner.Pool, and notes each task that has begun."""

import os
import signal
import socket
import stat
import sys
import threading
import time

LOADED = time.monotonic()


def init(args):
    if args["input"][0] == "fails in init":
        raise RuntimeError("init")


def start(args, api):
    what = args["input"][0]
    with open(os.environ["BEGUN"], "a") as file:
        file.write(f"{what}\n")
    if what == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "exit":
        os._exit(3)
    elif what == "sys.exit":
        sys.exit(4)
    elif what == "raises":
        raise ValueError("no")
    elif what == "memory":
        return len(bytearray(os.urandom(1 << 20) * 600))
    elif what == "loops":
        while True:
            pass
    elif what == "waits until it is stopped":
        api.wait_for_stop()
        return "stopped"
    elif what == "api":
        api.start_algorithm("other")
    elif what == "object":
        return object()
    elif what == "later":
        # The answer leaves before the process ends.
        threading.Timer(0.05, os._exit, [5]).start()
    elif what in ("lies", "closes"):
        for fd in range(3, 300):
            try:
                if stat.S_ISSOCK(os.fstat(fd).st_mode):
                    if what == "closes":
                        os.close(fd)
                    else:
                        socket.socket(fileno=os.dup(fd)).send(b"\1\24\0\0" + bytes(12))
            except OSError:
                pass
        time.sleep(60)
    elif what == "closes all":
        os.closerange(3, 300)
    elif what == "forgets":
        # Says to have begun no task, and dies.
        for fd in range(3, 300):
            try:
                if os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:hkrunner-fault"):
                    os.pwrite(fd, bytes(8), 1024 * 1024)
            except OSError:
                pass
        os._exit(6)
    return [what, os.getpid(), LOADED]
