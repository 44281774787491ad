"""A board's process as the process that started it sees it; and signals for the boards of others."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from typing import IO

from .board_record import Board
from .runs.files import ProcessIdentity, read_json_bytes


class BoardChild:
    """A board that this process has started and not yet reaped."""

    def __init__(self, board: Board, process: subprocess.Popen[bytes]) -> None:
        #: The board as it reported last.
        self.board = board
        self.process = process
        self._unread = b""  # the beginning of a line that is not complete yet

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is a report, or when the process has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def read_reports(self) -> Board | None:
        """Return the latest state that the board has reported since the last call; None without a report."""
        with contextlib.suppress(BlockingIOError):
            self._unread += os.read(self.fileno(), 1 << 16)
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            value = read_json_bytes(line)
            board = None if value is None else Board.from_dict(value)
            if board is not None:
                self.board = board
        return self.board if lines else None

    def wait_for_report(self, timeout_s: float) -> None:
        """Wait for a report or the end of the process, at most this long."""
        select.select([self], [], [], timeout_s)

    def identity(self) -> ProcessIdentity | None:
        """Return the process's identity; None once it is gone."""
        return ProcessIdentity.of(self.process.pid)

    def close_stdin(self) -> None:
        """Close the stdin of an attached board, which then ends."""
        _close(self.process.stdin)

    def close_pipes(self) -> None:
        """Close both pipes."""
        _close(self.process.stdin)
        _close(self.process.stdout)

    def detach(self) -> None:
        """Close the pipes, and do not reap the process: it may outlive this one."""
        self.close_pipes()
        if self.process.poll() is None:
            self.process.returncode = 0  # else Popen warns that the process still runs

    def kill_after(self, end: float) -> None:
        """Wait for the end of the process and reap it; at `end` of the monotonic clock it is killed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.0, end - time.monotonic()))
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def how_it_ended(self) -> str:
        """Describe the exit status of a process that was reaped."""
        status = self.process.returncode
        if status >= 0:
            return f"ended with {status}"
        try:
            return f"was ended by {signal.Signals(-status).name}"
        except ValueError:
            return f"was ended by signal {-status}"


def send_signal(process: ProcessIdentity, number: signal.Signals) -> None:
    """Send the signal if the process still runs, never to another one that got its pid."""
    with contextlib.suppress(OSError):
        try:
            fd = os.pidfd_open(process.pid)
        except (AttributeError, OSError):  # no pidfds: Linux before 5.3, a seccomp profile, such a Python
            if process.is_here_and_alive():
                os.kill(process.pid, number)
            return
        try:
            if process.is_here_and_alive():
                signal.pidfd_send_signal(fd, number)
        finally:
            os.close(fd)


def wait_until_gone(processes: list[ProcessIdentity], timeout_s: float) -> bool:
    """Wait until none of them runs on this host; False when one still does after this long."""
    end = time.monotonic() + timeout_s
    while any(process.is_here_and_alive() for process in processes):
        if time.monotonic() > end:
            return False
        time.sleep(0.005)  # a poll: not every system has pidfds
    return True


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        with contextlib.suppress(OSError):
            pipe.close()
