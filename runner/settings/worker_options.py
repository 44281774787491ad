"""The options of `hkrunner worker`: its own, and those of `hkrunner run` for the algorithms it runs."""

from __future__ import annotations

from .option import Option, flag
from .options import OPTIONS

_GROUP = "Worker"

#: Those that `hkrunner run` does not have.
OWN_OPTIONS: tuple[Option, ...] = (
    Option(
        "port",
        ("--port",),
        "Port to listen on; 0 for any free one.",
        ("WORKER_SOCKET_PORT",),
        default="3000",
        metavar="N",
        group=_GROUP,
    ),
    Option(
        "host",
        ("--host",),
        "Address to listen on. Everybody who can reach it is served.",
        default="127.0.0.1",
        metavar="ADDRESS",
        group=_GROUP,
    ),
    flag("once", ("--once",), "Serve one wrapper, and end when it disconnects.", group=_GROUP),
)


def _as_of_worker(option: Option) -> Option:
    group = _GROUP if option.group == "Local run" else option.group
    return option._replace(help=option.worker_help or option.help, group=group)


WORKER_OPTIONS: tuple[Option, ...] = (
    *OWN_OPTIONS,
    *(_as_of_worker(option) for option in OPTIONS if option.in_worker),
)
