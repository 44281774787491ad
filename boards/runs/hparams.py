"""What a task was given and what came of it, as TensorBoard's HParams tab reads it.

The tab takes each run that has a session for a row: the session's hyperparameters, and as metrics the last
value of every scalar of that run and the runs below it. It finds the columns itself.

Encoded by hand like event_files.py: tensorboard/plugins/hparams/plugin_data.proto and hparams/api.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from .event_files import bytes_field
from .task_values import Scalar

# TensorBoard sorts cards and metrics by name: the tilde puts these behind the user's own, and the HParams tab
# shows the first five to begin with, so numbers of the output come before resources.
OUTPUT = "~output"
DURATION = "~task/duration_s"
PEAK_MEMORY = "~task/peak_memory_mib"
SUCCEEDED = "~task/succeeded"
ERROR = "~task/error"

#: The tag of a list of columns that user code declares, as torch's add_hparams() does with each session.
EXPERIMENT = "_hparams_/experiment"
#: The tags of a session's two parts.
SESSION_START = "_hparams_/session_start_info"
SESSION_END = "_hparams_/session_end_info"


class SessionStatus(IntEnum):
    """The status of a row, as in api.proto."""

    SUCCESS = 1
    FAILURE = 2
    RUNNING = 3


@dataclass(frozen=True)
class TaskOutcome:
    """What came of an ended task. Times in seconds since the epoch."""

    metrics: Mapping[str, float]  # by tag
    ended_s: float
    has_succeeded: bool


def session_start(inputs: Mapping[str, Scalar], started_s: float) -> bytes:
    """Return an HParamsPluginData: session_start_info = 3; version = 1 is 0, the default."""
    # SessionStartInfo: hparams = 1 (a map), start_time_secs = 5 (double).
    start = b"".join(
        bytes_field(1, bytes_field(1, _utf8(name)) + bytes_field(2, _protobuf_value(value)))
        for name, value in inputs.items()
    ) + struct.pack("<Bd", 0x29, started_s)
    return bytes_field(3, start)


def session_end(status: SessionStatus, ended_s: float) -> bytes:
    """Return an HParamsPluginData: session_end_info = 4. ended_s: 0 for a session that has not ended."""
    # SessionEndInfo: status = 1 (enum), end_time_secs = 2 (double).
    return bytes_field(4, struct.pack("<BBBd", 0x08, status, 0x11, ended_s))


def _protobuf_value(value: Scalar) -> bytes:
    """Return a google.protobuf.Value: number_value = 2 (double), string_value = 3, bool_value = 4."""
    if isinstance(value, bool):
        return b"\x20\x01" if value else b"\x20\x00"
    if isinstance(value, (int, float)):
        try:
            return struct.pack("<Bd", 0x11, float(value))
        except OverflowError:
            return bytes_field(3, _utf8(str(value)[:100]))
    return bytes_field(3, _utf8(value))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")
