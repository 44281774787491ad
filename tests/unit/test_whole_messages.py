"""A message of multiprocessing's for which there is no memory does not spoil the next one."""

from __future__ import annotations

import subprocess
import sys

#: The child may reserve 24 MiB more than it has, and the parent sends 40 MiB, and then a small message.
PROGRAM = """
import multiprocessing, os, resource
from hkrunner.sandbox.child.whole_messages import keep_messages_whole
keep_messages_whole()
ours, theirs = multiprocessing.Pipe(duplex=DUPLEX)
child = os.fork()
if child == 0:
    with open("/proc/self/statm") as file:
        data = int(file.read().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (data + (24 << 20), resource.RLIM_INFINITY))
    for count in range(2):
        try:
            print(len(ours.recv_bytes()), flush=True)
        except MemoryError:
            print("no memory", flush=True)
    os._exit(0)
theirs.send_bytes(b"x" * (40 << 20))
theirs.send_bytes(b"12345")
os.waitpid(child, 0)
"""


def test_a_message_without_memory_is_lost_alone() -> None:
    for duplex in ("True", "False"):
        code = PROGRAM.replace("DUPLEX", duplex)
        ended = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
        )
        assert ended.stdout == "no memory\n5\n"
