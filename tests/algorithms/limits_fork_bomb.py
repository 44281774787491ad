"""A fork bomb. Input: [KIND]. It refuses to explode where nothing would bound it, and ends itself.

comet: each starts the next and goes at once, twelve heads at a time; classic: each starts two and stays,
then starts more. With "-sid" each in a session of its own. "who": how many of this program there are.
"""

import contextlib
import os
import resource
import signal
import time

#: 300 processes in sessions of their own leave the warden a hundredth of a core or less: it has needed 8 s.
LIFE_S = 20
HEADS = 12


def start(args, api):
    kind = args["input"][0]
    if kind == "who":
        return count_of_this_program()
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if os.getuid() == 0 or not 0 < soft <= 5000:
        raise RuntimeError(f"nothing bounds this bomb: uid {os.getuid()}, RLIMIT_NPROC {soft}")
    end = time.monotonic() + LIFE_S
    explode = comet if kind.startswith("comet") else classic
    for _ in range(HEADS if explode is comet else 2):
        # Refused if the first ones have used up all processes; raised, it would be the task's own end.
        with contextlib.suppress(OSError):
            if os.fork() == 0:
                live(explode, kind.endswith("-sid"), end)
    print("exploded", flush=True)
    time.sleep(LIFE_S)
    return "nobody minded"


def count_of_this_program():
    """This one, and whatever is left of a bomb: they have the same command line but for its numbers."""
    with open("/proc/self/cmdline", "rb") as file:
        mine = file.read().split(b"\0")[:4]
    count = 0
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat("/proc/" + name).st_uid == os.getuid():
                with open("/proc/" + name + "/cmdline", "rb") as file:
                    count += file.read().split(b"\0")[:4] == mine
        except OSError:
            continue
    return count


def live(explode, own_session, end):
    try:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while time.monotonic() < end:
            signal.setitimer(signal.ITIMER_REAL, max(0.01, end - time.monotonic()))
            if own_session:
                try:
                    os.setsid()
                except OSError:
                    pass
            explode()
    finally:
        os._exit(0)


def comet():
    try:
        if os.fork():
            os._exit(0)
    except OSError:
        time.sleep(0.001)


def classic():
    try:
        os.fork()
    except OSError:
        pass  # full: the others go on trying, and so does this one
