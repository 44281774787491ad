"""Leaves a thread behind that is no daemon: the interpreter waits for it at its end."""

import signal
import threading
import time


def start(args, api):
    signal.alarm(60)
    threading.Thread(target=time.sleep, args=(60,)).start()
    return "served"
