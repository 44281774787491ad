"""Connects to what --net has opened, and to what it has not. Answers what came of each."""

import concurrent.futures
import errno
import os
import select
import socket
import time


def echo(address, size):
    """Send so many bytes to a server that sends them back; the end of one direction leaves the other one."""
    with socket.create_connection(address, timeout=20) as one:
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            data = bytes(range(256)) * (size // 256)

            def send():
                one.sendall(data)
                one.shutdown(socket.SHUT_WR)

            sent = threads.submit(send)
            found = bytearray()
            while part := one.recv(1 << 20):
                found += part
            sent.result()
    return found == data


def refused(address, kind=socket.SOCK_STREAM):
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, kind) as one:
        one.settimeout(5)
        try:
            one.connect(address)
            if kind == socket.SOCK_STREAM:
                return "connected"
            for _ in range(2):  # what came back of the first one, the second one says
                one.send(b"text")
                time.sleep(0.05)
        except OSError as error:
            return errno.errorcode.get(error.errno, str(error))
    return "sent"


def ends_at_once(address):
    """Whether a connection is closed before anything comes: who serves the target has refused it."""
    try:
        with socket.create_connection(address, timeout=20) as one:
            return one.recv(1) == b""
    except ConnectionResetError:
        return True


def fin_timeout():
    with open("/proc/sys/net/ipv4/tcp_fin_timeout") as file:
        return file.read().strip()


def start(args, api):
    what, given = args["input"]
    if what == "connect":
        with socket.create_connection(given, timeout=20) as one:
            one.sendall(b"text")
            return one.recv(4).decode()
    if what == "hold":
        held = [socket.create_connection(given, timeout=20) for _ in range(3)]
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        os.write(1, b"holds\n")
        select.select(held, [], [], 60)
        while True:  # until a limit of the processor time is broken
            pass
    name, port, other = given["name"], given["port"], given["other"]
    with concurrent.futures.ThreadPoolExecutor(20) as threads:
        at_once = list(threads.map(lambda _: echo((name, port), 64 << 10), range(20)))
    return {
        "by name": echo((name, port), 8 << 20),
        "at once": all(at_once),
        "by address": echo((given["address"], port), 4096),
        "by the name of this machine": echo(("localhost", port), 4096),
        "seconds until the kernel forgets a closed connection": fin_timeout(),
        "of IPv6": echo((given["address6"], given["port6"]), 4096) if given["port6"] else True,
        "nobody listens": ends_at_once((name, given["nobody"])),
        "the address of the name": socket.gethostbyname(name),
        "another port": refused((name, other)),
        "another port of an address": refused((given["address"], other)),
        "another port of the machine": refused(("127.0.0.1", other)),
        "another address": refused(("192.0.2.9", port)),
        "by UDP": refused((given["address"], port), socket.SOCK_DGRAM),
        "by UDP to the internet": refused(("192.0.2.9", 53), socket.SOCK_DGRAM),
    }
