"""websockets' protocol core, which does no I/O of its own, without what only its unreleased versions use."""

from __future__ import annotations

from ..io.lean_imports import import_late, without_openssl

# websockets/version.py imports it for versions that were not released; it is a tenth of the time to the
# first result.
import_late("importlib.metadata")

with without_openssl():
    from websockets.frames import Frame, Opcode
    from websockets.http11 import Request
    from websockets.protocol import State as WireState
    from websockets.server import ServerProtocol

__all__ = ["Frame", "Opcode", "Request", "ServerProtocol", "WireState"]
