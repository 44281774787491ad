"""Takes more and more memory, in blocks: what a limit is for. Run it with --mem 256Mi."""

import time


def start(args, api):
    blocks = []
    while True:
        blocks.append(bytearray(b"x" * (4 * 1024 * 1024)))
        print(f"holding {4 * len(blocks)} MiB", flush=True)
        time.sleep(0.002)
