"""A stream pipeline on this machine, from the start of its nodes to their end.

    document -> StreamRun -> NodeRun, one for each node -> Replica, one or several for each NodeRun
                   |                                           |
                   +---- discovery updates, statistics --------+--- messages: ZeroMQ, on the loopback address

    loading   all replicas load their code; if one cannot, the pipeline ends
    running   the nodes at the end of the flows begin first; then each one knows those that send to it
    ending    a node ends once those that send to it have ended: so all that was accepted is handled
    over      no process is left

What begins the end: every source has returned; Ctrl-C, which stops the sources; a failed node, with which
all others are stopped at once; or a node that returns although others still send to it, like `head` in a
shell's pipe: the sources before it are stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ...sandbox.codec import codec
from ...sandbox.shared.outcome import Cause
from ..console.terminal import Output
from ..io.loop import Loop
from ..protocol.error_codes import MEMORY_CODES, SANDBOX_UNAVAILABLE, exit_status_of
from ..protocol.messages import Failure
from ..protocol.result import Result
from ..serving.run_context import RunContext
from ..settings.settings import Settings
from ..worker_stub.catalog import Catalog
from ..worker_stub.stream_pipeline import StreamNode, StreamPipeline
from ..worker_stub.task import LocalTask
from .message_counts import MessageCounts
from .node_output import NodeOutput
from .node_run import NodeRun
from .replica import Replica, ReplicaListener, ReplicaState
from .reserved_port import ReservedPort
from .stream_report import StreamReport

#: Those that send to a node that has returned are stopped after this time: they may be about to end as well.
ENDS_TOGETHER_S = 1.0
#: How the process of a stopped task ends that did not fail.
_ENDED_BY_STOP = (Cause.STOPPED, Cause.INTERRUPTED, Cause.EXITED)


class StreamRun:
    """Runs one stream pipeline; `status` is the exit status at the end."""

    def __init__(
        self,
        loop: Loop,
        settings: Settings,
        output: Output,
        pipeline: StreamPipeline,
        context_of: Callable[[str], RunContext],
        catalog: Catalog,
        job: str,
        on_over: Callable[[], None],
    ) -> None:
        """context_of: returns the context of an algorithm, with a store of its own for each call.

        catalog: what the nodes can start and find through the code API. on_over: no process is left.
        """
        self._loop = loop
        self._output = output
        self._pipeline = pipeline
        self._catalog = catalog
        self._job = job
        self._on_over = on_over
        self._counts = MessageCounts()
        self._announced: set[str] = set()
        self._listener = ReplicaListener(
            self._loaded, self._load_failed, self._note_statistics, self._ended, self._gone
        )
        self._nodes: dict[str, NodeRun] = {
            node.name: NodeRun(node, self._replicas(node, context_of)) for node in pipeline.nodes
        }
        self._report = StreamReport(loop, settings, output, self._counts, list(self._nodes.values()))
        self._stopped_sources: set[str] = set()
        self._is_running = False
        self.is_ending = False  #: whether everything is stopped at once
        self._interrupts = 0
        self.status = 0

    def _replicas(self, node: StreamNode, context_of: Callable[[str], RunContext]) -> list[Replica]:
        found = []
        for number in range(1, node.replicas + 1):
            name = node.name if node.replicas == 1 else f"{node.name}/{number}"
            found.append(
                Replica(
                    context_of(node.node.algorithm),
                    self._catalog,
                    self._listener,
                    node=node.name,
                    name=name,
                    output=NodeOutput(self._output, self._announced, node=node.name, name=name),
                    port=ReservedPort() if node.children else None,
                )
            )
        return found

    @property
    def _all(self) -> list[Replica]:
        return [replica for one in self._nodes.values() for replica in one.replicas]

    def begin(self) -> None:
        """Start all processes."""
        for replica in self._all:
            replica.load()

    def interrupt(self, status: int) -> None:
        """Stop in order; the second call stops everything at once, the third one kills."""
        self.status = max(self.status, status)
        self._interrupts += 1
        if self._interrupts == 1 and self._is_running and not self.is_ending:
            sources = [one.node.name for one in self._nodes.values() if one.node.is_source]
            self._report.stopping(sources)
            self._stopped_sources.update(sources)
            self._advance()
        else:
            self._end_at_once()

    def close(self) -> None:
        """Remove the status line, and leave the ports to others."""
        self._report.end_status()
        for replica in self._all:
            replica.close()

    def child_pids(self) -> list[int]:
        """Return the pids of the algorithms' processes."""
        return [pid for one in self._all if (pid := one.child_pid())]

    # ---- the beginning

    def _loaded(self, replica: Replica) -> None:
        if self.is_ending or any(one.state is ReplicaState.LOADING for one in self._all):
            return
        self._is_running = True
        self._report.begin()
        for node in reversed(self._nodes.values()):  # those that take messages are there before the first one
            node.began_at = self._loop.clock()
            for one in node.replicas:
                self._begin(node, one)

    def _begin(self, node: NodeRun, replica: Replica) -> None:
        number = node.replicas.index(replica)
        name = (
            replica.store.next_local_task() if replica.store is not None else replica.name.replace("/", "-")
        )
        fields = self._pipeline.task_fields(node.node)
        if number:
            fields.update(isScaled=True, batchIndex=number)
        given = codec.as_json(self._pipeline.input_of(node.node), "input")  # run_stream has tried it
        algorithm = node.node.node.algorithm
        replica.begin(LocalTask(name, self._job, replica.node, algorithm, self._pipeline.name, given, fields))
        senders = self._senders(node)
        if senders:
            replica.tell_of(senders, "Add")

    def _senders(self, node: NodeRun) -> list[Replica]:
        """Return the replicas that send to the node and have not ended."""
        found = [one for name in node.node.parents for one in self._nodes[name].replicas]
        return [one for one in found if one.state in (ReplicaState.LOADED, ReplicaState.WORKING)]

    def _load_failed(self, replica: Replica, failure: Failure) -> None:
        node = self._nodes[replica.node]
        if node.failure is None:
            self._report.load_failed(replica.node, failure)
            node.failure = failure
        known = failure.code in MEMORY_CODES or failure.code == SANDBOX_UNAVAILABLE
        self.status = max(self.status, exit_status_of(failure.code) if known else 4)
        self._end_at_once()

    # ---- while it runs

    def _note_statistics(self, replica: Replica, items: Sequence[Any]) -> None:
        self._counts.report(replica.node, replica.name, items)

    def _ended(self, replica: Replica, result: Result) -> None:
        node = self._nodes[replica.node]
        node.results.append(result)
        failure = result.failure
        if result.status == "stopped" and result.exit is not None and result.exit.cause in _ENDED_BY_STOP:
            node.is_cut_short, failure = True, None
        if failure is None:
            if result.status == "succeed" and replica.is_program:
                self._counts.ended_in_order(replica.node, replica.name)
            self._report.ended(node, replica, result)
        elif self._begins_again(node, replica, result):
            return
        else:
            self._fail(node, replica, result, failure)
        if node.has_ended:
            node.ended_at = self._loop.clock()
            if any(not self._nodes[name].has_ended for name in node.node.parents):
                self._loop.after(ENDS_TOGETHER_S, partial(self._stop_sources_of, node))
        self._loop.after(0, replica.shutdown)  # its answer has left by then
        for name in node.node.children:
            for other in self._nodes[name].working:
                other.tell_of([replica], "Del")
        self._advance()

    def _begins_again(self, node: NodeRun, replica: Replica, result: Result) -> bool:
        """Begin a failed task again if the document's `retry` says so; return whether it is."""
        retry = node.node.node.retry
        if retry is None or node.is_stopping or self.is_ending or replica.failures >= retry.times:
            return False
        replica.failures += 1
        times = f"{replica.failures} of {retry.times} times (retry: {retry.policy})"
        self._report.failed(replica, result, after=f"it begins again, {times}")
        self._begin(node, replica)
        return True

    def _fail(self, node: NodeRun, replica: Replica, result: Result, failure: Failure) -> None:
        if self.is_ending:
            self._report.failed(replica, result)  # the pipeline ends of what came before
            return
        node.failure = failure
        self.status = max(self.status, result.exit_status)
        if node.is_stopping:
            self._report.failed(replica, result, after="the nodes after it still end in order")
        else:
            self._report.failed(replica, result, after="the pipeline ends: all other nodes are stopped")
            self._end_at_once()

    # ---- the end

    def _advance(self) -> None:
        """Stop each node whose turn it is."""
        if self.is_ending or not self._is_running:
            return
        for node in self._nodes.values():
            parents = [self._nodes[name] for name in node.node.parents]
            is_left_by_all = bool(parents) and all(one.has_ended for one in parents)
            is_its_turn = is_left_by_all or node.node.name in self._stopped_sources
            if node.has_ended or node.is_stopping or not is_its_turn:
                continue
            node.is_stopping = True
            # What it has for a node that has ended is not taken any more: it would wait for ever.
            force = self._is_useless(node) or any(self._nodes[name].has_ended for name in node.node.children)
            for replica in node.working:
                replica.stop(force=force)

    def _is_useless(self, node: NodeRun) -> bool:
        """Whether all that it sends ends at nodes that have ended."""
        children = [self._nodes[name] for name in node.node.children]
        return bool(children) and all(one.has_ended or self._is_useless(one) for one in children)

    def _stop_sources_of(self, node: NodeRun) -> None:
        """Stop the sources from which messages come to a node that has ended."""
        names, found = list(node.node.parents), set()
        while names:
            name = names.pop()
            parent = self._nodes[name]
            if not parent.has_ended and name not in found:
                found.add(name)
                names += parent.node.parents
        sources = {name for name in found if self._nodes[name].node.is_source} - self._stopped_sources
        if sources and not self.is_ending:
            self._report.say(
                f"■ {node.node.name} takes no more messages: {', '.join(sorted(sources))} is stopped"
            )
            self._stopped_sources |= sources
            self._advance()

    def _end_at_once(self) -> None:
        """Stop all nodes at once; a further call ends their processes, the next one kills them."""
        is_first = not self.is_ending
        self.is_ending = True
        for node in self._nodes.values():
            for replica in node.replicas:
                if replica.state is ReplicaState.WORKING:
                    node.is_cut_short = True
                    if is_first and not node.is_stopping:
                        replica.stop(force=True)
                        continue
                if replica.state is ReplicaState.GONE or (is_first and replica.state is ReplicaState.ENDED):
                    continue
                replica.shutdown()
                if replica.state is ReplicaState.LOADING:
                    replica.shutdown()  # what it loads has no use any more

    def _gone(self, replica: Replica) -> None:
        if all(one.state is ReplicaState.GONE for one in self._all):
            self._report.end()
            self._output.when_taken(self._over)

    def _over(self) -> None:
        self.status = max(self.status, self._report.stdout_status)
        self._on_over()
