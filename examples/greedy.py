"""An algorithm that uses more and more memory. Run it with --mem 256Mi to see the limit work."""

import time


def start(args, api):
    blocks = []
    while True:
        blocks.append(bytearray(b"x" * (4 * 1024 * 1024)))
        print(f"holding {4 * len(blocks)} MiB", flush=True)
        time.sleep(0.002)
