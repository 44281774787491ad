"""S3 servers that answer with what is no object: one true sentence each, in time, without much memory."""

from __future__ import annotations

import base64
import contextlib
import gc
import resource
import socket
import threading
from collections.abc import Iterator

import boto3
import pytest
from hkrunner.runner.settings.storage_settings import StorageSettings
from hkrunner.runner.storage import s3_store
from hkrunner.runner.storage.errors import StorageError
from hkrunner.runner.storage.s3_store import S3Store

OK = b"HTTP/1.1 200 OK\r\n"


@contextlib.contextmanager
def server(reply: bytes) -> Iterator[str]:
    """Run a server that answers every request with these bytes, and ends the connection; yield its URL."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                with sock, contextlib.suppress(OSError):
                    sock.settimeout(10)
                    request = b""
                    while b"\r\n\r\n" not in request and (part := sock.recv(65536)):
                        request += part
                    sock.sendall(reply)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def store_at(url: str) -> S3Store:
    return S3Store(StorageSettings(s3_endpoint=url, s3_access_key="k", s3_secret_key="s", timeout_s=5))


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (OK + b"Content-Length: 10000000000\r\n\r\n\x05", "1 read, but total bytes expected is 10000000000"),
        (OK + b"Content-Length: 100000000000000\r\n\r\n\x05", "100,000,000,000,000 bytes, and .* are left"),
        (OK + b"Content-Length: 1\r\nx-amz-meta-header: AAAA\r\n\r\n\x05", "unknown form: 'AAAA'"),
        (OK + b"Content-Length: 1\r\nx-amz-meta-header: \xff\r\n\r\n\x05", "unknown form: 'ÿ'"),
        (OK + b"Content-Length: x\r\n\r\n\x05", "no object can be read at s3://bucket/key: invalid literal"),
        (OK + b"Last-Modified: x\r\n\r\n\x05", "no object can be read at s3://bucket/key: Invalid timestamp"),
        (
            OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n",
            "no object can be read at s3://bucket/key: read leng",
        ),
        (OK, "the server does not say how long it is"),
        (OK + b"Content-Type: text/pl", "the server does not say how long it is"),
        (OK + b"Transfer-Encoding: chunked\r\nx-am", "no object can be read at s3://bucket/key: .*read"),
        (OK + b"\r\n\x05", "the server does not say how long it is"),
        (b"HTTP/1.1 206 X\r\nContent-Length: 1\r\n\r\n\x05", r"a part of it \(HTTP 206\)"),
        (b"\0\xff" * 1000, "Connection was closed before we received a valid response"),
        (b"HTTP/1.1 301 X\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", "redirections .* have no end"),
        (b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n", "404: Not Found"),
    ],
)
def test_what_is_no_object_is_one_sentence(reply: bytes, text: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with server(reply) as url, pytest.raises(StorageError, match=text):
        store_at(url).open("bucket/key", lambda: None)
    gc.collect()  # a connection of boto3 is closed with the error that it is part of
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KB


def test_of_an_answer_that_is_no_object_only_the_beginning_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_store, "ANSWER_MAX", 1000)
    for text, size in (("No", 900), ("403", 2000)):  # XML that is cut says nothing
        error = b"<Error><Code>No</Code><Message>%s</Message></Error>" % (b"x" * size)
        reply = b"HTTP/1.1 403 X\r\nContent-Length: %d\r\n\r\n" % len(error)
        with server(reply + error) as url:
            with pytest.raises(StorageError, match=f"no object can be read at s3://bucket/key: {text}: "):
                store_at(url).open("bucket/key", lambda: None)
            with pytest.raises(StorageError, match=f"no object can be written to s3://bucket/key: .*{text}"):
                store_at(url).write("bucket/key", b"", [b"x"], lambda: None)
    gc.collect()  # as above


def test_a_configuration_that_cannot_be_used_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match="the S3 server at http://a b cannot be used: Invalid endpoint"):
        store_at("http://a b")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # which remembers the profile
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StorageError, match=r"cannot be used: .* profile \(nobody\) could not be found"):
        store_at("http://127.0.0.1:1")


@pytest.mark.parametrize("path", ["bucket/\ud800", "b /key", "", "bucket", "b/../../key"])
def test_a_path_that_names_no_object_is_one_sentence(path: str) -> None:
    with pytest.raises(StorageError, match=r"^[^\n]*$"):
        store_at("http://127.0.0.1:1").open(path, lambda: None)


def test_the_header_is_found_whatever_capitals_the_server_writes() -> None:
    header = base64.b64encode(b"\1\10\1\3\0\0HK")
    with server(OK + b"Content-Length: 1\r\nX-Amz-Meta-Header: " + header + b"\r\n\r\n\x05") as url:
        one = store_at(url).open("bucket/key", lambda: None)
    assert one.header == b"\1\10\1\3\0\0HK"


def test_an_object_in_chunks_is_read_to_its_end() -> None:
    with server(OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\n\x05\r\n0\r\n\r\n") as url:
        one = store_at(url).open("bucket/key", lambda: None)
    assert bytes(one.data) == b"\x05"
