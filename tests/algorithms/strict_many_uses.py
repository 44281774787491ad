"""Does what ordinary code and its libraries do. Answers for each use whether it worked, else its error."""

import asyncio
import concurrent.futures
import contextlib
import ctypes
import fcntl
import getpass
import gzip
import hashlib
import importlib
import logging
import lzma
import mmap
import multiprocessing
import os
import platform
import pty
import pwd
import resource
import secrets
import select
import shelve
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from pathlib import Path


def square(number):
    return number * number


def put(queue, event, number):
    event.wait(20)
    queue.put(number.value + 1)


def a_pool_by_forkserver():
    with multiprocessing.get_context("forkserver").Pool(2) as pool:
        return pool.map(square, [1, 2]) == [1, 4]


def an_executor_of_processes():
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        return list(pool.map(square, [1, 2])) == [1, 4]


def queues_events_and_shared_values():
    queue, event = multiprocessing.Queue(), multiprocessing.Event()
    number = multiprocessing.Value("i", 41)
    process = multiprocessing.Process(target=put, args=(queue, event, number))
    process.start()
    event.set()
    found = queue.get(timeout=20)
    process.join()
    return found == 42 and list(multiprocessing.Array("d", [1, 2])) == [1, 2]


def numpy_with_its_threads():
    import numpy

    made = numpy.random.default_rng().random((300, 300))
    return bool(numpy.allclose(made @ numpy.linalg.inv(made), numpy.eye(300), atol=1e-4))


def numpy_with_mapped_files():
    import numpy

    with tempfile.TemporaryDirectory() as folder:
        numpy.save(f"{folder}/made.npy", numpy.arange(1000))
        return int(numpy.load(f"{folder}/made.npy", mmap_mode="r")[-1]) == 999


def scipy_with_its_threads():
    import numpy
    import scipy.fft
    import scipy.optimize

    least = scipy.optimize.minimize(lambda x: float((x[0] - 3) ** 2), [0.0])
    made = scipy.fft.fft(numpy.ones((8, 64)), workers=2)
    return abs(least.x[0] - 3) < 1e-3 and made[0][0] == 64


def event_files_for_tensorboard():
    from tensorboardX import SummaryWriter

    folder = os.path.join(os.environ["ALGO_METRICS_DIR"], "curves")
    with SummaryWriter(folder) as writer:
        writer.add_scalar("loss", 1.0, 1)
    return bool(os.listdir(folder))


def psutil_about_itself():
    import psutil

    process = psutil.Process()
    cores = psutil.cpu_count()
    return process.memory_info().rss > 0 and cores >= 1 and psutil.virtual_memory().total > 0


def certificates_for_tls():
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="example.org")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return bool(outgoing.read())


def random_numbers_and_hashes():
    derived = hashlib.scrypt(b"text", salt=b"salt", n=2**10, r=8, p=1)
    return len(secrets.token_hex(8)) == 16 and len(os.urandom(8)) == 8 and len(derived) == 64


def temporary_files_of_each_kind():
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as file:
        file.write(b"text")
        os.link(shutil.copy(__file__, folder), f"{folder}/linked")
        os.symlink("linked", f"{folder}/link")
        os.chmod(f"{folder}/linked", 0o600)
        os.utime(f"{folder}/linked")
        found = sorted(os.listdir(folder))
    return len(found) == 3 and not os.path.exists(folder)


def a_home_and_a_cache():
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "library"
    cache.mkdir(parents=True)
    (cache / "file").write_text("text")
    (Path.home() / ".setting").write_text("text")
    return True


def archives():
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(f"{folder}/a.zip", "w") as archive:
            archive.write(__file__, "file")
        with tarfile.open(f"{folder}/a.tar.gz", "w:gz") as tar:
            tar.add(__file__, "file")
        with tarfile.open(f"{folder}/a.tar.gz") as tar:
            tar.extract("file", folder)
    return lzma.decompress(lzma.compress(gzip.decompress(gzip.compress(b"text")))) == b"text"


def a_shelf_of_objects():
    with tempfile.TemporaryDirectory() as folder:
        with shelve.open(f"{folder}/shelf") as shelf:
            shelf["a"] = [1]
        with shelve.open(f"{folder}/shelf") as shelf:
            return shelf["a"] == [1]


def mapped_and_locked_files():
    with tempfile.TemporaryFile() as file:
        file.truncate(4096)
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_EX)
        with mmap.mmap(file.fileno(), 4096) as memory:
            memory[:4] = b"text"
        return os.pread(file.fileno(), 4, 0) == b"text"


def copies_within_the_kernel():
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as target:
        source.write(b"text")
        source.flush()
        os.sendfile(target.fileno(), source.fileno(), 0, 4)
        os.copy_file_range(source.fileno(), target.fileno(), 4, 0, 4)
        return os.pread(target.fileno(), 9, 0) == b"texttext"


def a_memory_file():
    fd = os.memfd_create("made")
    os.write(fd, b"text")
    with open(f"/proc/self/fd/{fd}", "rb") as file:
        found = file.read()
    os.close(fd)
    return found == b"text"


def named_pipes():
    with tempfile.TemporaryDirectory() as folder:
        os.mkfifo(f"{folder}/pipe")
        thread = threading.Thread(target=lambda: Path(folder, "pipe").write_text("text"))
        thread.start()
        found = Path(folder, "pipe").read_text()
        thread.join()
    return found == "text"


def own_sockets_with_a_path():
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/socket")
        server.listen()
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(f"{folder}/socket")
            one.sendall(b"text")
            with server.accept()[0] as other:
                return other.recv(4) == b"text"


def a_program_in_a_shell():
    text = subprocess.run("echo text | tr a-z A-Z", shell=True, capture_output=True, text=True, check=True)
    return text.stdout == "TEXT\n"


def a_program_in_a_loop():
    async def act():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "print(1)", stdout=asyncio.subprocess.PIPE
        )
        return (await process.communicate())[0] == b"1\n"

    return asyncio.run(act())


def a_terminal_of_its_own():
    pid, fd = pty.fork()
    if pid == 0:
        os.execvp("sh", ["sh", "-c", "test -t 0 && stty rows 7 && tty"])
    found = os.read(fd, 100)
    os.close(fd)
    os.waitpid(pid, 0)
    return found == b"/dev/pts/0\r\n" or found


def a_daemon():
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(write, b"text")
        os._exit(0)
    os.wait()
    return os.read(read, 4) == b"text"


def timers_and_signals():
    seen = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: seen.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    deadline = time.monotonic() + 20
    while not seen and time.monotonic() < deadline:
        time.sleep(0.005)
    signal.signal(signal.SIGALRM, before)
    return seen == [signal.SIGALRM]


def events_of_descriptors():
    read, write = os.pipe()
    with select.epoll() as poll:
        poll.register(read, select.EPOLLIN)
        os.write(write, b"x")
        found = poll.poll(20)
    number = ctypes.CDLL(None, use_errno=True).inotify_init1(0)
    os.close(number)
    return len(found) == 1 and number > 0


def its_own_limits_and_priority():
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    os.sched_setaffinity(0, os.sched_getaffinity(0))
    return os.nice(1) >= 1 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0


def names_of_users_and_machines():
    os.environ.setdefault("LOGNAME", "somebody")
    return bool(getpass.getuser() and pwd.getpwuid(0).pw_name and socket.gethostname())


def the_platform_and_the_time():
    return "Linux" in platform.platform() and bool(time.strftime("%Z")) and os.cpu_count() >= 1


def modules_that_it_has_written():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "written_module.py").write_text("value = 42\n")
        sys.path.insert(0, folder)
        found = importlib.import_module("written_module").value
        sys.path.remove(folder)
    return found == 42


def functions_of_c():
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    numbers = (ctypes.c_int * 3)(3, 1, 2)
    libc = ctypes.CDLL(None)
    libc.qsort(numbers, 3, ctypes.sizeof(ctypes.c_int), compare(lambda a, b: a[0] - b[0]))
    return list(numbers) == [1, 2, 3]


def a_log_file():
    with tempfile.TemporaryDirectory() as folder:
        handler = logging.FileHandler(f"{folder}/log")
        handler.emit(logging.makeLogRecord({"msg": "text"}))
        handler.close()
        return Path(folder, "log").read_text() == "text\n"


def names_of_its_own_network():
    names = ("localhost", socket.gethostname())
    return [socket.gethostbyname(name) for name in names] == ["127.0.0.1", "127.0.0.1"]


def datagrams_to_itself():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        one.settimeout(20)
        one.sendto(b"text", one.getsockname())
        return one.recv(4) == b"text"


def a_server_in_a_loop():
    async def serve(reader, writer):
        writer.write(await reader.read(4))
        writer.close()

    async def act():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"text")
        found = await reader.read(4)
        writer.close()
        server.close()
        return found == b"text"

    return asyncio.run(act())


USES = [one for name, one in list(globals().items()) if callable(one) and getattr(one, "__module__", "") == __name__]


def start(args, api):
    found = {}
    for use in USES:
        if use not in (square, put):
            try:
                found[use.__name__] = use()
            except Exception as error:
                found[use.__name__] = repr(error)
    return found
