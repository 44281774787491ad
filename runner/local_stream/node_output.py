"""The output of one replica of a node: each line begins with the replica's name."""

from __future__ import annotations

import re

from ..console.process_output import ProcessOutput
from ..console.terminal import Output

#: What lines of ours begin with: a symbol, or two spaces where a line continues the one before it.
_BEGIN = re.compile(r"[^\w\s] |  ")


class NodeOutput(ProcessOutput):
    """Names the replica in its own lines (`✘ B/2: …`), and before those that its code prints (`B/2 | …`)."""

    def __init__(self, output: Output, announced: set[str], *, node: str, name: str) -> None:
        """announced: see ProcessOutput. name: of the replica."""
        super().__init__(output, announced)
        self._node = node
        self._name = name
        self._prefix = f"{name} | ".encode()
        self.warned: set[str] = set()  #: texts of warnings that were written

    def _write_lines_of(self, stream: str, lines: bytes) -> None:
        named = b"".join(self._prefix + line + b"\n" for line in lines.removesuffix(b"\n").split(b"\n"))
        super()._write_lines_of(stream, named)

    def announce(self, text: str) -> None:
        """Write a line as Output.say() does, once for all replicas of the node."""
        super().announce(_named(self._node, text))

    def say(self, text: str) -> None:
        """Write a line with --verbose only: the run itself says how its nodes go."""
        self.debug(text)

    def warn(self, text: str, *, task: str | None = None) -> None:
        """Write a line, even with --quiet, and a `warning` event."""
        self.warned.add(text)
        super().warn(text, task=task)

    def line(self, text: str) -> None:
        """Write a line, even with --quiet."""
        super().line(_named(self._name, text))


def _named(name: str, text: str) -> str:
    found = _BEGIN.match(text)
    begin = found.group() if found is not None else ""
    return f"{begin}{name}: {text[len(begin) :]}"
