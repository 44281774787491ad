"""After it was refused memory, nothing is left that could wake any of its processes; or something is.

Input: ["send"] has both ends of a socket send, ["lock"] keeps a lock, ["program"] waits for one that waits for
it, ["pool"] shares a list of a Manager with a Pool. ["sleeps"], ["waits"], ["calls"] and ["awaits"] wait for
what comes: the end of a program that sleeps, what another thread does then, and a task that sleeps, of the
algorithm "other" (this one).
"""

import asyncio
import multiprocessing
import os
import socket
import subprocess
import threading
import time


def take_all():
    """Take memory until there is none, and return it."""
    blocks = []
    try:
        while True:
            blocks.append(bytearray(b"x") * (256 << 10))
            time.sleep(0.0005)  # also where a busy machine has the warden look late
    except MemoryError:
        return blocks


def extend(shared, number):
    shared.append([number] * 300_000)


def send_both():
    ours, theirs = socket.socketpair()
    (theirs if os.fork() == 0 else ours).sendall(bytes(4 << 20))


def take_lock_twice():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def wait_for_a_program():
    subprocess.Popen(["cat"], stdin=subprocess.PIPE).wait()


def wait_for_a_thread():
    done = threading.Event()

    def work():
        time.sleep(4)
        done.set()

    threading.Thread(target=work).start()
    done.wait()


async def wait_in_a_coroutine(api):
    program = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    loop = asyncio.get_running_loop()
    loop.add_reader(program.stdout, program.stdout.read)  # by which only the tree could wake the loop
    try:
        return await api.begin_algorithm("other", ["other"])
    finally:
        loop.remove_reader(program.stdout)
        program.communicate()


def start(args, api):
    way = args["input"][0]
    if way == "behave":
        return "served"
    if way == "other":
        time.sleep(4)
        return "went on"
    if way == "pool":
        fork = multiprocessing.get_context("fork")
        with fork.Manager() as manager, fork.Pool(2) as pool:
            shared = manager.list()
            pool.starmap(extend, [(shared, number) for number in range(60)], chunksize=1)
        return "fitted"
    take_all().clear()
    if way == "send":
        send_both()
    elif way == "lock":
        take_lock_twice()
    elif way == "program":
        wait_for_a_program()
    elif way == "sleeps":
        subprocess.run(["sleep", "4"])
    elif way == "waits":
        wait_for_a_thread()
    elif way == "calls":
        return api.start_algorithm("other", ["other"])
    elif way == "awaits":
        return wait_in_a_coroutine(api)
    return "went on"
