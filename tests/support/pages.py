"""Run the commands of a documentation page and compare their output with the page.

A ```console block is what a terminal showed: `$ command`, then what it printed. All blocks of a page are run
in order, in one shell in one new folder, so that `cd` and `$?` mean what they mean to a reader, and what is
printed is compared with what the page shows.

    a line that is …          stands for any lines
    … in a line               for anything
    ^C alone on a line        SIGINT goes to what runs then
    numbers with a unit, times, ids, ports and versions may be others

A ```python block (or yaml, json, …) whose first line is a comment with a file's name is that file, saved
where the shell is. Comments of the page, before a block, that a reader does not see:

    <!-- terminal: 2 -->      it belongs to another terminal
    <!-- goes on -->          its last command does not end: this terminal's next block is what it says then
    <!-- not run: reason -->  it is not run
"""

from __future__ import annotations

import codecs
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from .programs import environment
from .waiting import wait_until

#: Longest time of one command.
COMMAND_S = 30.0
_END = "\x1e"
# $? of a command is the status of the previous one; programs must not read the commands from this pipe.
_DRIVER = f"""
commands=$1
trap : INT
status_is() {{ return "$1"; }}
last=0
while IFS= read -r -d '' command <&"$commands"; do
    status_is "$last"
    eval "$command" < /dev/null {{commands}}<&-
    last=$?
    printf '{_END}%d{_END}' "$last"
done
"""


@dataclass
class Step:
    """A command and its output on the page; `command` is None for further output of a running command."""

    command: str | None
    shown: list[str] = field(default_factory=list)
    goes_on: bool = False


@dataclass
class Block:
    """A fenced block: `terminal` is where it runs, `why_not` says why it does not run."""

    line: int
    language: str
    lines: list[str]
    terminal: str = "1"
    goes_on: bool = False
    why_not: str | None = None

    @property
    def file(self) -> str | None:
        """The name of the file that the block contains; None if it is not a file."""
        found = re.fullmatch(r"(?:#|//) (\S+\.\w+)", self.lines[0]) if self.lines else None
        return found[1] if found and self.language != "console" else None

    def steps(self) -> list[Step]:
        """Return the commands with their output on the page."""
        steps: list[Step] = []
        for line in self.lines:
            if line.startswith("$ "):
                steps.append(Step(line[2:]))
            elif line.startswith("> ") and steps and not steps[-1].shown:
                steps[-1].command = f"{steps[-1].command}\n{line[2:]}"
            else:
                if not steps:
                    steps.append(Step(None))
                steps[-1].shown.append(line)
        if steps and self.goes_on:
            steps[-1].goes_on = True
        return steps


def blocks(text: str) -> Iterator[Block]:
    """Return the fenced blocks of a page."""
    notes: dict[str, str] = {}
    inside: Block | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if inside is not None:
            if line == "```":
                yield inside
                inside = None
            else:
                inside.lines.append(line)
        elif found := re.fullmatch(r"<!-- (terminal|goes on|not run)(?:: (.+))? -->", line):
            notes[found[1]] = found[2] or ""
        elif found := re.fullmatch(r"```(\w+)", line):
            inside = Block(
                number, found[1], [], notes.get("terminal", "1"), "goes on" in notes, notes.get("not run")
            )
            notes = {}


#: Texts of the page that may differ, and what is accepted instead; applied in this order.
_OTHERS = [
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d( [+-]\d{4})?", r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d( [+-]\d{4})?"),
    (r"\d{8}-\d{6}-[0-9a-f]{4}", r"\d{8}-\d{6}-[0-9a-f]{4}"),  # a job
    (r"(task|job) [a-z0-9-]{8,}", r"\w+ [a-z0-9-]{8,}"),
    # A test uses another port for the worker, and sets a variable for it, so 127.0.0.1 is shown.
    (r"(127\.0\.0\.1|localhost):\d+", r"(127\.0\.0\.1|localhost):\d+"),
    (r"/board/[a-z0-9]+/", r"/board/[a-z0-9]+/"),
    (r"\b\d+\.\d+\.\d+\b", r"\d+\.\d+\.\d+"),
    (r"pid \d+", r"pid \d+"),
    (r"--mem \d+Mi", r"--mem \d+[MG]i"),
    (r" *[\d.,]+ [KMG]?i?B\b", r" *[\d.,]+ [KMG]?i?B"),
    (r" *[\d.,]+ ?(ms|s)\b", r" *[\d.,]+ ?(ms|s|min)"),
    (r"[\d.,]+ bytes\b", r"[\d.,]+ bytes"),
    (r'("(?:startTime|endTime|durationMs|peakMemBytes|cpuSeconds)": ?)[\d.]+', r'"\w+": ?[\d.]+'),
    (r"…", r"[^\n]*"),
]
_ANY = re.compile("|".join(f"(?P<_{number}>{shown})" for number, (shown, _) in enumerate(_OTHERS)))


def pattern(shown: list[str]) -> str:
    """Return the regular expression that accepts the output shown on the page."""
    return "".join(r"(?:[^\n]*\n)*" if line.strip() == "…" else _line_pattern(line) + r"\n" for line in shown)


def _line_pattern(line: str) -> str:
    parts, at = [], 0
    for found in _ANY.finditer(line):
        parts.append(re.escape(line[at : found.start()]))
        parts.append(f"(?:{_OTHERS[int((found.lastgroup or '_')[1:])][1]})")
        at = found.end()
    return "".join([*parts, re.escape(line[at:])])


class Terminal:
    """A shell; `printed` is its output that was not compared yet."""

    def __init__(self, folder: Path, env: dict[str, str | None]) -> None:
        commands, self._commands = os.pipe()
        try:
            self._shell = subprocess.Popen(
                ["bash", "--norc", "-c", _DRIVER, "bash", str(commands)],
                cwd=folder,
                env=environment(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[commands],
                start_new_session=True,
            )
        finally:
            os.close(commands)
        assert self._shell.stdout is not None, "it is a pipe"
        os.set_blocking(self._shell.stdout.fileno(), False)
        self._text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  #: a read may end within a character
        self.runs = False  #: whether a command is running

    @property
    def folder(self) -> Path:
        """The working folder of the shell."""
        return Path(os.readlink(f"/proc/{self._shell.pid}/cwd"))

    @property
    def printed(self) -> str:
        """The output that was not compared yet, without the marks after each command."""
        return re.sub(f"{_END}.*?{_END}", "", self._text)

    def begin(self, command: str) -> None:
        """Start the command."""
        assert not self.runs, f"the command before {command!r} has not ended; it said:\n{self.printed}"
        os.write(self._commands, command.encode() + b"\0")
        self.runs = True

    def compare(self, shown: list[str], *, to_the_end: bool) -> None:
        """Wait for the output; with `to_the_end`, also for the end of the command without further output."""
        while "^C" in shown:
            at = shown.index("^C")
            self._wait_for(shown[:at], to_the_end=False)
            os.killpg(self._shell.pid, signal.SIGINT)
            shown = shown[at + 1 :]
        self._wait_for(shown, to_the_end=to_the_end)

    def _wait_for(self, shown: list[str], *, to_the_end: bool) -> None:
        wanted = re.compile(pattern(shown))

        def there() -> bool:
            self._read()
            if to_the_end:
                return not self.runs
            return wanted.match(self.printed) is not None

        try:
            wait_until(there, deadline_s=COMMAND_S, what="its end" if to_the_end else "what the page shows")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{_difference(shown, self.printed)}") from None
        if to_the_end:
            text = self.printed
            text += "" if not text or text.endswith("\n") else "\n"
            assert wanted.fullmatch(text), _difference(shown, text)
            self._text = ""
        else:
            found = wanted.match(self.printed)
            assert found is not None, "it was there"
            self._text = self.printed[found.end() :]

    def is_idle(self) -> bool:
        """Wait until no command runs."""
        self._read()
        return not self.runs

    def _read(self) -> None:
        assert self._shell.stdout is not None, "it is a pipe"
        data = self._shell.stdout.read()
        if data:
            self._text += self._decoder.decode(data)
            if data.count(_END.encode()):
                self.runs = self._text.count(_END) < 2

    def close(self) -> None:
        """End the shell and everything that still runs in it."""
        os.close(self._commands)
        try:
            os.killpg(self._shell.pid, signal.SIGKILL if self.runs else signal.SIGTERM)
        except ProcessLookupError:
            pass
        self._shell.wait(10)
        assert self._shell.stdout is not None, "it is a pipe"
        self._shell.stdout.close()


def _difference(shown: list[str], printed: str) -> str:
    lines = ["the page shows:", *(f"  {line}" for line in shown), "it printed:"]
    return "\n".join([*lines, *(f"  {line}" for line in printed.splitlines())])


class Reader:
    """Follows the pages as a reader would, in a folder."""

    def __init__(self, folder: Path, env: dict[str, str | None]) -> None:
        self._folder = folder
        self._env = env
        self._terminals: dict[str, Terminal] = {}

    def follow(self, page: Path) -> None:
        """Run the commands of the page. Raises AssertionError with the line whose output differs."""
        for block in blocks(page.read_text("utf-8")):
            if block.why_not is not None:
                continue
            try:
                if block.language == "console":
                    self._do(block)
                elif block.file is not None:
                    here = self._terminal(block.terminal).folder
                    (here / block.file).write_text("\n".join(block.lines) + "\n", "utf-8")
            except AssertionError as error:
                raise AssertionError(f"{page.name}:{block.line}: {error}") from None
        for name, terminal in self._terminals.items():
            wait_until(
                terminal.is_idle, deadline_s=COMMAND_S, what=f"{page.name}: the end of terminal {name}"
            )

    def _do(self, block: Block) -> None:
        terminal = self._terminal(block.terminal)
        for step in block.steps():
            if step.command is not None:
                terminal.begin(step.command)
            try:
                terminal.compare(step.shown, to_the_end=not step.goes_on)
            except AssertionError as error:
                raise AssertionError(f"$ {step.command}\n{error}") from None

    def _terminal(self, name: str) -> Terminal:
        if name not in self._terminals:
            first = self._terminals.get("1")
            folder = first.folder if first is not None else self._folder
            self._terminals[name] = Terminal(folder, self._env)
        return self._terminals[name]

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for terminal in self._terminals.values():
            terminal.close()
