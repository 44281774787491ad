"""What each node of pipelines.py does, in Python: relay.js does the same."""

import os
import time

WAIT_S = 90
RAW = bytes(range(256))


def start(args, api):
    """Do what the first input says, or pass on a message of a stream."""
    if args.get("streamInput"):
        return stamped(args["streamInput"]["message"], args["nodeName"])
    what, *rest = args["input"]
    return DEEDS[what](args, api, *rest)


def same(args, api, value):
    return value


def raw(args, api, size):
    return bytes(number % 251 for number in range(size))


def measure(args, api, data):
    return [len(data), sum(data)]


def call(args, api, algorithm, value):
    return api.start_algorithm(algorithm, ["same", value])


def send(args, api, count, end):
    for number in range(count):
        api.sendMessage(
            {
                "number": number,
                "text": "ü€",
                "nothing": None,
                "half": 0.5,
                "raw": RAW,
                "large": "x" * (200000 if number % 50 == 7 else 100),
                "by": [],
            }
        )
    # HKube's wrapper for Python loses what is queued when `start` returns.
    return wait_for(end)


def pass_on(args, api, end):
    api.registerInputListener(lambda message, origin: api.sendMessage(stamped(message, args["nodeName"])))
    api.startMessageListening()
    return wait_for(end)


def collect(args, api, count, end):
    numbers, wrong, ways = [], [], set()

    def take(message, origin):
        numbers.append(message["number"])
        ways.add(" ".join(message["by"]))
        large = 200000 if message["number"] % 50 == 7 else 100
        right = ("ü€", None, 0.5, RAW, large)
        found = (
            message["text"],
            message["nothing"],
            message["half"],
            bytes(message["raw"]),
            len(message["large"]),
        )
        if found != right:
            wrong.append(repr(found)[:200])

    api.registerInputListener(take)
    api.startMessageListening()
    limit = time.monotonic() + WAIT_S
    while len(numbers) < count and time.monotonic() < limit:
        time.sleep(0.05)
    time.sleep(1)  # one that comes twice would be seen
    with open(end, "w"):
        pass
    return {"numbers": sorted(numbers), "wrong": wrong[:5], "ways": sorted(ways)}


def stamped(message, name):
    return {**message, "by": [*message["by"], name]}


def wait_for(end):
    limit = time.monotonic() + WAIT_S + 10
    while not os.path.exists(end) and time.monotonic() < limit:
        time.sleep(0.05)
    return os.path.exists(end)


DEEDS = {
    "same": same,
    "raw": raw,
    "measure": measure,
    "call": call,
    "send": send,
    "pass": pass_on,
    "collect": collect,
}
