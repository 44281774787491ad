"""Leaves a process running after so many seconds; without a number, answers how that and a shell have ended.

The shell is started at once and runs for a moment; the process ends only if it is killed.
"""

import subprocess
import time

left = []


def start(args, api):
    if args["input"]:
        left.append(subprocess.Popen(["sleep", "60"]))
        time.sleep(args["input"][0])
        return None
    shell = subprocess.run(["sh", "-c", "sleep 0.05"])
    return [left.pop().wait(30), shell.returncode]
