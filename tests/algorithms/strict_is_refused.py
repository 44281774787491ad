"""Ends in one of many ways, or does what a sandbox refuses."""

import os
import signal
import socket
import time
import urllib.request


def start(args, api):
    signal.alarm(60)
    what = args["input"][0]
    if what == "memory":
        held = []
        while True:
            held.append(b"x" * (10 << 20))
    if what == "processes":
        for _ in range(30):
            if os.fork() == 0:
                signal.alarm(60)
                time.sleep(30)
                os._exit(0)
        time.sleep(30)
    if what == "sleep":
        if os.fork() == 0:
            os.setsid()
        signal.alarm(60)
        time.sleep(30)
    if what == "signal":
        os.abort()
    if what == "time":
        while True:
            pass
    if what == "write its code":
        with open(__file__, "a"):
            pass
    if what == "read elsewhere":
        with open("/elsewhere/file"):
            pass
    if what == "connect":
        socket.create_connection(("192.0.2.1", 80), timeout=5)
    if what == "look up":
        socket.getaddrinfo("example.org", 80)
    if what == "download":  # which wraps the error of the look-up, as requests does
        urllib.request.urlopen("http://example.org")
    return "served"
