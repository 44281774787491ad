"""Ignores, blocks and handles everything that can be, and works on."""

import os
import signal
import threading
import time


def start(args, api):
    threading.Thread(target=end, daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    print("at work", flush=True)
    while True:
        try:
            time.sleep(1)
        except BaseException:
            pass


def end():
    time.sleep(60)
    os._exit(0)
