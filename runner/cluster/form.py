"""The body of a request with a form in it (multipart/form-data), whose file is read while it is sent."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from .transport import Body

_PIECE = 256 * 1024


def form_body(values: Mapping[str, Any], file: str | None, file_name: str = "") -> Body:
    """Return the body: each value as JSON, then the file as the field `file`."""
    boundary = f"hkrunner-{secrets.token_hex(16)}"
    head = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode()
        + json.dumps(value).encode()
        + b"\r\n"
        for name, value in values.items()
    )
    if file is not None:
        head += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{file_name}"\r\n'
            f"Content-Type: {_content_type(file_name)}\r\n\r\n"
        ).encode()
    line_end = b"" if file is None else b"\r\n"
    tail = line_end + f"--{boundary}--\r\n".encode()
    size = 0 if file is None else os.path.getsize(file)

    def pieces() -> Iterator[bytes]:
        yield head
        if file is not None:
            with open(file, "rb") as content:
                while piece := content.read(_PIECE):
                    yield piece
        yield tail

    return Body(len(head) + size + len(tail), f"multipart/form-data; boundary={boundary}", pieces)


def _content_type(name: str) -> str:
    return "application/zip" if name.endswith(".zip") else "application/gzip"
