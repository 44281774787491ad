"""Burns CPU: sandbox_spin.py SHAPE SECONDS. SHAPE: one, threads (2), processes (4), forks (fork and exit), light."""

import hashlib
import os
import signal
import sys
import threading
import time

shape, seconds = sys.argv[1], min(float(sys.argv[2]), 30.0)
signal.alarm(40)
end = time.monotonic() + seconds
BLOCK = b"x" * 65536


def burn(until=None):
    # hashlib lets go of the GIL, so two threads burn two processors.
    while time.monotonic() < (until or end):
        hashlib.sha256(BLOCK).digest()


if shape == "threads":
    other = threading.Thread(target=burn)
    other.start()
    burn()
    other.join()
elif shape == "processes":
    for _ in range(3):
        if os.fork() == 0:
            signal.alarm(40)
            burn()
            os._exit(0)
    burn()
elif shape == "forks":
    while time.monotonic() < end:
        pid = os.fork()
        if pid == 0:
            signal.alarm(40)
            began = time.process_time()
            while time.process_time() - began < 0.004:
                hashlib.sha256(BLOCK).digest()
            os._exit(0)
        os.waitpid(pid, 0)
elif shape == "light":
    # A heart-beat every 5 ms; prints how late the 95th percentile was.
    late = []
    while time.monotonic() < end:
        planned = time.monotonic() + 0.005
        time.sleep(0.005)
        late.append(time.monotonic() - planned)
    late.sort()
    print(f"{late[int(len(late) * 0.95)] * 1000:.2f}", flush=True)
else:
    burn()
