"""The server of a multiprocessing.Manager goes on accepting connections after it was refused memory.

It runs in a process that was forked, or spawned. Python 3.8 and newer.
"""

from __future__ import annotations

import contextlib
import threading
import time
from types import TracebackType
from typing import Any, Optional

#: The modules of multiprocessing's managers, also of the copy that uses dill, and what their thread runs.
_MANAGERS = ("multiprocessing.managers", "multiprocess.managers")
_ACCEPTER = "accepter"
#: How soon the server tries again to serve a connection for which it had no memory.
ACCEPT_S = 0.05


def accept_again_in_spawned() -> None:
    """Have it so in this process, which multiprocessing has spawned."""
    show = threading.excepthook

    def excepthook(args: Any, /) -> None:
        show(args)
        with contextlib.suppress(Exception):  # what a server consists of differs between versions
            accept_again(args.exc_traceback)

    threading.excepthook = excepthook


def accept_again(traceback: Optional[TracebackType]) -> None:
    """Have the server of a Manager go on accepting connections, if its thread for that has ended here.

    What connects to it would wait for ever, and the process lives on. The connection that had no thread gets
    one as soon as there is memory: if it was closed, a worker of a Pool would end for it, without a word.
    """
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_globals.get("__name__") in _MANAGERS and frame.f_code.co_name == _ACCEPTER:
            server, connection = frame.f_locals["self"], frame.f_locals.get("c")
            inner = traceback.tb_next
            if inner is not None and inner.tb_frame.f_code.co_name == "accept":
                connection = None  # that one has its thread
            del frame, inner, traceback
            _accept_for_ever(server, connection)
            return
        traceback = traceback.tb_next


def _accept_for_ever(server: Any, connection: Any) -> None:
    """As accepter() of the server of a Manager, beginning with this connection; None: with the next one."""
    while True:
        try:
            if connection is None:
                connection = server.listener.accept()
            threading.Thread(target=server.handle_request, args=(connection,), daemon=True).start()
            connection = None
        except (OSError, MemoryError, RuntimeError):
            time.sleep(ACCEPT_S)
