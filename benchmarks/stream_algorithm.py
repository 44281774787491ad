"""The two nodes of benchmarks/streaming.py: one sends messages with the time, the other one times them."""

import json
import os
import threading
import time


def start(args, api):
    what, *more = args["input"]
    return sends(api, *more) if what == "sends" else takes(api, *more)


def sends(api, size, count, every_s, file):
    """Send; return once the other node has written its file, since HKube's wrapper loses what is queued."""
    padding = b"x" * size
    for number in range(count + 1):
        api.sendMessage({"number": number, "at": time.monotonic(), "data": padding})
        if number == 0:
            # The first message shows that the nodes are connected; it is not counted.
            while not os.path.exists(file + ".connected"):
                time.sleep(0.01)
        elif every_s:
            time.sleep(every_s)
    while not os.path.exists(file):
        time.sleep(0.05)


def takes(api, size, count, every_s, file):
    """Write when the first message was sent and the last one came, and how long each was on its way."""
    took, sent, enough = [], [], threading.Event()

    def take(message, origin):
        now = time.monotonic()
        if not message["number"]:
            open(file + ".connected", "w").close()
            return
        sent.append(message["at"])
        took.append(now - message["at"])
        if len(took) >= count:
            enough.set()

    api.registerInputListener(take)
    api.startMessageListening()
    enough.wait()
    # Not from the first arrival: a node that queues many before it hands the first one out would seem quick.
    seconds = sent[-1] + took[-1] - sent[0]
    with open(file + ".part", "w") as out:
        json.dump({"rate": count / seconds, "p50_ms": sorted(took)[len(took) // 2] * 1000}, out)
    os.rename(file + ".part", file)
