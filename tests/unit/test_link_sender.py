"""Messages on a TLS connection whose kernel takes no more for now."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

from hkrunner.runner.io.loop import Loop
from hkrunner.runner.link.frames import PONG, TEXT, Reader, frame
from hkrunner.runner.link.message_memory import MessageMemoryPool
from hkrunner.runner.link.sender import LinkSender

TLS = Path(__file__).parents[1] / "integration/data/tls"
NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


@contextlib.contextmanager
def tls_pair() -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    """Yields the two ends of a connection, both non-blocking."""
    client, server = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    server.load_cert_chain(TLS / "cert.pem", TLS / "key.pem")
    ours, theirs = socket.socketpair()
    with (
        client.wrap_socket(ours, do_handshake_on_connect=False) as near,
        server.wrap_socket(theirs, do_handshake_on_connect=False, server_side=True) as far,
    ):
        waiting = [near, far]
        for one in waiting:
            one.setblocking(False)
        while waiting:
            with contextlib.suppress(ssl.SSLWantReadError):
                waiting[0].do_handshake()
                waiting.pop(0)
            waiting.reverse()
        yield near, far


def test_what_tls_has_encrypted_is_written_before_anything_else() -> None:
    loop = Loop()
    errors: list[str] = []
    arrived: list[bytes] = []
    reader = Reader(
        MessageMemoryPool(loop),
        lambda message: arrived.append(message.data),
        lambda opcode, payload: arrived.append(payload),
        is_client=True,
    )

    def read_all() -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            while reader.receive(far)[0]:
                pass

    with tls_pair() as (near, far):
        sender = LinkSender(loop, TEXT, may_begin=lambda: True, on_error=errors.append)
        sender.use(near, NOT_NOW)
        posted: list[bytes] = []
        while sender.outbox.is_empty:  # until the kernel takes no more
            for message in (b"started", b"%d " % len(posted) + b"x" * 9000):
                sender.post(message, None, final=False, soon=message == b"started", at_once=True)
                posted.append(message)
        sender.outbox.put_control(frame(PONG, b"alive"))
        sender.pump()
        while not sender.outbox.is_empty:
            read_all()
            sender.pump()
            assert not errors
        read_all()
        sender.detach()
    assert arrived == [*posted, b"alive"]
    loop.close()
