"""Starts threads or processes, by Python or by other programs, until the kernel refuses one.

Bounded: at most 2,000, each for 20 s. Only to be run where the kernel allows fewer.
"""

import _thread
import multiprocessing
import os
import signal
import subprocess
import time

MOST = 2000


def sleep():
    signal.alarm(20)
    time.sleep(20)


def threads():
    # Not by threading.Thread, whose start() waits for the new thread: too slow in an emulated machine.
    lock = _thread.allocate_lock()
    with lock:
        for _ in range(MOST):
            _thread.start_new_thread(lock.acquire, (True, 60))


def forks():
    for _ in range(MOST):
        if os.fork() == 0:
            sleep()
            os._exit(0)


def programs():
    started = [subprocess.Popen(["/bin/sleep", "20"]) for _ in range(MOST)]
    return len(started)


def processes():
    context = multiprocessing.get_context("fork")
    for _ in range(MOST):
        context.Process(target=sleep, daemon=True).start()


def shell():
    script = f"i=0; while [ $i -lt {MOST} ]; do sleep 20 & i=$((i+1)); done; wait"
    # Its own standard error: a shell that is refused a process says so there.
    subprocess.run(["/bin/sh", "-c", script], check=True)


def ends_itself():
    try:
        forks()
    except BlockingIOError:
        os.write(2, b"terminate called after throwing an instance of 'std::system_error'\n")
        os.write(2, b"  what():  Resource temporarily unavailable\n")
        os.abort()


def start(args, api):
    (what,) = args["input"]
    if what == "behave":
        return "served"
    try:
        globals()[what]()
    finally:
        for pid in children():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return "nobody minded"


def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return list(map(int, file.read().split()))
