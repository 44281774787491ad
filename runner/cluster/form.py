"""The body of a request with a form in it (multipart/form-data), whose file is read while it is sent."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..errors import SettingsError
from .byte_progress import ByteProgress, show_nothing
from .transport import Body

_PIECE = 256 * 1024


def form_body(
    values: Mapping[str, Any],
    file: str | None,
    file_name: str = "",
    *,
    progress: Callable[[str], None] = show_nothing,
) -> Body:
    """Return the body: each value as JSON, then the file as the field `file`. `progress`: how much is sent.

    Raises SettingsError for a file that cannot be read; pieces() of the body does so for one that has become
    shorter.
    """
    boundary = f"hkrunner-{secrets.token_hex(16)}"
    head = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode()
        + json.dumps(value).encode()
        + b"\r\n"
        for name, value in values.items()
    )
    if file is not None:
        shown = _quoted(file_name)
        head += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{shown}"\r\n'
            f"Content-Type: {_content_type(file_name)}\r\n\r\n"
        ).encode()
    line_end = b"" if file is None else b"\r\n"
    tail = line_end + f"--{boundary}--\r\n".encode()
    size = 0 if file is None else _size_of(file)

    def pieces() -> Iterator[bytes]:
        yield head
        if file is not None:
            sent = ByteProgress("sending", size, progress)
            for piece in _content(file, size):
                yield piece
                sent.add(len(piece))
        yield tail

    return Body(len(head) + size + len(tail), f"multipart/form-data; boundary={boundary}", pieces)


def _size_of(file: str) -> int:
    try:
        with open(file, "rb") as content:
            return os.fstat(content.fileno()).st_size
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror}") from None


def _content(file: str, size: int) -> Iterator[bytes]:
    """Yield the file's content. An error of the disk must not be taken for one of the network."""
    left = size
    try:
        with open(file, "rb") as content:
            while left and (piece := content.read(min(left, _PIECE))):
                left -= len(piece)
                yield piece
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror}") from None
    if left:
        raise SettingsError(f"{file} became shorter while it was sent")


def _quoted(name: str) -> str:
    """Return a file's name as browsers put it into a form; what is no UTF-8 is replaced."""
    text = name.encode("utf-8", "replace").decode()
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _content_type(name: str) -> str:
    return "application/zip" if name.endswith(".zip") else "application/gzip"
