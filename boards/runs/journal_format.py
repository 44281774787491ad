"""How the records of served tasks are written to the files of `journal/`, and found again.

    S 000001c8 00000000\\n{"version":1,…}\\n          at the top: the process, its code, settings, encoding
    B 000000be 000000a1\\n{"number":7,…}…161 bytes\\n  a task begins; its `initialize` as the worker sent it
    L 0000001f 00000006\\n{"number":7,"stream":"stdout"}…6 bytes\\n  it has printed this
    E 00000140 00000022\\n{"number":7,…}…34 bytes\\n   it has ended; its answer as the worker got it
    M 0000000c 00000000\\n{"number":7}\\n             it has a folder now, which has the whole record
    F 0000000c 00000000\\n{"before":5}\\n             the tasks with lower numbers are removed (--keep)

The two numbers are the lengths of the JSON and of the bytes after it, in hexadecimal. Space for the next
records is reserved ahead, so zeros follow the last one. A record that was cut off, by SIGKILL or a full disk,
lacks its last byte, the newline: it is not read, nor is anything after it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

VERSION = 1
SUFFIX = ".journal"
HEAD, BEGIN, LOG, END, MOVED, FORGET = b"S", b"B", b"L", b"E", b"M", b"F"

#: So much is read at once, or one record more: not all of the zeros that follow, eight times as long as it.
_READ_BYTES = 64 * 1024
_HEADER_SIZE = 20
_HEADER = re.compile(rb"([SBLEMF]) ([0-9a-f]{8}) ([0-9a-f]{8})\n")
_LOCAL_BEGIN = re.compile(rb'\nB [0-9a-f]{8} [0-9a-f]{8}\n\{"number":[0-9]+,"name":"(t[0-9]{1,9})[".]')


class JournalRecord(NamedTuple):
    """One record, by its place in the file."""

    kind: bytes
    begin: int
    facts: bytes  #: JSON
    values_at: int  #: where its value begins: bytes of a message of the worker's, or output
    end: int  #: where the next record begins

    @property
    def value_size(self) -> int:
        """Bytes of the value; 0: it has none."""
        return self.end - 1 - self.values_at


def record_pieces(kind: bytes, facts: bytes, value: bytes = b"") -> list[bytes]:
    """Return the record in pieces for one pwritev(): a value of 100 KB is not copied."""
    header = b"%b %08x %08x\n%b" % (kind, len(facts), len(value), facts)
    return [header, value, b"\n"] if value else [header + b"\n"]


def read_records(fd: int, at: int) -> Iterator[JournalRecord]:
    """Yield the whole records from this place in a file on, where one begins. Raises OSError."""
    size = _READ_BYTES
    while True:
        data = os.pread(fd, size, at)
        end = 0
        for one in _records_in(data, at):
            end = one.end - at
            yield one
        header = _HEADER.match(data, end)
        needed = _HEADER_SIZE + (0 if header is None else int(header[2], 16) + int(header[3], 16) + 1)
        at += end
        if len(data) - end >= needed or os.fstat(fd).st_size - at < needed:
            return  # no record, or one that was cut off
        size = needed + _READ_BYTES


def _records_in(data: bytes, offset: int) -> Iterator[JournalRecord]:
    at = 0
    while (header := _HEADER.match(data, at)) is not None:
        values_at = at + _HEADER_SIZE + int(header[2], 16)
        end = values_at + int(header[3], 16) + 1
        if end > len(data) or data[end - 1] != 0x0A:
            return
        facts = data[at + _HEADER_SIZE : values_at]
        yield JournalRecord(header[1], offset + at, facts, offset + values_at, offset + end)
        at = end


def local_names_in(data: bytes) -> list[str]:
    """Return the names tN of tasks in the file, also those of tN.suffix.

    Sought, and not read record by record: 100,000 tasks would keep a local run waiting for seconds.
    """
    return [name.decode() for name in _LOCAL_BEGIN.findall(data)]
