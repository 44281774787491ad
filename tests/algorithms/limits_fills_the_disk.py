"""Writes into its working folder. Input: [HOW, MIB]; files: 1 MiB each; file: one large one."""

import signal
import time

BLOCK = b"x" * (1 << 20)


def start(args, api):
    signal.alarm(60)
    how, *rest = args["input"]
    if how == "behave":
        return "served"
    for number in range(rest[0]):
        name = f"part-{number}" if how == "files" else "all"
        with open(name, "ab") as file:
            file.write(BLOCK)
        time.sleep(0.002)
    time.sleep(1)
    return "nobody minded"
