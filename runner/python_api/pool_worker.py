"""A worker of a Pool as the user's process knows it: its socket, and the tasks that were sent to it."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable

from ...sandbox.shared.channel import (
    INLINE_MAX,
    Buffer,
    ChannelError,
    Frame,
    FrameReader,
    blob_problem,
    encode,
    fds_of,
    header,
    read_buffer,
)
from ...sandbox.shared.messages import Done, Failed
from ...sandbox.shared.pool_messages import Recalled, RunTask
from ...sandbox.shared.task_marks import TaskMarks
from ..app.pool_deadlines import PoolDeadlines
from ..io.loop import Alarm, Loop
from .pool_memory import MemoryFiles
from .pool_task import PoolTask, Sent

#: Bytes of tasks that wait in a worker's socket. With more, they fall out of the CPU's cache before it
#: reads them.
AHEAD_BYTES = 1536 * 1024
_CHUNK_BYTES = 256 * 1024
#: After this many denials a task counts as begun, whatever the worker says.
DENIALS_MAX = 3
#: Frames that end a task; all others are ignored here.
_ENDS = frozenset((Done.kind, Failed.kind, Recalled.kind))


class PoolWorker:
    """A worker. It has loaded the code once attach() was called."""

    def __init__(self, loop: Loop, number: int, on_overdue: Callable[[PoolWorker], None]) -> None:
        """`on_overdue`: called when its task takes longer than its timeout."""
        self.number = number
        self.is_active = False  #: whether it gets tasks; else it is a spare, loads the code, or ends
        self.is_leaving = False  #: whether its end has begun, or was asked for
        self.ends_itself = False  #: whether it said so, after sys.exit() in a task
        self.is_watched = False  #: whether its warden was told that it has tasks
        self.sent: deque[Sent] = deque()
        self.sent_bytes = 0  #: size of their messages
        self.progressed_at = 0.0  #: when its first task began
        self._limits_s = 0.0  #: the sum of the time limits of those tasks
        self._is_due = False  #: whether the supervising process knows by when they must have ended
        self._loop = loop
        self._numbers = 0
        self._overdue: Alarm = loop.alarm(lambda: on_overdue(self))
        self._reader = FrameReader()
        self._socket: socket.socket | None = None
        self._marks_fd = -1
        self._queue: deque[tuple[memoryview, int]] = deque()  #: unsent bytes, each with a descriptor or -1
        self._memory = MemoryFiles()

    @property
    def is_loaded(self) -> bool:
        """Whether it can take tasks."""
        return self._socket is not None

    @property
    def is_starting(self) -> bool:
        """Whether it has not loaded the code yet."""
        return self._socket is None and not self.is_leaving

    def attach(
        self,
        tasks: int,
        marks: int,
        deadlines: int,
        on_frame: Callable[[PoolWorker, Frame], None],
        on_broken: Callable[[PoolWorker, str], None],
        on_room: Callable[[], None],
    ) -> None:
        """Talk to it over the socket `tasks` from here on.

        `marks`, `deadlines`: the files with its TaskMarks and PoolDeadlines. `on_frame`: gets each answer;
        `on_broken`: what came was no answer, or the worker has closed the socket; `on_room`: answers have
        come.
        """
        self._deadlines = PoolDeadlines(deadlines)
        os.close(deadlines)
        self._socket = socket.socket(fileno=tasks)
        self._socket.setblocking(False)
        self._marks_fd = marks
        self._marks = TaskMarks(marks)
        self._on_frame = on_frame
        self._on_broken = on_broken
        self._on_room = on_room
        self._scratch = read_buffer(_CHUNK_BYTES)
        self._view = memoryview(self._scratch)
        self._loop.on_readable(self._socket, self._read)

    # ---- tasks

    def send(self, tasks: list[tuple[PoolTask, list[Buffer]]]) -> list[tuple[PoolTask, OSError]]:
        """Send these tasks, each with the pieces of its message, with as few writes as can be.

        Returns those for which there was no memory file, because too many files are open, and the error.
        """
        inline: list[bytes] = []
        failed: list[tuple[PoolTask, OSError]] = []
        is_first, is_idle = not self.sent, not self._queue
        for task, pieces in tasks:
            number = self._numbers + 1
            size = sum(map(len, pieces))
            if size <= INLINE_MAX:
                inline.append(encode(RunTask.kind, number, b"".join(pieces)))
            else:
                try:
                    oldest = self.sent[0].number if self.sent else number
                    memory = self._memory.write(pieces, size, task=number, first=oldest)
                except OSError as error:
                    failed.append((task, error))
                    continue
                self._put(b"".join(inline))
                inline.clear()
                self._put(header(RunTask.kind, number, size, blob=True), memory)
            self._numbers = number
            limit_s = task.left_s
            self._deadlines.set_limit(number, limit_s)
            self._limits_s += limit_s or 0.0
            self.sent.append(Sent(number, task, size, limit_s))
            self.sent_bytes += size
        self._put(b"".join(inline))
        # Before the worker has the tasks: this thread may then get no turn for long, if the user's holds the
        # interpreter's lock, and the supervising process has to know the time limits.
        if is_first:
            self._begin_first()
        else:
            self._set_due()
        if is_idle:
            self._flush()
        return failed

    def take_first(self) -> Sent:
        """Forget the first of its tasks, which has ended; the next one begins."""
        first = self.sent.popleft()
        self.sent_bytes -= first.size
        self._limits_s -= first.limit_s or 0.0
        self._begin_first()
        return first

    def take_all(self) -> list[PoolTask]:
        """Forget its tasks; return those that were not recalled."""
        left = [one.task for one in self.sent if not one.is_recalled]
        self.sent.clear()
        self.sent_bytes = 0
        return left

    def recall(self, *, all: bool = False) -> list[PoolTask]:
        """Recall the tasks behind the first one, or `all`; return those that it will not begin."""
        if len(self.sent) < (1 if all else 2):
            return []
        first = self.sent[0]
        keeps_first = not first.is_recalled and (not all or self.has_begun_first())
        # From the first one on, because those that were recalled before may not have been read yet.
        begun = self._marks.recall(first.number + keeps_first, self._numbers)
        found: list[PoolTask] = []
        for at, one in enumerate(self.sent):
            if not one.is_recalled and not (keeps_first and at == 0):
                is_recalled = one.number > begun
                if is_recalled:
                    found.append(one.task)
                self.sent[at] = one._replace(is_asked_back=True, is_recalled=is_recalled)
        return found

    def split_at_end(self) -> tuple[PoolTask | None, list[PoolTask]]:
        """Return the task in which the worker has died, if any, and those that it had not begun.

        Its last answers must have been read. Answers come in order, so it was in the first task, or in none.
        """
        self.deny_first()
        died_in = self.sent[0].task if self.has_begun_first() and not self.sent[0].is_recalled else None
        return died_in, [one for one in self.take_all() if one is not died_in]

    def has_begun_first(self) -> bool:
        """Whether it has begun the first of its tasks: it says so, or too many workers have denied it."""
        if not self.sent or not self.is_loaded:
            return False
        first = self.sent[0]
        is_denied_too_often = not first.is_recalled and first.task.denials >= DENIALS_MAX
        return is_denied_too_often or self._marks.begun() >= first.number

    def deny_first(self) -> None:
        """Note that it ends without having begun the first of its tasks, if that is so."""
        if self.sent and not self.sent[0].is_recalled and not self.has_begun_first():
            self.sent[0].task.denials += 1

    def is_past_first(self) -> bool:
        """Whether it says that it has begun a task after the first one."""
        return bool(self.sent) and self.is_loaded and self._marks.begun() > self.sent[0].number

    def reads_answer_of_first(self) -> bool:
        """Whether there was an answer of the first of its tasks: it was sent before the next one began."""
        number = self.sent[0].number
        self.drain()
        return not self.sent or self.sent[0].number != number

    def _begin_first(self) -> None:
        self._overdue.cancel()
        if self.sent:
            self.progressed_at = time.monotonic()
            first = self.sent[0]
            if not first.is_recalled:
                first.task.began = self.progressed_at
                if first.limit_s is not None:
                    self._overdue.set(first.limit_s)
        self._set_due()

    def _set_due(self) -> None:
        """Have the supervising process know by when all of the tasks must have ended."""
        if self.sent and self.sent[0].limit_s is not None:
            self._deadlines.set_due(self.progressed_at + self._limits_s, self.sent[0].limit_s)
            self._is_due = True
        elif self._is_due:
            self._limits_s, self._is_due = 0.0, False
            self._deadlines.set_due(0.0, None)

    # ---- the socket

    def _put(self, data: bytes, fd: int = -1) -> None:
        if data:
            self._queue.append((memoryview(data), fd))

    def _flush(self) -> None:
        sock = self._socket
        assert sock is not None, "tasks are sent to workers that are attached"
        while self._queue:
            data, fd = self._queue[0]
            try:
                sent = sock.send(data) if fd < 0 else socket.send_fds(sock, [data], [fd])
            except BlockingIOError:
                self._loop.on_writable(sock, self._flush)
                return
            except OSError:
                self._drop_queue()  # it is ending: what it has not begun goes to others
                break
            if fd >= 0:
                os.close(fd)
            self._queue.popleft()
            if sent < len(data):
                self._queue.appendleft((data[sent:], -1))
        self._loop.on_writable(sock, None)

    def _drop_queue(self) -> None:
        for _, fd in self._queue:
            if fd >= 0:
                os.close(fd)
        self._queue.clear()

    def _read(self) -> None:
        self._read_once()
        self._on_room()

    def _read_once(self) -> bool:
        sock = self._socket
        if sock is None:
            return False
        try:
            count, ancillary, _, _ = sock.recvmsg_into([self._scratch], 256, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return False
        except OSError:
            count, ancillary = 0, []
        fds = fds_of(ancillary) if ancillary else []
        if not count and not fds:
            self._loop.on_readable(sock, None)
            self._on_broken(self, "it closed the socket")
            return False
        try:
            frames = self._reader.feed(self._view[:count], fds)
        except ChannelError as error:
            self._loop.on_readable(sock, None)
            self._on_broken(self, str(error))
            return False
        for frame in frames:
            if frame.kind in _ENDS:
                self._on_frame(self, frame)
            elif frame.fd is not None:
                os.close(frame.fd)
        return True

    def drain(self) -> None:
        """Read the last answers that it has sent."""
        while self._read_once():
            pass

    def close(self) -> None:
        """Close the socket; nothing of it is read any more."""
        self._overdue.cancel()
        sock, self._socket = self._socket, None
        if sock is None:
            return
        self._loop.on_readable(sock, None)
        self._loop.on_writable(sock, None)
        self._drop_queue()
        self._reader.close()
        sock.close()
        os.close(self._marks_fd)
        self._deadlines.close()
        self._memory.close()


def body_of(frame: Frame) -> bytes:
    """Return the bytes of a frame, copied from memory that the worker could still change; closes its file.

    Raises ChannelError.
    """
    if frame.fd is None:
        return frame.body
    try:
        problem = blob_problem(frame.fd, frame.size)
        if problem is not None:
            raise ChannelError(f"frame {frame.kind}: {problem}")
        pieces: list[bytes] = []
        at = 0
        while at < frame.size:  # the kernel reads at most 2 GiB at once
            piece = os.pread(frame.fd, frame.size - at, at)
            if not piece:
                raise ChannelError(f"frame {frame.kind}: its memory ends at {at} of {frame.size} bytes")
            pieces.append(piece)
            at += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    finally:
        os.close(frame.fd)
