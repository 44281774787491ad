"""Tasks "thread", "process" and "daemon" leave something that prints while later tasks run; "fail" dies.

"quick" ends a process that it has started, and leaves nothing. "ended" has what was left end.
"""

import mmap
import os
import subprocess
import sys
import threading
import time

ended = threading.Event()
tickers = []
WHATS = ["thread", "process", "daemon"]
#: What was left, and a counter of what each of them has printed, which forked processes share.
left = set()
printed = mmap.mmap(-1, len(WHATS))


def print_on(what, pause=time.sleep):
    place = WHATS.index(what)
    while not pause(0.02):
        os.write(1, b"of the %s\n" % what.encode())
        printed[place] = (printed[place] + 1) % 256


def wait_until_each_has_printed():
    before, end = bytes(printed), time.monotonic() + 30
    while any((printed[one] - before[one]) % 256 < 2 for one in map(WHATS.index, left)):
        assert time.monotonic() < end
        time.sleep(0.005)


def start(args, api):
    what = args["input"][0]
    if what in WHATS:
        left.add(what)
    if what == "thread":
        tickers.append(threading.Thread(target=print_on, args=(what, ended.wait), name="ticker", daemon=True))
        tickers[-1].start()
    if what == "process" and os.fork() == 0:
        print_on(what)
    if what == "daemon":
        middle = os.fork()
        if middle == 0:
            if os.fork() == 0:
                print_on(what)
            os._exit(0)
        os.waitpid(middle, 0)
    if what == "quick":
        subprocess.run([sys.executable, "-c", ""], check=True)
    if what == "ended":
        ended.set()
        left.clear()
        tickers[-1].join()
    if what == "fail":
        print("mine", flush=True)
        wait_until_each_has_printed()
        os._exit(3)
    return what
