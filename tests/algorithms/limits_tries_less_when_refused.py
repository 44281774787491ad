"""Catches MemoryError, frees what it has, and tries something that fits in the end.

Input: [HOW, LIMIT in MiB]; halve begins with eight times the limit, give_up makes three attempts at twice the
limit, and keep_half is a cache that drops its older half whenever it is full.
"""

import gc

MI = 1 << 20


def fill(blocks):
    return len([b"x" * MI for _ in range(blocks)])


def halve(limit):
    blocks = 8 * limit
    while True:
        try:
            return fill(blocks)
        except MemoryError:
            blocks //= 2


def give_up(limit):
    for _ in range(3):
        try:
            return fill(2 * limit)
        except MemoryError:
            gc.collect()
    return "gave up"


def keep_half(limit):
    cache = {}
    made = 0
    while made < 3 * limit:
        try:
            cache[made] = b"x" * MI
            made += 1
        except MemoryError:
            for key in list(cache)[: len(cache) // 2]:
                del cache[key]
    return made


def start(args, api):
    how, limit = args["input"][0], args["input"][-1]
    if how == "behave":
        return "served"
    return {"halve": halve, "give_up": give_up, "keep_half": keep_half}[how](limit)
