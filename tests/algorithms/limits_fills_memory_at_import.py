"""Takes all the memory there is while it is imported, gives a little back, and goes on."""

blocks = []
try:
    while True:
        blocks.append(bytearray(1 << 14))
except MemoryError:
    del blocks[-8:]


def start(args, api):
    return "served"
