"""Starts a process with the command line of Python's resource tracker, once. Answers whether it runs."""

import subprocess
import sys

CODE = """from multiprocessing.resource_tracker import main; main(0) if False else None
import signal, time
signal.alarm(60)
print("ready", flush=True)
time.sleep(60)
"""
started = []


def start(args, api):
    if not started:
        started.append(subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE))
        started[0].stdout.readline()
        return started[0].poll() is None
    return started[0].wait(30) is None
