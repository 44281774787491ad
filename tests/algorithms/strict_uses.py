"""Does what ordinary code does, in a sandbox."""

import asyncio
import concurrent.futures
import multiprocessing
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from multiprocessing import shared_memory


def square(number):
    return number * number


def pool_of(method):
    with multiprocessing.get_context(method).Pool(2) as pool:
        return pool.map(square, [1, 2, 3])


def through_shared_memory():
    memory = shared_memory.SharedMemory(create=True, size=100)
    memory.buf[:4] = b"text"
    again = shared_memory.SharedMemory(memory.name)
    found = bytes(again.buf[:4]).decode()
    again.close()
    memory.close()
    memory.unlink()
    return found


def through_a_manager():
    with multiprocessing.Manager() as manager:
        shared = manager.dict()
        shared["a"] = 1
        return dict(shared)


def through_a_server():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with server.accept()[0] as one:
                one.sendall(b"hello")

        thread = threading.Thread(target=serve)
        thread.start()
        with socket.create_connection(server.getsockname(), timeout=10) as one:
            found = one.recv(5).decode()
        thread.join()
        return found


def renames():
    with tempfile.NamedTemporaryFile(delete=False) as file:
        file.write(b"text")
    target = os.path.join(os.path.expanduser("~"), "file")
    os.rename(file.name, target)
    return os.path.exists(target)


async def answer():
    await asyncio.sleep(0.001)
    return 42


def start(args, api):
    given, made = args["input"]
    if made is not None:
        with open(os.path.join(made, "file"), "w") as file:
            file.write("made")
    with open(os.path.join(os.environ["ALGO_METRICS_DIR"], "metric"), "w") as file:
        file.write(args["taskId"])
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        of_threads = list(threads.map(square, [1, 2, 3]))
    with open(os.path.join(given, "data")) as file:
        data = file.read()
    ran = subprocess.run([sys.executable, "-c", "print(2 * 3)"], capture_output=True, text=True, check=True)
    return {
        "fork pool": pool_of("fork"),
        "spawned pool": pool_of("spawn"),
        "threads": of_threads,
        "shared memory": through_shared_memory(),
        "semaphore": multiprocessing.Semaphore(1).acquire(timeout=5),
        "program": ran.stdout.strip(),
        "manager": through_a_manager(),
        "database": list(sqlite3.connect(os.path.join(tempfile.gettempdir(), "db")).execute("select 1").fetchone()),
        "own server": through_a_server(),
        "read": data,
        "told": [os.environ.get(name) for name in ("TOLD", "PASSED_ON", "A_SECRET")],
        "renamed": renames(),
        "asyncio": asyncio.run(answer()),
        "pid of the first process is not seen as ours": os.getpid() > 1,
    }
