"""The messages between hkrunner and its storage process, each in a datagram.

    hkrunner -> storage process   ConfigureStorage, maybe ResumeTask, then FetchInput, CheckInput,
                                  StoreResult, CarryCall, CarryAnswer and CancelRequests
    storage process -> hkrunner   for each request InputFetched, ForWorker, ForTask or RequestFailed, with its
                                  id; unasked StorageNote, StorageHangs and StorageServes

`wire` is one of HKube's messages. With more than INLINE_MAX bytes it is in a memfd that travels with the
datagram: then `wire` is empty, and `size` says how many bytes it has there.
"""

from __future__ import annotations

from typing import Any

from .message_format import ProcessMessage, Wire

#: Above this a memfd is cheaper than two copies through the socket.
INLINE_MAX = 64 * 1024


class ConfigureStorage(ProcessMessage):
    """What the process works with; comes first."""

    kind = 96
    version: int
    settings: dict[str, Any]  #: the fields of StorageSettings
    worker: str  #: encoding of the worker's messages
    task: str  #: of those to and from the algorithm's process
    storage: str  #: of what is stored
    checks_later: bool = False  #: whether hkrunner sends CheckInput when the input of a task cannot be read


class ResumeTask(ProcessMessage):
    """Go on with a task whose input an earlier process has fetched, with what its InputFetched said."""

    kind = 103
    names: dict[str, str]
    save_paths: list[str]


class _Carrier(ProcessMessage):
    """Belongs to the request with this id, and carries one of HKube's messages."""

    wire: Wire
    id: int
    size: int = 0


class FetchInput(_Carrier):
    """Complete the `initialize` of a task; answered by InputFetched."""

    kind = 97


class CheckInput(_Carrier):
    """Say which object is why a complete `initialize` cannot be read; answered by ForTask with a text."""

    kind = 102


class StoreResult(_Carrier):
    """Write the result of a `done`; answered by ForWorker, with `storing`."""

    kind = 98


class CarryCall(_Carrier):
    """Carry a call of the code API over; answered by ForWorker, or by ForTask if it fails."""

    kind = 99


class CarryAnswer(_Carrier):
    """Carry the worker's answer to such a call over; answered by ForTask."""

    kind = 100


class CancelRequests(ProcessMessage):
    """Drop all requests: their answers are not needed any more."""

    kind = 101


class InputFetched(ProcessMessage):
    """The complete `initialize`, in the encoding of the algorithm's process."""

    kind = 104
    wire: Wire
    id: int
    names: dict[str, str]  #: ids and names of the task, as the worker told them
    save_paths: list[str]  #: parts of the result that other nodes ask for
    size: int = 0


class ForWorker(_Carrier):
    """A message that the worker is to get."""

    kind = 105


class ForTask(_Carrier):
    """A message that the algorithm's process is to get."""

    kind = 106


class RequestFailed(ProcessMessage):
    """The request was not done."""

    kind = 107
    id: int
    text: str
    details: str = ""


class StorageNote(ProcessMessage):
    """A line for people."""

    kind = 108
    text: str


class StorageHangs(ProcessMessage):
    """The number of threads of the process that hang in the storage."""

    kind = 109
    threads: int


class StorageServes(ProcessMessage):
    """Other algorithms ask for results that are in the memory of this one."""

    kind = 110


StorageRequest = FetchInput | CheckInput | StoreResult | CarryCall | CarryAnswer
StorageAnswer = InputFetched | ForWorker | ForTask | RequestFailed
REQUESTS = (FetchInput, CheckInput, StoreResult, CarryCall, CarryAnswer)
ANSWERS = (InputFetched, ForWorker, ForTask, RequestFailed)
TO_STORAGE = {one.kind: one for one in (ConfigureStorage, ResumeTask, *REQUESTS, CancelRequests)}
FROM_STORAGE = {one.kind: one for one in (*ANSWERS, StorageNote, StorageHangs, StorageServes)}
