"""The settings of streams in HKube's variables: names and defaults are those of HKube's wrappers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

#: The wrapper for Node counts STREAMING_STATISTICS_INTERVAL in milliseconds, that for Python in seconds.
_LONGEST_IN_SECONDS = 60.0
#: Larger values are typing mistakes.
_MOST = 2.0**31
#: Where the nodes of a local pipeline find each other.
LOOPBACK = "127.0.0.1"


class StreamSettings(NamedTuple):
    """The settings of every stream of this run."""

    encoding: str = "msgpack"
    host: str = "*"  #: the address that the port is bound to: "*" is every one of IPv4, "[::]" of IPv6, too
    port: int = 9022
    buffer_bytes: int = 1500 * 1024 * 1024
    statistics_s: float = 2.0


def from_environment(environment: Mapping[str, str]) -> StreamSettings:
    """Return the settings; a variable that is no number counts as not set. Raises ValueError for an encoding
    that HKube's wrappers cannot stream."""
    default = StreamSettings()
    encoding = environment.get("DISCOVERY_ENCODING") or default.encoding
    if encoding not in ("bson", "msgpack"):
        raise ValueError(f"DISCOVERY_ENCODING is {encoding!r}; a stream needs bson or msgpack")
    interval = _number(environment, "STREAMING_STATISTICS_INTERVAL", default.statistics_s)
    return default._replace(
        encoding=encoding,
        host="[::]" if ":" in environment.get("POD_IP", "") else default.host,
        port=int(_number(environment, "STREAMING_DISCOVERY_PORT", default.port)),
        buffer_bytes=int(_number(environment, "STREAMING_MAX_BUFFER_MB", 1500) * 1024 * 1024),
        statistics_s=interval if interval < _LONGEST_IN_SECONDS else interval / 1000,
    )


def largest_message(buffer_bytes: int, memory_bytes: int) -> int:
    """Return how many bytes a message of another node may have: a larger one fits into no queue, or cannot be
    passed on, which takes its memory twice. `memory_bytes`: of the container or the machine."""
    return min(max(buffer_bytes, StreamSettings().buffer_bytes), memory_bytes // 2)


def variables_of(port: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a program in a local pipeline; `port`: 0 if it sends nothing."""
    found = {"DISCOVERY_ENCODING": from_environment(environment).encoding, "POD_IP": LOOPBACK}
    if port:
        found["STREAMING_DISCOVERY_PORT"] = str(port)
    return found


def _number(environment: Mapping[str, str], name: str, default: float) -> float:
    try:
        found = float(environment[name])
    except (KeyError, ValueError):
        return default
    return found if 0 < found < _MOST else default
