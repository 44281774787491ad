"""A message that has another one right before it."""

from __future__ import annotations

from hkrunner.runner.link.frames import TEXT, frame
from hkrunner.runner.link.outbox import PIECE, Outbox, Outgoing


def sent(outbox: Outbox) -> list[int]:
    """Return the lengths of the frames that are written until nothing waits (each has another mask)."""
    lengths = []
    while outbox.chunk or outbox.next_chunk(lambda: True):
        lengths.append(len(outbox.chunk))
        outbox.chunk = memoryview(b"")
    return lengths


def test_a_prelude_goes_before_its_message_each_time_that_is_sent() -> None:
    outbox = Outbox(TEXT, lambda: 0.0)
    both = [len(frame(TEXT, b"where it is")), len(frame(TEXT, b"done"))]
    outbox.put(Outgoing(b"done", None, True, b"where it is"))
    assert sent(outbox) == both
    outbox.put_last_again()
    assert sent(outbox) == both
    outbox.put_last_first()
    assert outbox.next_chunk(lambda: True)
    assert outbox.more_follows, "the kernel puts both into one packet"
    outbox.dropped()  # in the middle of the two
    assert sent(outbox) == both
    outbox.put(Outgoing(b"x" * (PIECE + 1), None, True, b"where it is"))
    assert len(sent(outbox)) == 3
