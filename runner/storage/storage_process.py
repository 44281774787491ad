"""The storage process: reads and writes HKube's storage for one hkrunner, one request after the other.

A process of its own, because hkrunner's loop must never wait, and the algorithm's process may be killed.

A worker thread reads requests and works on them. The main thread watches the time, and reads requests while
the worker has been busy for long. If no byte of a request moves for the time-out, it is given up: its task
gets an error, and another thread takes the next request. The thread that hangs is left behind, since nothing
can end it (a network file system may never answer).
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import socket
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING

from ...sandbox.shared.datagrams import cut
from ...sandbox.shared.message_format import ProcessMessage
from ...sandbox.shared.storage_messages import (
    REQUESTS,
    TO_STORAGE,
    CancelRequests,
    ConfigureStorage,
    FetchInput,
    RequestFailed,
    ResumeTask,
    StorageHangs,
    StorageNote,
    StorageServes,
)
from ..settings.open_files import allow_most_open_files
from ..settings.storage_settings import StorageSettings
from .begun_task import BegunTask
from .errors import StorageError
from .folder_store import FolderStore
from .input_links import Peers
from .job import Abandoned, Job
from .message_file import MessageFile
from .operations import Encodings, Operations, Stores
from .requests import TEXT_MAX, Datagram, receive, send
from .stored_object import NoStore, ObjectStore
from .unfinished_files import UnfinishedFiles
from .value_cache import ValueCache

if TYPE_CHECKING:
    from .peer_server import PeerServer

#: At the end, have this many seconds to remove files that are not finished.
END_S = 1
#: Interval at which the main thread checks whether any byte has moved.
LOOK_S = 0.25
#: The main thread reads the requests when the worker has been busy for this long.
BUSY_S = 0.05
#: After this long without a request, the memory for large inputs goes back to the system.
REST_S = 5.0
MEGABYTE = 1_000_000
#: Peers that have asked within this time may ask again (communication/zmq/ZMQServer.py of HKube's wrapper).
SERVED_LATELY_S = 10.0
_NO_ZMQ = "the package pyzmq is not installed here (pip install 'hkrunner[peers]')"


class StorageProcess:
    """Serves the requests that come on a socket until it is closed."""

    def __init__(
        self,
        sock: socket.socket,
        settings: StorageSettings,
        encodings: Encodings,
        *,
        checks_later: bool,
        unfinished: UnfinishedFiles,
    ) -> None:
        self._socket = sock
        self._settings = settings
        self._sending = threading.Lock()
        self._lock = threading.Lock()  #: for what follows
        #: Requests that were read and are not begun; None wakes the worker, so that it reads itself.
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._waiting: dict[int, Job] = {}  #: requests that are not answered, by id
        self._current: Job | None = None
        self._main_reads = False  #: whether the main thread reads the requests, and the worker does not
        self._is_over = threading.Event()  #: hkrunner has closed its end
        self._hanging = 0
        results = ValueCache(settings.result_cache_mb * MEGABYTE)
        self._server = self._peer_server(results)
        self._reported_at = float("-inf")
        stores = Stores(
            objects=_store(settings, unfinished),
            inputs=ValueCache(settings.input_cache_mb * MEGABYTE),
            results=results,
            peers=self._peer_client(),
            discovery=None if self._server is None else self._server.discovery,
        )
        self._operations = Operations(encodings, stores, settings.cluster, checks_later=checks_later)

    def _peer_client(self) -> Peers | None:
        try:
            from .peers import PeerClient
        except ImportError:
            self._note(f"results are not read from other algorithms' memory: {_NO_ZMQ}")
            return None
        return PeerClient(self._settings, self._note)

    def _peer_server(self, results: ValueCache) -> PeerServer | None:
        settings = self._settings
        if not settings.serves_peers or not settings.result_cache_mb:
            return None
        try:
            import zmq

            from .peer_server import PeerServer
        except ImportError:
            return None  # which the client's note says
        try:
            server = PeerServer(settings, results, self._note)
        except zmq.ZMQError as error:
            where = f"{settings.peer_host}:{settings.peer_port} (POD_IP, DISCOVERY_PORT)"
            self._note(f"results are not served to other algorithms at {where} or its next port: {error}")
            return None
        server.begin()
        return server

    def _note(self, text: str) -> None:
        """Have hkrunner show a line."""
        self._send(StorageNote(cut(text, TEXT_MAX)))

    def _report_serving(self) -> None:
        """Report that peers asked for results lately, so that HKube's worker does not pause the algorithm."""
        now = time.monotonic()
        if (
            self._server is not None
            and now - self._server.served_at < SERVED_LATELY_S
            and now - self._reported_at >= self._settings.serving_report_s
        ):
            self._reported_at = now
            self._send(StorageServes())

    def run(self) -> None:
        """Serve until hkrunner closes its end."""
        self._begin_worker()
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while True:
            if not self._main_reads:
                self._is_over.wait(LOOK_S)
            elif poll.poll(LOOK_S * 1000):
                self._receive()
            if self._is_over.is_set():
                return
            self._give_up_what_hangs()
            self._report_serving()
            self._choose_reader()

    def _choose_reader(self) -> None:
        """Have the main thread read while the worker is busy for long: the next request may be `cancel`."""
        with self._lock:
            job, was_main = self._current, self._main_reads
            self._main_reads = job is not None and time.monotonic() - job.began_at > BUSY_S
            if was_main and not self._main_reads:
                self._jobs.put(None)

    def _receive(self) -> None:
        received = receive(self._socket, TO_STORAGE)
        if received is None:
            self._is_over.set()
        else:
            self._on_message(received.message, received.fd)

    def _on_message(self, message: ProcessMessage, fd: int) -> None:
        if isinstance(message, REQUESTS):
            job = Job(message, fd)
            self._waiting[job.id] = job
            self._jobs.put(job)
        elif isinstance(message, ResumeTask):
            self._operations.begin(BegunTask(message.names, message.save_paths, is_resumed=True))
        else:
            assert isinstance(message, CancelRequests), "it is configured already"
            for job in list(self._waiting.values()):
                self._abandon(job)

    # ---- requests that hang

    def _give_up_what_hangs(self) -> None:
        job, limit_s = self._current, self._settings.timeout_s
        if job is None or job.is_abandoned or time.monotonic() - job.moved_at < limit_s:
            return
        if self._abandon(job):
            self._send(RequestFailed(job.id, f"the storage gave no answer for {limit_s:g} s"))

    def _abandon(self, job: Job) -> bool:
        """Give a request up; return whether it was still waiting for its answer."""
        with self._lock:
            if self._waiting.pop(job.id, None) is None:
                return False
            job.is_abandoned = True
            if job is self._current:
                self._count_hanging(1)
                self._begin_worker()
            return True

    def _count_hanging(self, change: int) -> None:
        """Tell hkrunner how many threads hang: it starts another process when there are many."""
        self._hanging += change
        self._send(StorageHangs(self._hanging))

    # ---- the worker thread

    def _begin_worker(self) -> None:
        self._current = None
        threading.Thread(target=self._work_or_end, name="requests", daemon=True).start()

    def _work_or_end(self) -> None:
        """Work; if that is no longer possible, end the process: no other thread reads the requests.

        hkrunner answers what it has asked with an error, and starts another process for the next request.
        """
        try:
            self._work()
        except BaseException:  # noqa: BLE001 - whatever it is, no request may wait for ever
            traceback.print_exc()
            os._exit(1)

    def _work(self) -> None:
        inputs = MessageFile()
        while True:
            job = self._next_job(inputs)
            if not self._begin_job(job):
                job.close()
                continue
            # Other answers are read at a time that is not known here: their memory is never written again.
            memory = inputs if isinstance(job.request, FetchInput) else MessageFile()
            answer = self._perform(job, memory)
            with self._lock:
                if self._waiting.pop(job.id, None) is None:
                    self._count_hanging(-1)
                    break  # another thread has taken this one's place
                self._current = None
            self._send(*answer)
            with contextlib.suppress(MemoryError):  # it only fills caches
                self._operations.finish()
            job.close()
            if memory is not inputs:
                memory.close()
        job.close()
        memory.close()
        inputs.close()

    def _next_job(self, inputs: MessageFile) -> Job:
        """Wait for a request, in the queue or at the socket; after REST_S give the memory for inputs back."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while True:
            try:
                job = self._jobs.get(self._main_reads or self._is_over.is_set(), REST_S)
            except queue.Empty:
                if self._main_reads or self._is_over.is_set():
                    inputs.close()
                elif poll.poll(REST_S * 1000):
                    self._receive()
                else:
                    inputs.close()
            else:
                if job is not None:
                    return job

    def _begin_job(self, job: Job) -> bool:
        """Make this request the current one; return False when its answer is not awaited any more."""
        with self._lock:
            if job.is_abandoned:
                return False
            job.began_at = job.moved_at = time.monotonic()
            self._current = job
            return True

    def _perform(self, job: Job, memory: MessageFile) -> Datagram:
        details = ""
        try:
            return self._operations.perform(job, memory)
        except Abandoned:
            text = "nobody waits for it any more"
        except StorageError as error:
            text = str(error)
        except MemoryError:
            text = "there is not enough memory for it"
        except RecursionError:
            text = "a value is nested too deep"
        except Exception as error:  # noqa: BLE001 - whatever it is, it fails this request only
            text, details = f"{type(error).__name__}: {error}", traceback.format_exc()
        return Datagram(RequestFailed(job.id, cut(text, TEXT_MAX), cut(details, TEXT_MAX)))

    def _send(self, message: ProcessMessage, fd: int = -1) -> None:
        with self._sending:
            try:
                send(self._socket, Datagram(message, fd))
            except OSError:
                self._is_over.set()  # hkrunner is gone


def _store(settings: StorageSettings, unfinished: UnfinishedFiles) -> ObjectStore:
    if settings.kind == "fs":
        return FolderStore(settings.folder, unfinished)
    try:
        from .s3_store import S3Store
    except ImportError as error:
        return NoStore(f"S3 needs the package boto3 (pip install 'hkrunner[s3]'): {error}")
    try:
        return S3Store(settings)
    except StorageError as error:
        return NoStore(str(error))


def main() -> None:
    """Serve the socket whose number is the first argument; the first message configures this process."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    received = receive(sock, TO_STORAGE)
    if received is None:
        return
    told = received.message
    assert isinstance(told, ConfigureStorage), "it comes first"
    _end_first_without_memory()
    allow_most_open_files()
    encodings = Encodings(told.worker, told.task, told.storage)
    settings = StorageSettings(**told.settings)
    unfinished = UnfinishedFiles(received.fd)
    StorageProcess(sock, settings, encodings, checks_later=told.checks_later, unfinished=unfinished).run()
    signal.alarm(END_S)  # the storage may hang
    unfinished.remove_all()
    os._exit(0)  # threads that hang would keep this process


def _end_first_without_memory() -> None:
    """Have the kernel end this process first when the machine or the container has no memory left."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("800")
    except OSError:
        pass  # a container may forbid it; then the order is the kernel's own
