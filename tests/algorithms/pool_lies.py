"""A task of hkrunner.Pool that writes false marks and answers, and does not end: its time limit shall hold."""

import os
import socket
import stat
import struct
import time

MARKS_AT = 1024 * 1024


def marks():
    for fd in range(3, 300):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:hkrunner-fault"):
                return fd
        except OSError:
            pass
    raise AssertionError("there is no file of marks")


def write_marks(begun, since):
    os.pwrite(marks(), struct.pack("=Qd", begun, since), MARKS_AT)


def say_not_begun(number):
    """Send the answer that this task was recalled."""
    for fd in range(3, 300):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                socket.socket(fileno=os.dup(fd)).send(struct.pack("!BBHIQ", 1, 27, 0, number, 0))
        except OSError:
            pass


def start(args, api):
    (what,) = args["input"]
    with open(os.environ["BEGUN"], "a") as file:
        file.write(f"{what}\n")
    (number,) = struct.unpack("=Q", os.pread(marks(), 8, MARKS_AT))
    if what == "is far ahead":
        write_marks(1 << 40, 0.0)
    elif what == "has begun nothing":
        write_marks(0, 0.0)
    elif what == "was recalled":
        say_not_begun(number)
    else:
        return what
    time.sleep(60)
