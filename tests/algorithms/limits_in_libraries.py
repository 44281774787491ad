"""What libraries do with memory: reserve more than they use, and answer a refusal in their own ways."""

import concurrent.futures
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

BLOCK = 1 << 20


def grow_in_cpp(library):
    """Fill memory in blocks of `new char[]` until std::bad_alloc, which nobody catches."""
    ctypes.CDLL(library).grow()


def grow_in_c(library):
    """The same with malloc; the library ends the process with exit(1), as OpenBLAS does."""
    ctypes.CDLL(library).grow_or_exit()


def wrap(_):
    """Turn the MemoryError into an error of one's own."""
    kept = []
    try:
        while True:
            kept.append(bytearray(BLOCK))
            kept[-1][::4096] = b"x" * (BLOCK // 4096)
    except MemoryError as error:
        raise RuntimeError("could not build the model") from error


def wait_for_itself(_):
    """Report the refused allocation under a lock, and want the same lock again, as Rust's runtime does."""
    acquire = ctypes.CDLL(None).pthread_mutex_lock
    lock = ctypes.create_string_buffer(128)  # zeros are a lock that nobody holds
    kept = []
    try:
        while True:
            kept.append(bytearray(b"x") * BLOCK)
    except MemoryError:
        acquire(lock)
        acquire(lock)


def swallow(_):
    """Grow until an allocation fails, and be content with less."""
    time.sleep(0.1)
    kept = []
    try:
        while True:
            kept.append(bytearray(b"x") * BLOCK)
    except MemoryError:
        return "as much as there was"


def give_up(_):
    """Grow until an allocation fails, and end the process as a library's command line would."""
    kept = []
    try:
        while True:
            kept.append(bytearray(b"x") * BLOCK)
    except MemoryError:
        sys.exit(1)


def take_again(mib):
    """Beside so much, want 20 MiB more: give back what there was when that is refused, and try again."""
    kept = [bytearray(b"x") * BLOCK for _ in range(mib)]
    while True:
        more = []
        try:
            for _ in range(20):
                more.append(bytearray(b"x") * BLOCK)
            return len(kept)
        except MemoryError:
            more.clear()


def threads(count):
    """Run a pool of threads, each of which reserves a stack of 8 MiB."""
    all_are_there = threading.Barrier(count, timeout=20)  # else fewer threads may do for all
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return sum(pool.map(lambda _: all_are_there.wait() >= 0 and not time.sleep(0.05), range(count)))


def one_after_another(mib):
    """Run subprocesses that fit one at a time; return how many failed."""
    code = f"b'x' * ({mib} << 20)"
    return sum(subprocess.run([sys.executable, "-c", code]).returncode != 0 for _ in range(10))


def start_slowly(mib):
    """Start a process that shares our memory for half a second, as all do until they have executed."""
    kept = b"x" * (mib << 20)
    with tempfile.TemporaryDirectory() as folder:
        pipe = os.path.join(folder, "pipe")
        os.mkfifo(pipe)
        with subprocess.Popen(["sh", "-c", 'sleep 0.5; : > "$0"', pipe]):
            # The new process waits for a writer before it executes.
            waits = [(os.POSIX_SPAWN_OPEN, 0, pipe, os.O_RDONLY, 0)]
            pid = os.posix_spawn("/bin/true", ["true"], os.environ, file_actions=waits)
        return os.waitpid(pid, 0)[1] == 0 and len(kept) == mib << 20


def subprocess_fails(_):
    """Have a subprocess grow beyond the limit, and take its end for an error."""
    code = "x = []\nwhile 1: x.append(bytearray(b'x' * (4 << 20)))"
    subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL)


def dot(mib):
    """Multiply with numpy beside arrays of this size: its library reserves buffers and threads."""
    import numpy

    kept = numpy.ones(mib << 17)
    a = numpy.random.default_rng(0).random((500, 500))
    return bool((a @ a).sum() > 0) and len(kept) == mib << 17


def solve(mib):
    """The same with scipy, which is imported when memory is nearly used up."""
    import numpy

    kept = numpy.ones(mib << 17)
    import scipy.linalg

    return float(scipy.linalg.det(numpy.eye(3))) == 1.0 and len(kept) == mib << 17


def start(args, api):
    signal.alarm(60)
    what = args["input"][0]
    if what == "behave":
        return "served"
    return globals()[what](args["input"][1])
