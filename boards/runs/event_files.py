"""TensorBoard event files, written and read without TensorBoard: 0 MB and no import time in the parent.

A file is a sequence of TFRecords: length (8 bytes), masked CRC-32C (4), data, masked CRC-32C of the data
(4), little-endian. The data is one `tensorflow.Event` protobuf (tensorflow/core/util/event.proto), of which
scalars need six fields. They are encoded by hand below, and the tests read them with TensorBoard.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from .files import write_all

if TYPE_CHECKING:
    from pathlib import Path

_numbers = itertools.count()


class EventWriter:
    """Appends scalars to an event file of its own; each call is one write(), so SIGKILL loses nothing."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Nothing is written yet: a task without scalars leaves no empty run on a board."""
        self._folder = os.fspath(folder)
        self._fd = -1

    def add(self, scalars: Mapping[str, float], *, step: int, at_s: float) -> None:
        """Add the values under their tags. at_s: seconds since the epoch. Raises OSError."""
        if self._fd < 0:
            self._create(at_s)
        write_all(self._fd, file_record(_event(at_s, step, scalars)))

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _create(self, at_s: float) -> None:
        os.makedirs(self._folder, exist_ok=True)
        # Time first, in ten digits: TensorBoard reads a folder's files in the order of their names. Process
        # and counter last, so that two writers of one second never share a file.
        name = f"events.out.tfevents.{int(at_s):010d}.{os.uname().nodename}.{os.getpid()}.{next(_numbers)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(f"{self._folder}/{name}", flags, 0o666)
        write_all(self._fd, version_record(at_s))


class Point(NamedTuple):
    """One value of a scalar series."""

    at_s: float
    step: int
    value: float


def read_scalars(folder: Path) -> dict[str, dict[str, list[Point]]]:
    """Return all scalars below the folder: run (a path, "." for the folder itself) -> tag -> points.

    Reads files of torch, tensorboardX, tf.summary, TensorBoard's own writers and EventWriter. Of a file
    that was cut short or damaged it reads what comes before the damage, as TensorBoard does. Links in the
    folder itself are followed (folder_links.py), those deeper down are not: they may form a cycle.
    """
    runs: dict[str, dict[str, list[Point]]] = {}
    for path in _event_files(folder):
        series = runs.setdefault(path.parent.relative_to(folder).as_posix(), {})
        for tag, point in read_file(path):
            series.setdefault(tag, []).append(point)
    return {run: series for run, series in sorted(runs.items()) if series}


def read_last_scalars(folder: Path, *, left_out: Iterable[str] = ()) -> dict[str, float]:
    """Return the last value of every scalar below the folder, by its run and tag: `loss`, `validation/loss`.

    Ten times as fast as read_scalars, since only the last event of each tag is decoded. left_out: names of
    folders directly below this one that are not read. Names are without folders that are named by a time.
    """
    from .curve_names import curve_name  # late: who only writes has no use for it

    last: dict[str, float] = {}
    for path in _event_files(folder):
        run = path.parent.relative_to(folder)
        if run.as_posix() not in left_out:
            values = _last_values(path).items()
            last.update({curve_name(run.as_posix(), tag): value for tag, value in values})
    return last


def _event_files(folder: Path) -> list[Path]:
    from pathlib import Path  # late, as the next: who only writes has no use for them

    from .folder_links import linked_folders
    from .folders import files_below

    places = (folder, *linked_folders(str(folder)))
    found = [entry.path for place in places for entry in files_below(str(place)) if "tfevents" in entry.name]
    return sorted(map(Path, found))


def _open(path: Path) -> BinaryIO:
    from .folders import open_plain

    return open_plain(path)


def _last_values(path: Path) -> dict[str, float]:
    """Return the last value of each scalar in one event file, up to its end or the first damaged record."""
    latest: dict[bytes, bytes] = {}  # tag -> its last Summary.Value
    with contextlib.suppress(OSError), _open(path) as file:
        for data in _records(file):
            try:
                latest.update(_values_by_tag(data))
            except (IndexError, ValueError):
                break
    last: dict[str, float] = {}
    for value in latest.values():
        with contextlib.suppress(struct.error, IndexError, ValueError):
            tag, scalar = _tag_and_scalar(value)
            if scalar is not None:
                last[tag] = scalar
    return last


def read_file(path: Path) -> Iterator[tuple[str, Point]]:
    """Yield the scalars of one event file, in order, up to its end or the first damaged record."""
    try:
        file = _open(path)
    except OSError:
        return
    with file:
        for data in _records(file):
            try:
                yield from _scalars_of(data)
            except (struct.error, IndexError, ValueError, UnicodeDecodeError):
                return


# --- writing


def _event(at_s: float, step: int, scalars: Mapping[str, float]) -> bytes:
    return summary_event(at_s, step, [scalar_value(tag, value) for tag, value in scalars.items()])


def scalar_value(tag: str, value: float) -> bytes:
    """Return a Summary.Value: tag = 1 (string), simple_value = 2 (float)."""
    return bytes_field(1, tag.encode("utf-8", "replace")) + struct.pack("<Bf", 0x15, _as_float32(value))


def summary_event(at_s: float, step: int, values: Iterable[bytes]) -> bytes:
    """Return an Event with a summary of these Summary.Values.

    Event: wall_time = 1 (double), step = 2 (int64), summary = 5. Summary: value = 1, repeated.
    """
    summary = b"".join([bytes_field(1, value) for value in values])
    return struct.pack("<Bd", 0x09, at_s) + b"\x10" + _varint(step & (1 << 64) - 1) + bytes_field(5, summary)


def version_record(at_s: float) -> bytes:
    """Return the first record of an event file: an Event with file_version = 3."""
    return file_record(struct.pack("<Bd", 0x09, at_s) + bytes_field(3, b"brain.Event:2"))


def _as_float32(value: float) -> float:
    try:
        struct.pack("<f", value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
    return value


def bytes_field(number: int, data: bytes) -> bytes:
    """Return a field of a protobuf message: a string, bytes or a message."""
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def file_record(data: bytes) -> bytes:
    """Return the TFRecord that holds the data."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, _masked_crc(length), data, _masked_crc(data)))


def _crc_table() -> tuple[int, ...]:
    # Linear: the entry of a sum of bits is the sum of their entries. An entry at a time would take 0.3 ms.
    table, crc = [0] * 256, 1
    for bit in (128, 64, 32, 16, 8, 4, 2, 1):
        crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)  # Castagnoli, reflected
        for other in range(0, 256, 2 * bit):
            table[other + bit] = crc ^ table[other]
    return tuple(table)


_TABLE = _crc_table()


def _masked_crc(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


# --- reading

# Field keys: Event has wall_time = 1 (double), step = 2 (int64) and summary = 5; Summary has value = 1.
_WALL_TIME, _STEP, _SUMMARY, _VALUE = 0x09, 0x10, 0x2A, 0x0A
_MAX_RECORD_BYTES = 256 << 20  # of an event that is read: a file with holes may name any length


def _records(file: BinaryIO) -> Iterator[bytes]:
    end = os.fstat(file.fileno()).st_size
    while True:
        head = file.read(12)
        if len(head) < 12 or head[8:] != _masked_crc(head[:8]):
            return
        (length,) = struct.unpack_from("<Q", head)
        if length + 4 > end - file.tell():  # of a file that is written now, the rest comes later
            return
        if length > _MAX_RECORD_BYTES:
            file.seek(length + 4, os.SEEK_CUR)
            continue
        data = file.read(length + 4)
        # The data's checksum is not verified: in Python it costs 100 ns a byte, and histograms and images are
        # large. A damaged event fails below instead, where its fields are parsed.
        if len(data) < length + 4:
            return
        yield data[:length]


def _scalars_of(data: bytes) -> Iterator[tuple[str, Point]]:
    at_s, step, summary = 0.0, 0, None
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            (at_s,) = struct.unpack("<d", value)
        elif number == 2 and isinstance(value, int):
            step = _signed(value)
        elif number == 5 and isinstance(value, bytes):
            summary = value
    for number, value in _fields(summary or b""):
        if number == 1 and isinstance(value, bytes):
            tag, scalar = _tag_and_scalar(value)
            if scalar is not None:
                yield tag, Point(at_s, step, scalar)


def _values_by_tag(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield each Summary.Value of an Event with its encoded tag, which every writer puts first."""
    place = 0
    while place < len(data):  # as _fields does, without a call for each field: most of the time is spent here
        key = data[place]
        if key == _SUMMARY:
            break
        if key == _WALL_TIME:
            place += 9
        elif key == _STEP:
            place += 2
            while data[place - 1] > 0x7F:
                place += 1
        else:
            place = _after_field(data, place)
    else:
        return
    size, place = _read_varint(data, place + 1)
    end = place + size
    while place < end:
        key = data[place]
        size, begin = (
            (data[place + 1], place + 2) if data[place + 1] < 0x80 else _read_varint(data, place + 1)
        )
        place = begin + size
        if key != _VALUE or place > end:
            raise ValueError("not a summary")
        if size and data[begin] == _VALUE:
            length, tag = _read_varint(data, begin + 1)
            yield data[tag : tag + length], data[begin:place]


def _after_field(data: bytes, place: int) -> int:
    """Return where the field that begins at the place ends."""
    key, place = _read_varint(data, place)
    if key & 7 == 0:
        return _read_varint(data, place)[1]
    if key & 7 == 2:
        size, place = _read_varint(data, place)
        return place + size
    if key & 7 in (1, 5):
        return place + (8 if key & 7 == 1 else 4)
    raise ValueError(f"wire type {key & 7}")


def _tag_and_scalar(data: bytes) -> tuple[str, float | None]:
    tag, scalar = "", None
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            tag = value.decode()
        elif number == 2 and isinstance(value, bytes):  # simple_value
            (scalar,) = struct.unpack("<f", value)
        elif number == 8 and isinstance(value, bytes):  # tensor: tf.summary, TensorBoard's Writer
            scalar = _scalar_of_tensor(value)
    return tag, scalar


# TensorProto: dtype = 1 with DT_FLOAT 1, DT_DOUBLE 2, DT_INT32 3, DT_INT64 9; shape = 2;
# tensor_content = 4; float_val = 5; double_val = 6; int_val = 7; int64_val = 10, packed.
_CONTENT = {1: "<f", 2: "<d", 3: "<i", 9: "<q"}
_PACKED = {5: "<f", 6: "<d"}


def _scalar_of_tensor(data: bytes) -> float | None:
    dtype, scalar = 0, None
    for number, value in _fields(data):
        if number == 1 and isinstance(value, int):
            dtype = value
        elif number == 2 and isinstance(value, bytes) and value:
            return None  # a shape with dimensions: not a scalar
        elif number == 4 and isinstance(value, bytes) and dtype in _CONTENT:
            if len(value) == struct.calcsize(_CONTENT[dtype]):
                scalar = float(struct.unpack(_CONTENT[dtype], value)[0])
        elif number in _PACKED and isinstance(value, bytes):
            if len(value) == struct.calcsize(_PACKED[number]):
                scalar = float(struct.unpack(_PACKED[number], value)[0])
        elif number in (7, 10):
            scalar = float(_signed(value if isinstance(value, int) else _read_varint(value, 0)[0]))
    return scalar


def _signed(number: int) -> int:
    """Return the int64 that an unsigned varint of 64 bits encodes."""
    return number - (1 << 64) if number >> 63 else number


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a protobuf message: the number, and an int for a varint, else the bytes."""
    place = 0
    while place < len(data):
        key, place = _read_varint(data, place)
        kind = key & 7
        if kind == 0:
            number, place = _read_varint(data, place)
            yield key >> 3, number
            continue
        if kind == 2:
            size, place = _read_varint(data, place)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if place + size > len(data):
            raise ValueError("a field reaches beyond its message")
        yield key >> 3, data[place : place + size]
        place += size


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
