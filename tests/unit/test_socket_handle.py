"""The parent's handle on a socket process: it hears of its end, and passes on what the worker says."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from hkrunner.runner.io.loop import Loop
from hkrunner.runner.streaming.socket_handle import SocketProcessHandle
from hkrunner.sandbox.parent import warden_launch
from hkrunner.sandbox.shared.channel import FrameReader
from hkrunner.sandbox.shared.message_format import ProcessMessage, decode, encode
from hkrunner.sandbox.shared.stream_messages import TO_SOCKET_PROCESS, OpenStream, UpdateParents
from support.ports import free_port


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def test_it_is_told_of_an_end_though_it_asks_for_one_while_the_process_ends(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = warden_launch.has_ended
    looks: list[object] = []
    heard: list[str] = []

    def not_at_first(process: object, most_s: float) -> bool:
        """Its socket is closed before the process is gone: for the first look it is not."""
        looks.append(process)
        if len(looks) == 1:
            loop.after(0.0, lambda: handle.end(30.0))
            return False
        return really(handle._process, 5.0)

    def ended(how: str) -> None:
        heard.append(how)
        loop.stop()

    monkeypatch.setattr(warden_launch, "has_ended", not_at_first)
    opens = OpenStream("A", ["B"], "bson", "127.0.0.1", free_port(), 1 << 20, 2.0, False, 0.0)
    handle = SocketProcessHandle(loop, opens, on_message=lambda message: None, on_end=ended)
    handle.when_open(lambda problem: handle.end(0.0))
    too_late = loop.after(20.0, loop.stop)
    loop.run()
    too_late.cancel()
    assert heard == [""]
    assert len(looks) == 2


def test_a_discovery_update_may_have_any_items() -> None:
    sent: list[ProcessMessage] = []

    def send(task: int, message: ProcessMessage) -> None:
        sent.extend(decode(one, TO_SOCKET_PROCESS) for one in FrameReader().feed(encode(task, message), []))

    handle = object.__new__(SocketProcessHandle)
    handle._sender = SimpleNamespace(send=send)  # type: ignore[assignment]
    items = [{"nodeName": "A" * 1000, "address": {"host": "h", "port": one}} for one in range(10_000)]
    odd = [{"nodeName": b"bytes"}, {"nodeName": "A" * 50_000}, {("no", "text"): 1}]
    handle.update_parents([*items, *odd])
    told = [one for message in sent if isinstance(message, UpdateParents) for one in message.changes]
    assert told == [*items, *["dict, too large or no JSON"] * 3]
