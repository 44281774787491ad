"""Takes all the memory there is while it is imported, is content with less, and gives all of it back."""

blocks = []
try:
    while True:
        blocks.append(bytearray(b"x" * (1 << 20)))
except MemoryError:
    blocks.clear()


def start(args, api):
    return "served"
