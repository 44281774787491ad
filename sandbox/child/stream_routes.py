"""Where the messages of a node go: the next nodes of a flow, and what is left of the flow behind them.

Python 3.8 and newer.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, NamedTuple, Optional, Sequence

from ..codec import codec
from ..shared.stream_frames import SEND_HEAD
from .api_call import ApiError

#: Routes that are remembered; a pipeline has few flows.
ROUTES_MAX = 1000


class Route(NamedTuple):
    """Where messages of one flow go from this node."""

    prefix: bytes  #: of the body of their frames: names of the next nodes, rest of the flow
    leads_on: bool


class Routes:
    """The routes from one node."""

    def __init__(self, node: str, children: Sequence[str], flows: Mapping[str, Any], encoding: str) -> None:
        """`flows`: all of the pipeline, by name. `encoding`: of flows in messages."""
        self._node = node
        self._children = children
        self._flows = flows
        self._encoding = encoding
        self._found: Dict[Any, Optional[Route]] = {}

    def find(self, flow: Any) -> Route:
        """Return the route of a flow: its name, or what a message has of it as bytes. Raises ApiError."""
        try:
            route = self._found[flow]
        except KeyError:
            if len(self._found) >= ROUTES_MAX:
                self._found.clear()
            route = self._found[flow] = self._route_of(flow)
        except TypeError:  # not hashable: no name at all
            route = None
        if route is None:
            raise ApiError(f"No such flow {flow}"[:500])
        return route

    def _route_of(self, flow: Any) -> Optional[Route]:
        """Return where the flow goes from here, and what is left of it then: all but this node's entry."""
        try:
            entries = codec.decode(self._encoding, flow) if isinstance(flow, bytes) else self._flows.get(flow)
            if entries is None:
                return None
            here = next((one for one in entries if one.get("source") == self._node), None)
            nodes = [one for one in here.get("next", ()) if one in self._children] if here is not None else []
            rest = codec.encode_value(self._encoding, [one for one in entries if one is not here])
        except (ValueError, TypeError, AttributeError):
            return None  # what a parent node has sent is no flow
        names = "\0".join(nodes).encode()
        return Route(SEND_HEAD.pack(len(names), len(rest)) + names + rest, bool(nodes))
