"""The client of HKube's API against servers that send too much, too slowly, or something else."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hkrunner.runner.cluster import byte_progress
from hkrunner.runner.cluster.address import Cluster, cluster_of
from hkrunner.runner.cluster.api import json_body
from hkrunner.runner.cluster.code_package import check_archive, write_package
from hkrunner.runner.cluster.form import form_body
from hkrunner.runner.cluster.login import Login
from hkrunner.runner.cluster.transport import AnswerLost, HttpAnswer, NotSent, Transport
from hkrunner.runner.errors import ClusterError, SettingsError
from hkrunner.runner.prepare.code_files import code_files

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@contextlib.contextmanager
def raw_server(serve: Callable[[socket.socket], None], host: str = "127.0.0.1") -> Iterator[str]:
    """A server whose every connection is served by the function; yields its URL."""
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as server:

        def run() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    serve(connection)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"http://{f'[{host}]' if ':' in host else host}:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def ask(url: str, body: bytes | None = None, **more: Any) -> HttpAnswer:
    transport = Transport(Cluster("lab", url), silence_s=more.pop("silence_s", 30.0))
    return transport.send("POST", "/x", {}, None if body is None else json_body(body), **more)


def endlessly(before: bytes, piece: bytes, pause_s: float) -> Callable[[socket.socket], None]:
    """Return what sends `before`, and then the piece again and again until the client has gone."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(before)
        gone = threading.Event()
        while not gone.wait(pause_s):
            connection.sendall(piece)

    return serve


@pytest.mark.parametrize(
    ("before", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (HEAD + b"\r\n", b" "),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 1000000\r\n\r\n", b"x"),
    ],
    ids=["a header", "interim answers", "a body", "chunks", "an error"],
)
def test_an_answer_that_never_ends_is_ended(before: bytes, piece: bytes) -> None:
    with (
        raw_server(endlessly(before, piece, 0.02)) as url,
        # On a busy machine, a pause between two pieces may be longer than the silence that ends it.
        pytest.raises(AnswerLost, match=r"the answer comes too slowly|no answer in time"),
    ):
        ask(url, silence_s=0.3)


def test_an_answer_has_a_largest_size() -> None:
    with (
        raw_server(endlessly(HEAD + b"\r\n", b"x" * 65536, 0)) as url,
        pytest.raises(ClusterError, match="answers with more than 1 MiB, which is too much"),
    ):
        ask(url, most=2**20)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x16\x03\x01 not HTTP\r\n\r\n",
        b"HTTP/1.1 xyz\r\n\r\n",
        HEAD + b"Content-Length: 10\r\n\r\n12345",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nff\r\n12345",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nno size\r\n",
        HEAD + b"X: 1\r\n" * 200 + b"\r\n",
        HEAD + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
    ids=["nothing", "TLS", "no status", "short", "half a chunk", "no chunk", "many headers", "a long header"],
)
def test_what_is_no_whole_answer_is_lost(answer: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)

    with raw_server(serve) as url, pytest.raises(AnswerLost):
        ask(url)


def test_a_large_body_that_is_refused_before_it_was_sent_is_refused_for_the_servers_reason() -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}")
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            while connection.recv(2**20):
                pass

    with raw_server(serve) as url:
        assert ask(url, b"x" * 8_000_000).status == 413


def test_an_ipv6_address_without_a_port_keeps_its_end() -> None:
    transport = Transport(Cluster("lab", "http://[::1]"))
    connection = transport._new_connection()
    assert (connection.host, connection.port) == ("::1", 80)


@pytest.mark.parametrize("host", ["a..b", f"{'x' * 70}.example"])
def test_what_cannot_be_the_name_of_a_host_is_one_sentence(host: str) -> None:
    with pytest.raises((ClusterError, NotSent), match=r"cannot be the name of a host|no host of this name"):
        ask(f"http://{host}")


# ---- secrets and the file of clusters


def test_a_token_is_in_no_message_and_in_no_repr(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path), "HKRUNNER_CLUSTER_TOKEN": " abc\n"}
    found = cluster_of("http://h", environ, "/")
    assert found.token == "abc" and "abc" not in repr(found)
    for bad in ("ab\ncd", "ab cd", "äb"):
        with pytest.raises(SettingsError, match="HKRUNNER_CLUSTER_TOKEN: a token is one line") as caught:
            cluster_of("http://h", {**environ, "HKRUNNER_CLUSTER_TOKEN": bad}, "/")
        assert bad not in str(caught.value)
        with pytest.raises(ClusterError, match="answered the login without a token"):
            Login(found).accept({"data": {"access_token": bad}})


@pytest.mark.parametrize("lifetime", [10**400, "60", True, -1, float("nan"), None])
def test_a_token_whose_lifetime_is_no_number_of_seconds_is_used_until_it_is_refused(lifetime: object) -> None:
    one = Login(Cluster("lab", "http://h"))
    one.accept({"data": {"access_token": "t", "expires_in": lifetime}})
    assert one.header == {"Authorization": "Bearer t"} and not one.is_due


def test_a_home_that_cannot_be_searched_is_one_without_a_file_of_hkubectl(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--on hkubectl: no \.hkube/\.hkuberc in this folder"):
        cluster_of("hkubectl", {"HOME": "/" + "x" * 300}, str(tmp_path))


def test_names_and_passwords_are_what_is_written_whatever_yaml_takes_them_for(tmp_path: Path) -> None:
    (tmp_path / "hkrunner").mkdir()
    file = tmp_path / "hkrunner" / "clusters.yml"
    file.write_text(
        "clusters:\n"
        "  12: &one {url: http://a, username: 007, password: 0123, verify: no}\n"
        "  yes: {url: http://b, token: 2024-99-99}\n"
        "  1e3: {<<: *one, url: http://c/a b/ä}\n"
        "  bad: {url: http://d, verify: maybe}\n"
        "  none: {url: http://e, password: }\n"
        '  nul: {url: http://f, passwordFile: "a\\0b"}\n'
    )
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert cluster_of("yes", {**environ, "HKRUNNER_CLUSTER_PASSWORD": "p"}, "/")[3:5] == ("p", None)
    assert tuple(cluster_of("12", environ, "/")) == ("12", "http://a", "007", "0123", None, None, False)
    assert cluster_of("yes", environ, "/").token == "2024-99-99"
    assert cluster_of("1e3", environ, "/").url == "http://c/a%20b/%C3%A4"
    for name, sentence in {
        "bad": "verify is neither true nor false",
        "none": "password is not a text",
        "nul": "passwordFile is not a text",
        "http://a b": "there is no such host",
    }.items():
        with pytest.raises(SettingsError, match=sentence):
            cluster_of(name, environ, "/")
    file.write_text("[" * 800)
    with pytest.raises(SettingsError, match="is not YAML"):
        cluster_of("12", environ, "/")
    file.write_text("clusters:\n  a: [1\nb: 2\n")
    with pytest.raises(SettingsError) as caught:
        cluster_of("12", environ, "/")
    assert str(caught.value) == f"{file}:3: it is not YAML: expected ',' or ']', but got ':'"


# ---- what is sent


def test_a_file_that_cannot_be_sent_is_no_fault_of_the_network(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        form_body({}, str(tmp_path / "none.zip"), "none.zip")
    file = tmp_path / "code.zip"
    file.write_bytes(b"x" * 1000)
    body = form_body({}, str(file), 'a"b\r\n\udcff.zip')
    assert b'filename="a%22b%0D%0A?.zip"' in b"".join(body.pieces())
    file.write_bytes(b"x" * 10)
    with pytest.raises(SettingsError, match="became shorter while it was sent"):
        b"".join(body.pieces())
    file.write_bytes(b"x" * 2000)
    assert len(b"".join(body.pieces())) == body.length


def test_a_package_that_hkubes_builder_cannot_read_is_refused_while_it_is_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "main.py").write_text("x")
    (tmp_path / "model.bin").write_bytes(random.Random(1).randbytes(3 << 20))
    (tmp_path / "more.bin").write_bytes(b"x" * 1000)
    monkeypatch.setattr(byte_progress, "_REPORT_S", 0)
    told: list[str] = []
    code = code_files(str(tmp_path))
    with pytest.raises(SettingsError) as refused:
        write_package(str(tmp_path / "code.zip"), code, progress=told.append, most=(1 << 20) - 1)
    assert "packed, it has more than 1 MiB, which HKube's builder cannot read" in str(refused.value)
    assert "the largest: model.bin, 3 MiB; more.bin, 1000 B; main.py, 1 B)" in str(refused.value)
    assert told[:2] == ["packing: 1 B of 3 MiB", "packing: 1 MiB of 3 MiB"]  # zlib decides when it is full
    assert len(told) < 4, "it was packed to the end"
    archive = tmp_path / "large"
    archive.write_bytes(b"PK\x03\x04")
    os.truncate(archive, 1 << 31)
    with pytest.raises(SettingsError, match="builder reads no zip of more than 2 GiB"):
        check_archive(str(archive))
    with archive.open("r+b") as file:
        file.write(b"\x1f\x8b")
    assert check_archive(str(archive)) == 1 << 31, "the builder reads a tar.gz as a stream"
    with pytest.raises(SettingsError, match=r"more.bin: .* it is neither by its content"):
        check_archive(str(tmp_path / "more.bin"))
    body = form_body({}, str(tmp_path / "more.bin"), progress=told.append)
    assert len(b"".join(body.pieces())) == body.length and told[-1] == "sending: 1000 B of 1000 B"


def test_a_name_that_a_zip_cannot_hold_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "alg").mkdir()
    (tmp_path / "alg" / "main.py").touch()
    Path(os.fsdecode(os.fsencode(tmp_path / "alg") + b"/\xff.txt")).touch()
    with pytest.raises(SettingsError, match=r"udcff.txt' cannot be packed: its name is not UTF-8"):
        write_package(str(tmp_path / "code.zip"), code_files(str(tmp_path / "alg")))
    assert not (tmp_path / "code.zip").exists(), "a large file before it would take minutes"
    os.unlink(os.fsencode(tmp_path / "alg") + b"/\xff.txt")
    os.symlink(b"\xff.txt", os.fsencode(tmp_path / "alg") + b"/link")
    with pytest.raises(
        SettingsError, match=r"link' cannot be packed: its name, or what it points to, is not"
    ):
        write_package(str(tmp_path / "code.zip"), code_files(str(tmp_path / "alg")))
    os.unlink(tmp_path / "alg" / "link")
    with pytest.raises(SettingsError, match="cannot be written: No space left on device"):
        write_package("/dev/full", code_files(str(tmp_path / "alg")))
