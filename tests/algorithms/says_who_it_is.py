"""Returns its process id, its folder and what it was given."""

import os
import sys
import threading


def start(args, api):
    return {
        "pid": os.getpid(),
        "folder": os.getcwd(),
        "path": sys.path,
        "args": args,
        "variable": os.environ.get("COLOUR"),
        "metrics": os.environ.get("ALGO_METRICS_DIR"),
        "main": threading.current_thread() is threading.main_thread(),
        "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd")),
        "python_path": os.environ.get("PYTHONPATH"),
        "name": __name__,
    }
