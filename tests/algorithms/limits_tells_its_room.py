"""Takes its time to load, then writes at once how much more it may reserve."""

import os
import resource
import signal
from pathlib import Path

signal.alarm(60)
PLACE = Path(os.environ["PLACE"])
print("loading", os.getpid(), flush=True)
while not (PLACE / "go").exists():
    signal.sigtimedwait([], 0.01)


def start(args, api):
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    (PLACE / "room.part").write_text(str(soft - used))
    (PLACE / "room.part").rename(PLACE / "room")
    return "served"
