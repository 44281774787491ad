"""Makes folders in /dev/shm that stay empty, or hold what no file in them proves to be its own; returns them or hangs.

Input: [WAY, HOW]; WAY: bare, nested, odd, forked; HOW: hang, return or exit.
"""

import os
import signal
import socket
import tempfile
import time

held = []


def make(way):
    folder = tempfile.mkdtemp(prefix="folders_test_", dir="/dev/shm")
    if way == "nested":
        os.makedirs(f"{folder}/one/two/three")
        os.mkdir(f"{folder}/other")
    if way == "odd":
        os.mkfifo(f"{folder}/pipe")
        os.symlink("/etc/passwd", f"{folder}/link")
        os.symlink("/etc", f"{folder}/link_to_a_folder")
        held.append(socket.socket(socket.AF_UNIX))
        held[-1].bind(f"{folder}/socket")
    return folder


def start(args, api):
    signal.alarm(60)
    way, how = args["input"]
    if way == "forked":
        pid = os.fork()
        if pid == 0:
            make("bare")
            os._exit(0)
        os.waitpid(pid, 0)
        folder = None
    else:
        folder = make(way)
    if how == "exit":
        os._exit(7)
    if how == "hang":
        time.sleep(60)
    return folder
