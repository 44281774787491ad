"""Two clients that run the algorithm in the process of the connection, as fast as possible: the lower bound.

    in_process.py floor|fast PORT ENTRY ENCODING

floor: websocket-client and the standard library's json, one thread, no check of UTF-8.
fast: picows on uvloop, msgspec. Neither isolates anything, reconnects or stops a task.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from typing import Any

import bson
import msgspec

Decode = Callable[[Any], Any]
Encode = Callable[[Any], bytes]


def codecs(encoding: str, fast: bool) -> tuple[Decode, Encode]:
    if encoding == "bson":
        return lambda data: bson.decode(bytes(data))["data"], lambda message: bson.encode({"data": message})
    if encoding == "msgpack":
        return msgspec.msgpack.Decoder().decode, msgspec.msgpack.Encoder().encode
    if fast:
        return msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
    return json.loads, lambda message: json.dumps(message, separators=(",", ":")).encode()


class Algorithm:
    """Answers the worker's messages, one after the other."""

    def __init__(self, path: str) -> None:
        spec = importlib.util.spec_from_file_location("algorithm", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self._start = module.start
        self._args: Any = None

    def answer(self, message: Any) -> Any:
        """Return the answer to a message; None to end."""
        command = message["command"]
        if command == "initialize":
            self._args = message["data"]
            return {"command": "initialized"}
        if command == "start":
            args, self._args = self._args, None
            return {"command": "done", "data": self._start(args, None)}
        return None


def floor(port: str, algorithm: Algorithm, encoding: str) -> None:
    import websocket

    decode, encode = codecs(encoding, fast=False)
    client = websocket.create_connection(f"ws://127.0.0.1:{port}/", skip_utf8_validation=True)
    opcode = websocket.ABNF.OPCODE_TEXT if encoding == "json" else websocket.ABNF.OPCODE_BINARY
    while True:
        answer = algorithm.answer(decode(client.recv_data()[1]))
        if answer is None:
            return
        client.send(encode(answer), opcode)


def fast(port: str, algorithm: Algorithm, encoding: str) -> None:
    import asyncio

    import picows
    import uvloop

    decode, encode = codecs(encoding, fast=True)
    kind = picows.WSMsgType.TEXT if encoding == "json" else picows.WSMsgType.BINARY

    class Listener(picows.WSListener):
        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            answer = algorithm.answer(decode(frame.get_payload_as_memoryview()))
            if answer is None:
                transport.disconnect()
            else:
                transport.send(kind, encode(answer))

    async def main() -> None:
        transport, _ = await picows.ws_connect(
            Listener, f"ws://127.0.0.1:{port}/", max_frame_size=2**30, websocket_handshake_timeout=10
        )
        await transport.wait_disconnected()

    uvloop.install()
    asyncio.run(main())


if __name__ == "__main__":
    client = {"floor": floor, "fast": fast}[sys.argv[1]]
    client(sys.argv[2], Algorithm(sys.argv[3]), sys.argv[4])
