"""Keeps ever more small objects, 1 GiB at most."""

import signal


def start(args, api):
    signal.alarm(60)
    if args["input"][0] != "misbehave":
        return "served"
    kept = []
    while len(kept) < (1 << 30) // 1000:
        kept.append(bytearray(1000))
    return len(kept)
