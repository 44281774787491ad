"""Makes what is gone from its process within microseconds in /dev/shm, in each way that Python has, and exits.

Input: [PREFIX], the beginning of each name.
"""

import os
import socket


def start(args, api):
    path = f"/dev/shm/{args['input'][0]}"
    for number in range(60):
        with open(f"{path}_{number}", "wb") as file:
            file.write(bytes(5000))
    os.chdir("/dev/shm")
    os.close(os.open(f"{os.path.basename(path)}_relative", os.O_CREAT | os.O_WRONLY))
    with open(f"{path}_unfinished", "w") as file:
        file.write("text")
    os.replace(f"{path}_unfinished", f"{path}_finished")
    os.link(f"{path}_1", f"{path}_another_name")
    os.mkfifo(f"{path}_pipe")
    os.symlink("/etc/passwd", f"{path}_link")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{path}_socket")
    if os.fork() == 0:
        open(f"{path}_forked", "w").close()
        os._exit(0)
    os.wait()
    os._exit(3)
