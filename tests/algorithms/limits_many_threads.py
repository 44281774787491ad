"""Starts 100 threads at a time, with stacks of 16 MiB that nobody uses.

By _thread: threading.Thread.start() waits for a word of the new thread, which has none to give when there is
no memory left for its first allocation (a CPython deadlock).
"""

import _thread
import signal


def wait(lock):
    with lock:
        pass


def start(args, api):
    signal.alarm(60)
    if args["input"][0] != "misbehave":
        return "served"
    lock = _thread.allocate_lock()
    before = _thread.stack_size(16 << 20)
    with lock:
        try:
            for _ in range(100):
                _thread.start_new_thread(wait, (lock,))
        finally:
            _thread.stack_size(before)
    return "nobody minded"
