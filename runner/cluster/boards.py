"""Boards of the cluster: a TensorBoard that HKube starts over the metrics of one node of a job."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import quote

from ..errors import ClusterError
from ..protocol.messages import printable
from .api import ClusterApi
from .job_answers import LATE_S
from .refusals import RequestRefused

#: How long the cluster may take to start one: Kubernetes may have to fetch its image first.
START_S = 180.0
#: Between two looks at a board. The first is short, because one that was started before is there at once; the
#: longest is that of the cluster's operator.
PAUSE_S, PAUSE_MAX_S = 0.25, 2.0
#: The status of a board that can be opened, and of one that never will be.
_RUNNING, _ENDED = "running", ("stopped", "failed")
#: How HKube begins the refusal for a board that was started before.
_STARTED_BEFORE = "board: already started"
#: The API's path at the ingress of a cluster, which has the boards beside it.
_API_AT_INGRESS = "/hkube/api-server"
#: HKube's links: hkube/board/<reference>/. Anything else would be opened at the address of the cluster.
_LINK = re.compile(r"hkube/board/[\w.-]{1,100}/?", re.ASCII)


class ClusterBoard(NamedTuple):
    """A board that can be opened."""

    id: str
    url: str


def start_board(
    api: ClusterApi,
    job: str,
    node: str,
    *,
    on_wait: Callable[[str], object] = lambda text: None,
    pause: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> ClusterBoard:
    """Return the board of this node once it can be opened; one that runs already is used.

    on_wait gets a sentence if that takes a while. Raises ClusterError if the cluster does not start it.
    """
    board = f"{job}:{node}"
    began = clock()
    pause_s = PAUSE_S

    def wait() -> None:
        nonlocal pause_s
        pause(pause_s)
        pause_s = min(2 * pause_s, PAUSE_MAX_S)

    while True:
        try:
            api.post("boards/tensors", {"jobId": job, "nodeName": node}, may_repeat=True)
            break
        except RequestRefused as error:
            if error.text.startswith(_STARTED_BEFORE):
                break
            if error.status != 404 or clock() - began >= LATE_S:
                raise
        wait()  # the graph, in which HKube looks up the node, may come after the job's end
    is_told = False
    while True:
        record = _record(api.get(f"boards/tensors/{board}"))
        status = record.get("status")
        if status == _RUNNING:
            return ClusterBoard(board, _url_of(api, record))
        shown = printable(str(record.get("error") or status), 500)
        if record.get("error") or status in _ENDED:
            raise ClusterError(f"{api.cluster.name} does not start the board {board}: {shown}")
        if clock() - began >= START_S:
            raise ClusterError(
                f"{api.cluster.name} has not started the board {board} within {START_S:g} s: it is {shown}"
            )
        if not is_told:
            is_told = True
            on_wait(f"◌ {api.cluster.name} starts the board {board}")
        wait()


def _record(answer: Any) -> dict[str, Any]:
    return answer if isinstance(answer, dict) else {}


def _url_of(api: ClusterApi, record: dict[str, Any]) -> str:
    """Return where the board is: beside the API, at the ingress. Raises ClusterError if that is not known."""
    link = str(record.get("boardLink") or "").strip("/") + "/"
    if _LINK.fullmatch(link) is None:
        raise ClusterError(f"{api.cluster.name} has started a board without a usable address")
    base = api.base_url
    if not base.endswith(_API_AT_INGRESS):
        raise ClusterError(
            f"the board runs at /{link} of the ingress of {api.cluster.name}, whose address is not known:"
            f" {base} is the api-server itself"
        )
    return f"{base.removesuffix(_API_AT_INGRESS)}/{quote(link)}"
