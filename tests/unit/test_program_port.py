"""The port of a program lets in that program, once, and a program's frames are read however they are cut.

What it sends late is no message of its next task.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import operator
import os
import resource
import socket
import struct
from collections.abc import Callable, Iterator
from unittest.mock import Mock

import pytest
from hkrunner.runner.io.loop import Loop
from hkrunner.runner.link.message_memory import WorkerMessage
from hkrunner.runner.program import port
from hkrunner.runner.program.channel import ProgramChannel
from hkrunner.runner.program.connection import ProgramConnection
from hkrunner.runner.program.conversation import Conversation
from hkrunner.runner.program.port import REQUESTS_MAX, ProgramPort
from hkrunner.sandbox.codec.codec import MESSAGE_LIMIT
from hkrunner.sandbox.parent.frame_sender import WAITING_MAX
from hkrunner.sandbox.shared.message_format import Memfd, ProcessMessage
from hkrunner.sandbox.shared.messages import Done, Initialize, Initialized, Loaded, Problem, Start, TaskRead
from support.waiting import wait_until


class Door:
    """A port, and what came of it."""

    def __init__(self, pids: list[int]) -> None:
        self.loop = Loop()
        self.taken: list[socket.socket] = []
        self.refused: list[str] = []
        self.port = ProgramPort(
            self.loop,
            "json",
            pids=lambda: pids,
            on_connected=self.taken.append,
            on_refused=self.refused.append,
        )
        self.port.open()
        self.number = int(self.port.variables["WORKER_SOCKET_PORT"])
        self.path = self.port.variables["WORKER_SOCKET_URL"].partition(str(self.number))[2]
        self.clients: list[socket.socket] = []

    def ask(self, path: str, *, family: int = socket.AF_INET) -> str:
        """Connect with this path; return what is answered."""
        sock = socket.socket(family)
        self.clients.append(sock)
        sock.connect(("127.0.0.1" if family == socket.AF_INET else "::ffff:127.0.0.1", self.number))
        sock.sendall(f"GET {path} HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a\r\n\r\n".encode())
        sock.setblocking(False)
        answer = b""

        def answered() -> bool:
            nonlocal answer
            self.loop.turn(0)
            try:
                answer += sock.recv(65536)
            except BlockingIOError:
                return False
            return b"\r\n\r\n" in answer

        wait_until(answered, deadline_s=10, what="an answer")
        return answer.decode()

    def close(self) -> None:
        self.port.close()
        for sock in (*self.clients, *self.taken):
            sock.close()
        self.loop.close()


@pytest.fixture
def strange() -> Iterator[Door]:
    """The port of a program that this process is no part of."""
    door = Door([1])
    yield door
    door.close()


@pytest.fixture
def own() -> Iterator[Door]:
    """The port of a program that is this process."""
    door = Door([1, os.getpid()])
    yield door
    door.close()


def test_a_stranger_is_refused_unless_it_knows_the_path(strange: Door) -> None:
    assert "it is not of a process of the program" in strange.ask("/?encoding=json")
    assert strange.refused and not strange.taken
    assert " 101 " in strange.ask(strange.path)
    assert len(strange.taken) == 1


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_process_of_the_program_needs_no_path_and_comes_in_once(own: Door, family: int) -> None:
    assert "encoding=bson, and the worker's messages are in json" in own.ask("/?encoding=bson", family=family)
    assert "storage=v3, and only v1 is served" in own.ask("/?storage=v3", family=family)
    assert " 101 " in own.ask("/?encoding=json&storage=v1", family=family)
    assert "gets no second one" in own.ask(own.path, family=family)
    assert len(own.taken) == 1


def test_silent_and_endless_requests_block_nobody(own: Door) -> None:
    for _ in range(REQUESTS_MAX + 1):
        own.clients.append(socket.create_connection(("127.0.0.1", own.number)))
        own.loop.turn(0)
    own.clients[-1].sendall(b"x" * 20_000)
    assert " 101 " in own.ask(own.path)


# ---- its frames


def masked(opcode: int, payload: bytes, *, last: bool = True) -> bytes:
    key = b"\x01\x80\xff\x7f"
    first = opcode | (0x80 if last else 0)
    if len(payload) < 126:
        head = struct.pack("!BB", first, 0x80 | len(payload))
    elif len(payload) < 65536:
        head = struct.pack("!BBH", first, 0xFE, len(payload))
    else:
        head = struct.pack("!BBQ", first, 0xFF, len(payload))
    return head + key + bytes(map(operator.xor, payload, itertools.cycle(key)))


class Program:
    """A connection, and its other end."""

    def __init__(self) -> None:
        self.loop = Loop()
        ours, self.sock = socket.socketpair()
        self.said: list[bytes] = []
        self.are_ascii: list[bool] = []  #: of the large messages, whether they are known to be ASCII
        self.errors: list[str] = []
        self.ends: list[bool] = []
        self.then: Callable[[], None] = lambda: None  #: what follows from each message
        self.connection = ProgramConnection(
            self.loop,
            ours,
            text=True,
            most_bytes=MESSAGE_LIMIT,
            on_message=self._on_message,
            is_more_due=lambda: True,
            on_error=self.errors.append,
            on_end=self.ends.append,
        )
        self.connection.resume()

    def _on_message(self, message: WorkerMessage) -> None:
        self.said.append(message.whole())
        if message.blob is not None:
            self.are_ascii.append(message.blob.is_ascii)
        message.release()
        self.then()

    def sends(self, data: bytes, *, step: int) -> None:
        for begin in range(0, len(data), step):
            self.sock.sendall(data[begin : begin + step])
            self.loop.turn(0)

    def hears(self, end: bytes) -> bytes:
        """Have the program read until its last bytes are these; return all that it read."""
        self.sock.setblocking(False)
        found = b""

        def has_come() -> bool:
            nonlocal found
            self.loop.turn(0)
            with contextlib.suppress(BlockingIOError):
                found += self.sock.recv(1 << 20)
            return found.endswith(end)

        wait_until(has_come, what="the last one")
        return found

    def close(self) -> None:
        self.connection.close()
        self.sock.close()
        self.loop.close()


@pytest.fixture
def program() -> Iterator[Program]:
    one = Program()
    yield one
    one.close()


@pytest.mark.parametrize("step", [1, 7, 65536])
def test_small_frames_may_be_cut_anywhere(program: Program, step: int) -> None:
    messages = [b"", b"{}", b"x" * 125, b"y" * 126, bytes(range(256)) * 12]
    program.sends(b"".join(masked(1, one) for one in messages), step=step)
    assert program.said == messages
    program.sends(masked(1, b"one ", last=False) + masked(9, b"ping") + masked(0, b"message"), step=step)
    assert program.said[-1] == b"one message"
    assert program.sock.recv(100) == b"\x8a\x04ping"


def test_what_follows_from_a_message_may_read_on(program: Program) -> None:
    messages = [b"one", b"y" * 300, b"three"]
    program.then = program.connection.catch_up
    program.sends(b"".join(masked(1, one) for one in messages), step=200)
    assert program.said == messages


@pytest.mark.parametrize("step", [65537, 100_003])
def test_a_large_message_is_unmasked_and_looked_at_wherever_it_is_cut(program: Program, step: int) -> None:
    ascii = b"x" * 300_000
    messages = [bytes(range(251)) * 1500, ascii, b"\xff" + ascii, ascii + b"\xff", ascii]
    for message in messages:
        program.sends(masked(2, message), step=step)
    assert program.said == messages
    assert program.are_ascii == [False, True, False, False, True]
    program.sends(masked(2, ascii, last=False) + masked(0, b"\xff"), step=step)
    assert program.are_ascii[-1] is False


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"\x81\x02{}", "the program sent a frame that RFC 6455 does not allow"),
        (masked(1, b"")[:1] + struct.pack("!BQ", 0xFF, 100_000_001), "; at most 100,000,000 are taken"),
        (masked(0, b"more"), "the program mixed up the frames of its messages"),
        (masked(3, b"what"), "the program mixed up the frames of its messages"),
    ],
)
def test_what_breaks_the_protocol_is_an_error_and_ends_the_reading(
    program: Program, data: bytes, sentence: str
) -> None:
    program.sends(data + masked(1, b"{}"), step=65536)
    assert len(program.errors) == 1 and sentence in program.errors[0]
    assert program.said == [] and program.ends == []


def test_the_end_of_a_connection_says_whether_a_message_was_cut(program: Program) -> None:
    program.sends(masked(1, b"a message")[:7], step=100)
    program.sock.shutdown(socket.SHUT_WR)
    program.loop.turn(0)
    assert program.ends == [True]


def test_a_program_that_says_goodbye_is_answered(program: Program) -> None:
    program.sends(masked(8, b"\x03\xe8bye"), step=100)
    assert program.ends == [False]
    assert program.sock.recv(100) == b"\x88\x02\x03\xe8"


def test_a_program_that_sends_pings_and_reads_nothing_takes_no_memory(program: Program) -> None:
    pings = [masked(9, f"{number:0100}".encode()) for number in range(4000)]
    program.connection._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    program.sends(b"".join(pings), step=100_000)
    assert len(program.connection._queue) == 1
    program.hears(b"\x8a\x64" + f"{3999:0100}".encode())


def test_a_large_message_goes_out_while_the_loop_serves_others(program: Program) -> None:
    sent: list[bool] = []
    message = memoryview(bytes(range(256)) * 20_000)
    program.connection.send(message, lambda: sent.append(True))
    program.connection.send(b"{}")
    assert not sent
    program.sock.setblocking(False)
    found = b""
    while len(found) < 10 + len(message) + 4:
        program.loop.turn(0)
        with contextlib.suppress(BlockingIOError):
            found += program.sock.recv(1 << 20)
    assert found == b"\x81\x7f" + struct.pack("!Q", len(message)) + bytes(message) + b"\x81\x02{}"
    assert sent == [True]


def test_a_program_waits_while_hkrunner_may_open_no_more_files(
    strange: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port, "RETRY_S", 0.01)
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    client = socket.create_connection(("127.0.0.1", strange.number))
    strange.clients.append(client)
    resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno(), allowed[1]))

    def waits() -> bool:
        strange.loop.turn(0)
        return len(strange.loop._readers) == 1  # that of the loop itself

    try:
        wait_until(waits, what="the port is looked at no more; it would be called all the time")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, allowed)
    assert strange.ask(strange.path).startswith("HTTP/1.1 101")


def test_large_replies_that_a_program_does_not_read_take_few_descriptors(program: Program) -> None:
    channel = ProgramChannel(program.loop, "json", set())
    channel._connection = program.connection
    contents = [str(number).encode() * 100_000 for number in range(100, 200)]
    before = len(os.listdir("/proc/self/fd"))
    for content in contents:
        with open(os.memfd_create("reply"), "w+b", buffering=0) as file:
            file.write(content)
            channel.reply(1, Memfd(file.fileno(), len(content)))
    assert len(os.listdir("/proc/self/fd")) <= before + WAITING_MAX
    answers = program.hears(b"199199")
    head = b"\x81\x7f" + struct.pack("!Q", 300_000)
    assert answers == b"".join(head + one for one in contents)
    channel.close()


# ---- its messages


def test_the_memory_of_a_large_result_is_that_of_the_next_one_once_its_task_begins(program: Program) -> None:
    talk, heard = program.connection, list[Memfd]()
    said = Conversation(
        "json",
        lambda task, message: heard.append(message.wire) if isinstance(message, Done) else None,  # type: ignore[arg-type]
        on_unsure=lambda: None,
        on_returned=lambda: None,
        on_hand_out=lambda: None,
        reported=set(),
    )
    talk._reader._on_message = said.take
    done = b'{"command":"done","data":"%s"}'

    def result(letter: bytes) -> int:
        """Run a task with a result of this letter; return which memory has it."""
        talk.take_back()
        said.begin(len(heard) + 1)
        said.initialize_sent(len(heard) + 1)
        said.start()
        program.sends(masked(1, done % (letter * 300_000)), step=100_000)
        return os.fstat(heard[-1].fd).st_ino

    with contextlib.ExitStack() as stack:
        first = result(b"a")
        stack.callback(os.close, heard[0].fd)
        # What comes without a task is held back: the result may be unread yet.
        program.sends(masked(1, done % (b"late" * 75_000)), step=100_000)
        assert os.pread(heard[0].fd, 27, 0) == b'{"command":"done","data":"a'
        program.connection._blobs._kept.close()  # type: ignore[union-attr]
        program.connection._blobs._kept = None
        assert result(b"b") == first
        stack.callback(os.close, heard[1].fd)
        program.connection._blobs.forget()  # after a pause
        assert result(b"c") != first
        stack.callback(os.close, heard[2].fd)


def test_the_memory_of_a_large_result_is_given_away_where_no_descriptor_is_left(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = program.connection._blobs.new(300_000)
    own = blob.fd
    with monkeypatch.context() as full:
        full.setattr(os, "dup", Mock(side_effect=OSError(errno.EMFILE, "Too many open files")))
        given = blob.lend()
    os.close(given)
    assert given == own


def test_what_a_program_sends_late_is_no_message_of_its_next_task() -> None:
    heard: list[tuple[int, ProcessMessage]] = []
    broken: list[object] = []
    with contextlib.ExitStack() as stack:
        loop = Loop()
        stack.callback(loop.close)
        channel = ProgramChannel(loop, "json", set())
        stack.callback(channel.close)
        channel.pids = lambda: [os.getpid()]
        channel.listen_with(lambda *message: heard.append(message), broken.append, broken.append)
        channel.resume()

        def hears(task: int, kind: type) -> None:
            def has_come() -> bool:
                loop.turn(0)
                return any(number == task and type(one) is kind for number, one in heard)

            wait_until(has_come, deadline_s=10, what=f"{kind.__name__} of task {task}")

        port = int(channel.variables["WORKER_SOCKET_PORT"])
        program = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        program.sendall(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a\r\n\r\n")
        hears(0, Loaded)
        large = masked(1, b'{"command":"done","data":"%s"}' % (b"x" * 5_000))
        late = masked(1, b'{"command":"errorMessage","error":{"message":"late"}}') + large[:999]
        last = large[999:] + masked(1, b'{"command":"stopped"}') + masked(10, b"pong")[:3]

        def waits_unread(size: int) -> None:
            """So many bytes have come; they are read when the next task begins."""
            assert channel._connection is not None
            sock = channel._connection._socket
            peek = socket.MSG_PEEK | socket.MSG_DONTWAIT

            def have_come() -> bool:
                return not channel.is_quiet and len(sock.recv(65536, peek)) == size

            wait_until(have_come, deadline_s=10, what=f"{size} late bytes")

        for task in (1, 2):
            channel.send(task, Initialize(b'{"command":"initialize","data":{}}'))
            channel.resume()
            # The rest of a message that began before the second task.
            program.sendall((large[999:] if task == 2 else b"") + masked(1, b'{"command":"initialized"}'))
            hears(task, Initialized)
            channel.send(task, Start())
            program.sendall(masked(1, b'{"command":"done"}'))
            hears(task, Done)
            channel.pause()  # as while the worker takes nothing
            program.sendall(late)
            waits_unread(len(late))
        # A part of a pong is no message that began before the third task, and a late `stopped` no answer.
        program.sendall(last)
        waits_unread(len(late + last))
        channel.send(3, Initialize(b'{"command":"initialize","data":{}}'))
        channel.resume()
        program.sendall(masked(10, b"pong")[3:] + masked(1, b'{"command":"initialized"}'))
        hears(3, Initialized)
    assert not broken
    assert [type(one) for number, one in heard if number == 3] == [TaskRead, Initialized]
    assert [type(one) for number, one in heard if number == 2][1:] == [Initialized, Done]
    said = [one.text for _, one in heard if isinstance(one, Problem)]
    assert [text.split("`")[1] for text in said] == ["errorMessage", "done", "stopped"]
    assert all("while it had no task" in text for text in said)
