"""What a task was given and what came of it, as TensorBoard's HParams tab reads it.

The tab takes each run that has a session for a row: the session's hyperparameters, and as metrics the last
value of every scalar of that run and the runs below it. So an event file with the session and a few scalars
next to the user's own is all it needs; it finds the columns itself.

Encoded by hand like event_files.py: tensorboard/plugins/hparams/plugin_data.proto and hparams/api.proto.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from .board_texts import chart_value, text_value
from .event_files import bytes_field, file_record, scalar_value, summary_event, version_record
from .files import write_all
from .layout import RESOURCES
from .resource_series import LIMIT, MEMORY
from .task_values import Scalar

# TensorBoard sorts cards and metrics by name: the tilde puts these behind the user's own, and the HParams tab
# shows the first five to begin with, so numbers of the output come before resources.
OUTPUT = "~output"
DURATION = "~task/duration_s"
PEAK_MEMORY = "~task/peak_memory_mib"
SUCCEEDED = "~task/succeeded"
ERROR = "~task/error"
#: Sorts behind every name that begins with a time.
FILE_NAME = "events.out.tfevents.9999999999.hkrunner"
#: Of a task that runs; sorts before all others.
START_FILE_NAME = "events.out.tfevents.0000000000.hkrunner"

_SESSION_START = "_hparams_/session_start_info"
_SESSION_END = "_hparams_/session_end_info"
_CHUNK_BYTES = 1 << 20
_SEARCHED_BYTES = 32 << 20
_MAX_COPIED_BYTES = 64 << 20
_SUCCESS, _FAILURE = 1, 2  # api.proto, Status
# TensorProto: dtype = 1 with DT_FLOAT 1, tensor_shape = 2 with one dimension of size 0.
_NO_TENSOR = bytes_field(8, b"\x08\x01\x12\x02\x12\x00")


@dataclass(frozen=True)
class TaskOutcome:
    """What an ended task was given, and what came of it. Times in seconds since the epoch."""

    inputs: Mapping[str, Scalar]
    metrics: Mapping[str, float]  # by tag
    started_s: float
    ended_s: float
    has_succeeded: bool
    texts: Mapping[str, str] = field(default_factory=dict)  # for the Text tab, by tag
    has_memory_limit: bool = False


def write_start(folder: str, inputs: Mapping[str, Scalar], started_s: float) -> None:
    """The folder has an event file by which the tab shows the task while it runs. Raises OSError.

    Its status is "unknown", until there is an outcome: TensorBoard keeps the first status that it reads.
    """
    values = [_plugin_value(_SESSION_START, _session_start(inputs, started_s))]
    _write_file(
        f"{folder}/{START_FILE_NAME}",
        version_record(started_s) + file_record(summary_event(started_s, 0, values)),
    )


def write_outcome(folder: str, outcome: TaskOutcome, *, resources: Iterable[str], is_session: bool) -> None:
    """Write an event file with the outcome to the folder, unless an earlier call has. Raises OSError.

    resources: event files that it takes in, since the data server holds every file open, and a process may
    have 20,000. is_session: not where the user's own event files have hyperparameters.
    """
    values = [scalar_value(tag, value) for tag, value in outcome.metrics.items()]
    values += [text_value(tag, text) for tag, text in outcome.texts.items()]
    if outcome.has_memory_limit:
        values.append(chart_value("memory and its limit in MiB", (MEMORY, LIMIT), group="resources"))
    if is_session:
        values += _session(outcome)
    record = file_record(summary_event(outcome.ended_s, 0, values))
    data = b"".join([*map(_content, resources), version_record(outcome.ended_s), record])
    _write_file(f"{folder}/{FILE_NAME}", data)


def _write_file(path: str, data: bytes) -> None:
    """The file has these bytes, or those of an earlier call. Raises OSError."""
    try:
        # One write(), which TensorBoard may see half of: it reads the rest when that has come.
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return
    try:
        write_all(fd, data)
    except OSError:  # a full disk: another board is to write it
        os.unlink(path)
        raise
    finally:
        os.close(fd)


def has_sessions(run: str) -> bool:
    """Whether the user's event files below the run folder hold hyperparameters of their own."""
    try:
        with os.scandir(run) as entries:
            for entry in entries:
                if entry.is_dir():
                    if entry.name != RESOURCES and not entry.is_symlink() and has_sessions(entry.path):
                        return True
                elif "tfevents" in entry.name and _holds(entry.path, _SESSION_START.encode()):
                    return True
    except OSError:
        pass
    return False


def _session_start(inputs: Mapping[str, Scalar], started_s: float) -> bytes:
    """Return an HParamsPluginData: session_start_info = 3; version = 1 is 0, the default."""
    # SessionStartInfo: hparams = 1 (a map), start_time_secs = 5 (double).
    start = b"".join(
        bytes_field(1, bytes_field(1, _utf8(name)) + bytes_field(2, _protobuf_value(value)))
        for name, value in inputs.items()
    ) + struct.pack("<Bd", 0x29, started_s)
    return bytes_field(3, start)


def _session(outcome: TaskOutcome) -> list[bytes]:
    # SessionEndInfo: status = 1 (enum), end_time_secs = 2 (double).
    status = _SUCCESS if outcome.has_succeeded else _FAILURE
    end = struct.pack("<BBBd", 0x08, status, 0x11, outcome.ended_s)
    # HParamsPluginData: session_end_info = 4.
    return [
        _plugin_value(_SESSION_START, _session_start(outcome.inputs, outcome.started_s)),
        _plugin_value(_SESSION_END, bytes_field(4, end)),
    ]


def _content(path: str) -> bytes:
    with contextlib.suppress(OSError), _open_file(path) as file:  # it may be removed together with its task
        return file.read(_MAX_COPIED_BYTES)
    return b""


def _holds(path: str, wanted: bytes) -> bool:
    """Whether the bytes are at the beginning or the end of the file: hyperparameters are not written between.

    Not mapped into memory: a file that its writer cuts short would end this process by SIGBUS.
    """
    with contextlib.suppress(OSError), _open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if _follows(file, wanted, _SEARCHED_BYTES):
            return True
        file.seek(max(_SEARCHED_BYTES - len(wanted), size - _SEARCHED_BYTES))
        return _follows(file, wanted, 2 * _SEARCHED_BYTES)
    return False


def _follows(file: BinaryIO, wanted: bytes, limit: int) -> bool:
    """Whether the bytes are among the next ones of the file, up to about the limit."""
    tail = b""
    while limit > 0 and (part := file.read(_CHUNK_BYTES)):
        if wanted in tail + part:
            return True
        tail = part[1 - len(wanted) :]
        limit -= len(part)
    return False


@contextlib.contextmanager
def _open_file(path: str) -> Iterator[BinaryIO]:
    """Open the file. Raises OSError also for a pipe: one that the algorithm made would block."""
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"not a file: {path}")
        yield file


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _plugin_value(tag: str, content: bytes) -> bytes:
    """Return a Summary.Value: tag = 1, tensor = 8, metadata = 9 with plugin_data = 1 (name 1, content 2)."""
    plugin_data = bytes_field(1, b"hparams") + bytes_field(2, content)
    return bytes_field(1, tag.encode()) + _NO_TENSOR + bytes_field(9, bytes_field(1, plugin_data))


def _protobuf_value(value: Scalar) -> bytes:
    """Return a google.protobuf.Value: number_value = 2 (double), string_value = 3, bool_value = 4."""
    if isinstance(value, bool):
        return b"\x20\x01" if value else b"\x20\x00"
    if isinstance(value, (int, float)):
        try:
            return struct.pack("<Bd", 0x11, value)
        except OverflowError:
            return bytes_field(3, _utf8(str(value)[:100]))
    return bytes_field(3, _utf8(value))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")
