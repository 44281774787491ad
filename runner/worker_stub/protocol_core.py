"""websockets' protocol core, which does no I/O of its own, without what only its unreleased versions use."""

from __future__ import annotations

from ..io.late_import import import_late

# websockets/version.py imports it for versions that were not released; it is a tenth of the time to the
# first result.
import_late("importlib.metadata")

from websockets.frames import Frame, Opcode  # noqa: E402
from websockets.http11 import Request  # noqa: E402
from websockets.protocol import State as WireState  # noqa: E402
from websockets.server import ServerProtocol  # noqa: E402

__all__ = ["Frame", "Opcode", "Request", "ServerProtocol", "WireState"]
