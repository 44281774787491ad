"""Prints what its task asks for: {"lines": count}, {"bytes": in one line}, {"flood": without end}

Answers how many seconds that took it. With {"until": file} it makes FILE.printed, and waits for the file.
"""

import os
import time


def start(args, api):
    task = args["input"][0]
    began = time.monotonic()
    for number in range(task.get("lines", 0)):
        print(f"line {number}")
    if "bytes" in task:
        piece = b"x" * 1000000
        for _ in range(task["bytes"] // len(piece)):
            view = memoryview(piece)
            while view:
                view = view[os.write(1, view) :]
        os.write(1, b"\n")
    while "flood" in task:
        print("y" * 100)
    took_s = time.monotonic() - began
    if "until" in task:
        open(task["until"] + ".printed", "w").close()
        while not os.path.exists(task["until"]) and time.monotonic() < began + 90:
            time.sleep(0.01)
    return took_s
