"""The connections to all producers of the parent nodes, and the messages that were fetched by them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import zmq

from .consumer import LINGER_S, Consumer, FetchedMessage

#: Characters of the names that a discovery update may contain.
NAME_MAX = 1000


class Producing(NamedTuple):
    """A producer, as one item of a discovery update describes it."""

    address: str
    node: str
    is_added: bool

    @property
    def key(self) -> tuple[str, str]:
        """What names it: the address alone may be that of another node's producer by now."""
        return self.node, self.address


class ParentConnections:
    """One consumer for each producer, as HKube's worker announces them."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        poller: zmq.Poller,
        *,
        node: str,
        encoding: str,
        in_turn: bool,
        message_bytes: int,
        on_problem: Callable[[str], None],
        on_left: Callable[[int], None],
    ) -> None:
        """`node`: our own. `in_turn`: whether the child handles one message at a time, of all producers.

        `message_bytes`: most that a message may have.

        `on_left`: called with the number of a connection of which nothing more will come.
        """
        self._context = context
        self._poller = poller
        self._node = node
        self._encoding = encoding
        self._in_turn = in_turn
        self.message_bytes = message_bytes
        self._on_problem = on_problem
        self._on_left = on_left
        self._consumers: dict[tuple[str, str], Consumer] = {}  #: by Producing.key
        self._connections = self._messages = 0  #: number of each so far
        self.fetched: dict[int, FetchedMessage] = {}  #: messages that are not done, oldest first
        self._passed: dict[int, FetchedMessage] = {}  #: those of them that the child has
        self._garbage_said: set[int] = set()  #: numbers of the connections whose wrong messages were reported
        self.is_fetching = self.is_leaving = False
        self._began_at = self._done_at = 0.0

    def __len__(self) -> int:
        return len(self._consumers)

    # ---- discovery

    def update(self, changes: Sequence[Any]) -> None:
        """Apply a discovery update; report the items that cannot be read or connected to, and skip them."""
        wrong = []
        for change in changes:
            try:
                self._change(read_change(change))
            except (ValueError, zmq.ZMQError) as error:
                wrong.append(f"{error}: {change!r:.200}")
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            self._on_problem(f"serviceDiscoveryUpdate has an item that is left out: {wrong[0]}{more}")

    def _change(self, producing: Producing) -> None:
        known = self._consumers.get(producing.key)
        if known is not None:
            known.is_deleted = not producing.is_added
            if known.is_deleted:
                known.leave()
            elif self.is_fetching:
                self._guarded(producing.key, known.stay)
        elif producing.is_added:
            self._connections += 1
            added = Consumer(
                self._context,
                self._poller,
                number=self._connections,
                address=producing.address,
                parent=producing.node,
                node=self._node,
                encoding=self._encoding,
                message_bytes=self.message_bytes,
            )
            if self.is_leaving:
                added.leave()
            self._consumers[producing.key] = added

    # ---- what is fetched

    def fetch(self) -> list[FetchedMessage]:
        """Fetch messages for a new child from now on; return those that the last child had not begun."""
        self.is_fetching, self.is_leaving = True, False
        self._began_at = self._done_at = time.monotonic()
        for key, consumer in list(self._consumers.items()):
            self._guarded(key, consumer.stay)
        return [one for number, one in self.fetched.items() if number not in self._passed]

    def leave(self) -> None:
        """Fetch nothing more, nor from producers that are announced later."""
        self.is_fetching, self.is_leaving = False, True
        for consumer in self._consumers.values():
            consumer.leave()

    @property
    def have_left(self) -> bool:
        """Whether nothing more comes, and all that came is done."""
        return self.is_leaving and all(one.has_left for one in self._consumers.values())

    def serve(self, ready: dict[Any, int]) -> list[FetchedMessage]:
        """Return what has come."""
        found: list[FetchedMessage] = []
        for key, consumer in list(self._consumers.items()):
            # What came before the loss of the connection may not be in `ready` yet.
            if consumer.socket in ready or consumer.monitor in ready:
                for frames in consumer.receive():
                    self._messages += 1
                    message = self.fetched[self._messages] = consumer.taken(self._messages, frames)
                    found.append(message)
                if consumer.has_sent_garbage and consumer.number not in self._garbage_said:
                    self._garbage_said.add(consumer.number)
                    self._on_problem(f"{consumer.parent} sends what is no message of HKube's; it is left out")
            if consumer.monitor in ready:
                self._guarded(key, consumer.look_at_connection)
        return found

    def check_intakes(self, memory: int) -> list[str]:
        """Close the connections on which too much waits; return their nodes. `memory`: see check()."""
        return [one.parent for one in self._consumers.values() if one.intake.check(memory)]

    def passed(self, message: FetchedMessage) -> None:
        """Note that the child has the message."""
        self._passed[message.number] = message

    def done(self, number: int, duration_ms: float) -> None:
        """Note that the child has done a message, and how long it took."""
        message = self._passed.pop(number, None)
        if message is not None:
            self.fetched.pop(number, None)
            message.consumer.done(message, duration_ms)
            self._done_at = message.consumer.since

    def ask(self, now: float) -> float:
        """Ask for messages, as far as they are wanted; return when to call again."""
        next_at = float("inf")
        for key, consumer in list(self._consumers.items()):
            if self.is_fetching or consumer.is_leaving:
                at = self._guarded(key, consumer.ask, now)
                next_at = min(next_at, float("inf") if at is None else at)
            if consumer.is_deleted and consumer.has_left and key in self._consumers:
                consumer.close(LINGER_S)
                self._remove(key)
        return next_at

    def _guarded(
        self, key: tuple[str, str], function: Callable[..., float | None], *args: Any
    ) -> float | None:
        """Call a function of the consumer; remove the consumer if it cannot connect again."""
        try:
            return function(*args)
        except zmq.ZMQError as error:
            consumer = self._remove(key)
            self._on_problem(f"no connection to {consumer.parent} at {consumer.address}: {error.strerror}")
            return None

    def _remove(self, key: tuple[str, str]) -> Consumer:
        consumer = self._consumers.pop(key)
        self._on_left(consumer.number)
        return consumer

    # ---- the child

    def begun(self) -> list[FetchedMessage]:
        """Return the messages that the child may be handling."""
        if self._in_turn:
            return list(self._passed.values())[:1]
        first: dict[Consumer, FetchedMessage] = {}
        for message in self._passed.values():
            first.setdefault(message.consumer, message)
        return list(first.values())

    def overdue_at(self, most_s: float) -> float:
        """Return the time at which a message that the child has will have taken it this long."""
        since = [max(one.consumer.since, self._began_at) for one in self.begun()]
        if self._in_turn and since:
            since = [max(*since, self._done_at)]
        return min(since, default=float("inf")) + most_s

    def abandon(self) -> None:
        """Fetch nothing more; forget the messages that the child has not begun."""
        self.leave()
        begun = self.begun()
        self._lost("were fetched and not begun", [one for one in self.fetched.values() if one not in begun])
        for key, consumer in list(self._consumers.items()):
            self._guarded(key, consumer.abandon, [one for one in begun if one.consumer is consumer])
        self.fetched = {one.number: one for one in begun}
        self._passed = dict(self.fetched)

    def child_ended(self) -> None:
        """Report the messages that the child was handling as lost; the others wait for the next child."""
        for lost in self.begun():
            self.done(lost.number, 0.0)
            lost.consumer.say_done()  # the producer must not send it to another consumer
            self._on_problem(f"the message of {lost.consumer.parent} that was being handled is lost")
        self._passed.clear()
        self.is_fetching = False

    def close(self) -> None:
        """Close all connections. hkrunner's producers pass messages that are not done to other consumers."""
        self._lost("were fetched and not handled", list(self.fetched.values()))
        begun = {one.consumer for one in self.begun()}
        for consumer in self._consumers.values():
            consumer.say_done()
            if consumer not in begun:  # else the message may be what has ended hkrunner
                consumer.say_bye()
            consumer.close(LINGER_S)

    def _lost(self, how: str, messages: Sequence[FetchedMessage]) -> None:
        """Report lost messages: a producer that is not hkrunner's does not keep them."""
        count = sum(not one.consumer.gets_back for one in messages)
        if count:
            self._on_problem(f"{count} messages of parent nodes {how}, and are lost")


def read_change(change: Any) -> Producing:
    """Return the producer in an item of a discovery update. Raises ValueError with what is wrong."""
    try:
        host, port = change["address"]["host"], change["address"]["port"]
        node, kind = change["nodeName"], change["type"]
    except (TypeError, KeyError, IndexError):
        raise ValueError("not nodeName, type, and address with host and port") from None
    if kind not in ("Add", "Del"):
        raise ValueError("its type is neither Add nor Del")
    if not isinstance(node, str) or not 0 < len(node) <= NAME_MAX or not _is_text(node):
        raise ValueError("nodeName is no name")
    is_host = isinstance(host, str) and 0 < len(host) <= NAME_MAX and host.isascii() and host.isprintable()
    if not is_host or set(host) & set(" /;*[]"):
        raise ValueError("its host is none")
    # HKube's wrapper for Python announces its port as a text.
    is_number = isinstance(port, int) or (isinstance(port, str) and port.isascii() and port.isdigit())
    if not is_number or isinstance(port, bool) or len(str(port)) > 5 or not 0 < int(port) < 65536:
        raise ValueError("its port is none")
    return Producing(f"tcp://{f'[{host}]' if ':' in host else host}:{int(port)}", node, kind == "Add")


def _is_text(text: str) -> bool:
    """Whether UTF-8 has it: JSON can hold half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
