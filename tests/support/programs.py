"""Run the installed hkrunner command as a user does."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sysconfig
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import psutil

from .processes import MARKER, describe, family, kill_all, marked, runs
from .waiting import DEADLINE_S, wait_until

ROOT = Path(__file__).parents[2]
HKRUNNER = Path(sysconfig.get_path("scripts"), "hkrunner")
PROGRAM_MARKER = f"{MARKER}_PROGRAM"
#: A program that runs to its end does more than one that is waited for, and pytest ends a test after 120 s.
RUN_S = 50.0


@dataclass(frozen=True)
class Result:
    """The exit status, as subprocess gives it, and the output of a program that has ended."""

    status: int
    stdout: str
    stderr: str


class Program:
    """A command that runs in the background, in a new session.

    stdout and stderr are lists of lines without line breaks; another thread appends each line as it arrives.
    """

    def __init__(
        self,
        command: list[str | Path],
        *,
        cwd: str | Path | None = None,
        env: Mapping[str, str | None] | None = None,
        input: str | None = None,
    ) -> None:
        self.command = [str(word) for word in command]
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        # A second marker, by which the processes of this program are found among those of the test.
        self._own_marker = uuid.uuid4().hex
        self._process = subprocess.Popen(
            self.command,
            cwd=cwd,
            env=environment({**(env or {}), PROGRAM_MARKER: self._own_marker}),
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        _started.add(self)
        assert self._process.stdout is not None and self._process.stderr is not None
        self._threads = [
            threading.Thread(target=_collect, args=(self._process.stdout, self.stdout)),
            threading.Thread(target=_collect, args=(self._process.stderr, self.stderr)),
        ]
        if input is not None:
            assert self._process.stdin is not None
            self._threads.append(threading.Thread(target=_feed, args=(self._process.stdin, input)))
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status; None while the program runs."""
        return self._process.poll()

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)

    def family(self) -> set[psutil.Process]:
        """Return the program and all processes that it has started, also those that have left its tree."""
        return family(self.pid) | marked(self._own_marker, variable=PROGRAM_MARKER)

    def wait_for_line(self, text: str, *, stream: str = "stderr", deadline_s: float = DEADLINE_S) -> str:
        """Wait for a line of the stream that contains the text; return it."""
        lines: list[str] = getattr(self, stream)

        def found() -> str | None:
            ended = not any(thread.is_alive() for thread in self._threads)
            for line in lines:
                if text in line:
                    return line
            if ended:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(timeout=5)  # its output is closed a moment before it has a status
                raise AssertionError(f"it ended with {self.status} before {text!r} came.\n{self.report()}")
            return None

        try:
            line = wait_until(found, deadline_s=deadline_s, what=f"{text!r} in {stream}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.report()}") from None
        assert line is not None
        return line

    def wait(self, *, deadline_s: float = DEADLINE_S) -> int:
        """Wait for its end and for the end of its output; return the exit status.

        Raises AssertionError, and kills all of it, when the deadline passes.
        """
        try:
            wait_until(lambda: self.status is not None, deadline_s=deadline_s, what="its end")
            wait_until(
                lambda: not any(thread.is_alive() for thread in self._threads),
                deadline_s=deadline_s,
                what="the end of its output (who still holds it?)",
            )
        except AssertionError as error:
            left = ", ".join(map(describe, self.family()))
            self.kill()
            raise AssertionError(f"{error}\nstill there: {left}\n{self.report()}") from None
        self._close()
        return self._process.returncode

    def stop(self, *, deadline_s: float = DEADLINE_S) -> None:
        """Send SIGTERM if the program still runs, and wait for its end as wait() does."""
        if self.status is None:
            self.send_signal(signal.SIGTERM)
        self.wait(deadline_s=deadline_s)

    def kill(self) -> None:
        """Kill the program and all processes that it has started; on return none is left."""
        # Repeat until no process is found: a killed one may have started another just before.
        while alive := {process for process in self.family() if runs(process)}:
            kill_all(alive)
        self._process.wait(timeout=5)
        for thread in self._threads:
            thread.join(timeout=5)
        self._close()

    def report(self) -> str:
        """Return the command and its output so far, for the message of a failed test."""
        return "\n".join(
            [
                f"command: {' '.join(self.command)}",
                "stdout:",
                *self.stdout[-100:],
                "stderr:",
                *self.stderr[-100:],
            ]
        )

    def _close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        _started.discard(self)

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            # The test has already failed: its own error is more important than the program's end.
            self.kill()
        elif self in _started:
            self.stop()


def run_hkrunner(
    *args: str | Path,
    cwd: str | Path | None = None,
    env: Mapping[str, str | None] | None = None,
    input: str | None = None,
    deadline_s: float = RUN_S,
) -> Result:
    """Run hkrunner to its end. A variable that env maps to None is removed from the environment."""
    return run([HKRUNNER, *args], cwd=cwd, env=env, input=input, deadline_s=deadline_s)


def run(
    command: list[str | Path],
    *,
    cwd: str | Path | None = None,
    env: Mapping[str, str | None] | None = None,
    input: str | None = None,
    deadline_s: float = RUN_S,
) -> Result:
    """Run any command to its end, as run_hkrunner does."""
    with Program(command, cwd=cwd, env=env, input=input) as program:
        status = program.wait(deadline_s=deadline_s)
    return Result(status, _text(program.stdout), _text(program.stderr))


@contextlib.contextmanager
def serving(
    *args: str | Path,
    cwd: str | Path | None = None,
    env: Mapping[str, str | None] | None = None,
    input: str | None = None,
) -> Iterator[Program]:
    """Run hkrunner in the background; on exit it has been stopped with SIGTERM and has ended."""
    with Program([HKRUNNER, *args], cwd=cwd, env=env, input=input) as program:
        yield program


def environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    """Return this process's environment with the changes; a value of None removes the variable."""
    merged: dict[str, str | None] = {**os.environ, "PYTEST_ADDOPTS": None, **changes}  # those of this run
    return {name: value for name, value in merged.items() if value is not None}


def kill_started() -> list[str]:
    """Kill the programs that the test has not stopped; return a line for each."""
    lines = []
    for program in list(_started):
        lines.append(f"program {program.pid} ({' '.join(program.command)[:160]})")
        program.kill()
    return lines


_started: set[Program] = set()
atexit.register(kill_started)


def _collect(stream: IO[str], lines: list[str]) -> None:
    with contextlib.suppress(ValueError):  # closed by kill()
        for line in stream:
            lines.append(line.rstrip("\n"))


def _feed(stream: IO[str], text: str) -> None:
    # It may end without having read its input.
    with contextlib.suppress(OSError, ValueError), stream:
        stream.write(text)


def _text(lines: list[str]) -> str:
    return "".join(line + "\n" for line in lines)
