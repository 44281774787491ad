"""Crashes in a thread while the main thread works on."""

import ctypes
import threading
import time


def start(args, api):
    if args["input"][0] == "misbehave":
        threading.Thread(target=ctypes.string_at, args=(0,)).start()
        time.sleep(30)
    return "served"
