"""Leaves a program running that has its stdout and stderr, and answers."""

import subprocess


def start(args, api):
    if args["input"][0] == "misbehave":
        subprocess.Popen(["sleep", "60"])
    return "served"
