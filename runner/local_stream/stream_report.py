"""What is shown of a stream pipeline: lines on stderr while it runs, then results or objects of --json."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from ...sandbox.codec import codec
from ...sandbox.shared.limits import format_bytes
from ..console.status_line import can_be_drawn, columns
from ..console.task_report import TaskReport
from ..console.terminal import Output
from ..io.loop import Loop, Timer
from ..protocol.messages import Failure
from ..protocol.result import Result
from ..settings.settings import Settings
from .message_counts import MessageCounts
from .node_run import NodeRun
from .replica import Replica

#: A line about all nodes is written this often, where no status line shows it, as in the log of a CI job.
LINE_EVERY_S = 10.0
#: The status line of a terminal is drawn this often: the statistics come as often.
STATUS_EVERY_S = 2.0


class StreamReport:
    """Reports one run of a pipeline."""

    def __init__(
        self,
        loop: Loop,
        settings: Settings,
        output: Output,
        counts: MessageCounts,
        nodes: Sequence[NodeRun],
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._output = output
        self._counts = counts
        self._task_report = TaskReport(settings, output)
        self._words = self._task_report.words
        self._nodes = nodes
        self._is_drawn = not settings.console.quiet and can_be_drawn(os.environ)
        self._every_s = STATUS_EVERY_S if self._is_drawn else LINE_EVERY_S
        self._shown: dict[str, int] = {}  #: messages of each node until the last line
        self._shown_at = 0.0
        self._timer: Timer | None = None

    # ---- while it runs

    def begin(self) -> None:
        """All nodes begin: show their messages from now on."""
        names = " · ".join(_shown_name(one) for one in self._nodes)
        self._output.say(f"● {names}")
        self._shown_at = self._loop.clock()
        self._timer = self._loop.after(self._every_s, self._tick)

    def _tick(self) -> None:
        line = self._line()
        if self._is_drawn:
            self._output.show_status(f"▶ {line}"[: columns()])
        else:
            self._output.say(f"◌ {line}")
        for one in self._nodes:
            self._output.events.emit("messages", {"nodeName": one.node.name, **self._numbers(one)})
        self._timer = self._loop.after(self._every_s, self._tick)

    def _line(self) -> str:
        """Return messages a second, queue and drops of each node."""
        now = self._loop.clock()
        seconds = max(now - self._shown_at, 0.001)
        self._shown_at = now
        return " · ".join(self._node_words(one, seconds) for one in self._nodes)

    def _node_words(self, one: NodeRun, seconds: float) -> str:
        node = one.node
        count = self._counts.into(node.name, node.parents)
        total = self._counts.out_of(node.name, node.children).sent if node.is_source else count.handled
        rate = (total - self._shown.get(node.name, 0)) / seconds
        self._shown[node.name] = total
        words = f"{_shown_name(one)} {rate:,.0f}/s"
        if count.queued:
            words += f", {count.queued:,} queued"
        if count.dropped:
            words += f", {count.dropped:,} dropped"
        return words + (", ended" if one.has_ended else "")

    def end_status(self) -> None:
        """Remove the status line, and write no more lines."""
        if self._timer is not None:
            self._timer.cancel()
        if self._is_drawn:
            self._output.show_status(None)

    # ---- what happens

    def load_failed(self, name: str, failure: Failure) -> None:
        """A replica cannot load its code."""
        self._output.warn(f"✘ {name}: {self._words(failure)}")

    def stopping(self, sources: Sequence[str]) -> None:
        """The sources are stopped, and what was sent is handled: say how much, and how long it takes."""
        waiting = ", ".join(filter(None, map(self._waiting_words, self._nodes)))
        handled = f"what was sent is handled: {waiting}" if waiting else "what was sent is handled"
        self._output.say(f"■ stopping: first {', '.join(sources)}, then {handled}; again: at once")

    def _waiting_words(self, one: NodeRun) -> str:
        count = self._counts.into(one.node.name, one.node.parents)
        waiting = count.queued + max(0, count.sent - count.handled)
        if not waiting:
            return ""
        words = f"{waiting:,} messages for {_shown_name(one)}"
        seconds = one.seconds(self._loop.clock())
        return f"{words} (about {waiting * seconds / count.handled:,.0f} s)" if count.handled else words

    def say(self, text: str) -> None:
        """Write a line, unless --quiet."""
        self._output.say(text)

    def failed(self, replica: Replica, result: Result, *, after: str = "") -> None:
        """The task of a replica has failed; `after`: what follows from that."""
        assert result.failure is not None, "it has failed"
        replica.output.end_lines()
        self._output.warn(f"✘ {replica.name} failed: {self._words(result.failure)}")
        if after:
            self._output.line(f"  {after}")
        self._end_task(replica, result)

    def ended(self, node: NodeRun, replica: Replica, result: Result) -> None:
        """The task of a replica is over, and has not failed."""
        replica.output.end_lines()
        how = f"■ {replica.name} stopped" if node.is_cut_short else f"✔ {replica.name} ended"
        used = f" · peak {format_bytes(result.peak_bytes)}" if result.peak_bytes else ""
        place = ""
        if result.folder is not None:
            place = f" · {os.path.relpath(result.folder, self._settings.code.cwd)}"
        self._output.say(f"{how} after {result.duration_s:.1f} s{used}{place}")
        if result.failure is not None:  # it had to be killed
            self._output.warn(f"  {replica.name}: {self._words(result.failure)}")
        self._end_task(replica, result)

    def _end_task(self, replica: Replica, result: Result) -> None:
        for problem in result.problems:
            if f"✘ {problem}" not in replica.output.warned:
                self._output.warn(f"  {replica.name}: {problem}")
        replica.output.events.result(result)

    # ---- the end

    def end(self) -> None:
        """Write the result of each node to stdout, and how many messages it has handled to stderr."""
        self.end_status()
        for one in self._nodes:
            if self._settings.console.events:
                self._output.events.emit("node", self._facts(one))
            elif self._settings.console.json:
                text = json.dumps(self._facts(one), separators=(",", ":")).encode()
                self._output.result(b'%s,"output":%s}' % (text[:-1], _output_of(one) or b"null"))
            else:
                value = _output_of(one)
                if value not in (None, b"null"):
                    name = codec.json_text(one.node.name) or b'""'
                    self._output.result(b'{"nodeName":%s,"result":%s}' % (name, value))
            if one.began_at is not None:
                self._output.say(f"  {self._last_words(one)}")

    @property
    def stdout_status(self) -> int:
        """The exit status if stdout has not taken the results, else 0."""
        if self._settings.console.output_file is None and self._output.out.broken:
            self._task_report.note_broken_stdout()
        return self._task_report.status

    def _last_words(self, one: NodeRun) -> str:
        node = one.node
        parts = []
        if not node.is_source:
            handled = self._counts.into(node.name, node.parents).handled
            seconds = max(one.seconds(self._loop.clock()), 0.001)
            parts.append(f"{handled:,} messages handled, {handled / seconds:,.0f}/s")
        for child in node.children:
            count = self._counts.between(node.name, child)
            lost = "".join(
                f", {number:,} {how}"
                for number, how in ((count.dropped, "dropped"), (count.queued, "not taken"))
                if number
            )
            parts.append(f"{count.sent:,} to {child}{lost}")
        return f"{_shown_name(one)}: {'; '.join(parts)}"

    def _numbers(self, one: NodeRun) -> dict[str, Any]:
        node = one.node
        into = self._counts.into(node.name, node.parents)
        return {
            "received": into.handled,
            "waiting": into.queued,
            "dropped": into.dropped,
            "sent": {child: self._counts.between(node.name, child).sent for child in node.children},
        }

    def _facts(self, one: NodeRun) -> dict[str, Any]:
        """Return the object of a node, without its output."""
        failure = one.failure
        seconds = one.seconds(self._loop.clock())
        numbers = self._numbers(one)
        return {
            "nodeName": one.node.name,
            "algorithmName": one.node.node.algorithm,
            "stateType": one.node.state_type,
            "replicas": len(one.replicas),
            "status": one.status,
            "error": None
            if failure is None
            else {"code": failure.code, "message": failure.message, "details": failure.details},
            "durationMs": round(seconds * 1000, 3),
            **numbers,
            "messagesPerSecond": round(numbers["received"] / seconds, 3) if seconds else 0.0,
            "tasks": [result.facts() for result in one.results],
        }


def _shown_name(one: NodeRun) -> str:
    count = len(one.replicas)
    return one.node.name if count == 1 else f"{one.node.name} x{count}"


def _output_of(one: NodeRun) -> bytes | None:
    """Return the result of a stateful node, which has one task; a repeated one has its last result."""
    return next((result.output for result in reversed(one.results) if result.output is not None), None)
