"""The frames of HKube's streaming protocol, and how two hkrunners save their round trips.

    consumer -> producer   READY, node name, EMPTY
    producer -> consumer   MESSAGE, rest of the flow, header, payload; or NO_MESSAGE
    consumer -> producer   DONE, node name, {"duration": ms}

That is a poll: a consumer asks again and again, and has one message at a time. A consumer of hkrunner has an
identity that begins with OURS. A producer of hkrunner answers its first READY with HELLO, and does not answer
NO_MESSAGE to it: each READY of it waits for a message. So the consumer sends as many READYs as it can use
soon. Several messages that wait for it come in one: their frames follow one another. It answers with DONES:
the durations of some messages as doubles, after the number of READYs that it stands for. Before it ends it
sends BYE; GOODBYE answers, and nothing follows it. Without a BYE, the connection was lost.
"""

from __future__ import annotations

import struct

READY, DONE, EMPTY, MESSAGE, NO_MESSAGE = (bytes((number,)) for number in range(1, 6))
HELLO, BYE, GOODBYE, DONES = (bytes((number,)) for number in range(16, 20))
READYS = struct.Struct("!I")
DURATION = struct.Struct("!d")
OURS = b"hkrunner-"
