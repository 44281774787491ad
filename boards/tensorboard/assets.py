"""TensorBoard's page and scripts, served as they are compressed in its zip file.

TensorBoard unpacks all 15 MB of its assets at every start and compresses them again: 0.2 s, a quarter of
the time to the first page. So it gets a zip of the HTML pages alone, which it modifies, and this module
serves the rest. A zip holds a raw deflate stream, and so does gzip: with a header and trailer around it, an
entry can go to the browser as it is.

One script is ours, see live_page.py.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Iterable
from typing import IO

from .host_check import Application, Environ, StartResponse
from .live_page import SCRIPT_NAME, response_headers

_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # RFC 1952: deflate, no flags, no time, unknown system
_LOCAL_HEADER = struct.Struct("<26xHH")  # only the lengths of name and extra field are read


class Assets:
    """The files of TensorBoard's zip that this module serves instead of TensorBoard."""

    def __init__(self, open_zip: Callable[[], IO[bytes]]) -> None:
        """open_zip: as tensorboard.assets gives it. Raises OSError, zipfile.BadZipFile."""
        self._open_zip = open_zip
        self._files: dict[str, zipfile.ZipInfo] = {}
        pages = io.BytesIO()
        with open_zip() as file, zipfile.ZipFile(file) as source, zipfile.ZipFile(pages, "w") as kept:
            for info in source.infolist():
                if info.filename.endswith(".html"):
                    kept.writestr(info.filename, _with_our_script(source.read(info)))
                elif not info.is_dir():
                    self._files["/" + info.filename] = info
        self._pages = pages.getvalue()

    def pages(self) -> IO[bytes]:
        """Return a zip of the HTML pages, for TensorBoard."""
        return io.BytesIO(self._pages)

    def before(self, application: Application, prefix: str) -> Application:
        """Return an application that serves the files below the prefix, and passes on every other request."""

        def serve(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            path = environ.get("PATH_INFO", "")
            info = self._files.get(path.removeprefix(prefix)) if path.startswith(prefix) else None
            if info is None or environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
                return application(environ, start_response)
            return self._serve(info, environ, start_response)

        return serve

    def _serve(
        self, info: zipfile.ZipInfo, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        accepts_gzip = "gzip" in environ.get("HTTP_ACCEPT_ENCODING", "")
        body, headers = self._read(info, accepts_gzip)
        # The page names the script that belongs to it by its hash: that one may be kept.
        is_named = "_file_hash=" in environ.get("QUERY_STRING", "")
        start_response("200 OK", headers + response_headers(info.filename, body, is_kept=is_named))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _read(self, info: zipfile.ZipInfo, accepts_gzip: bool) -> tuple[bytes, list[tuple[str, str]]]:
        with self._open_zip() as file:
            if not accepts_gzip or info.compress_type != zipfile.ZIP_DEFLATED:
                with zipfile.ZipFile(file) as source:
                    return source.read(info), []
            file.seek(info.header_offset)
            name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            file.seek(name_length + extra_length, io.SEEK_CUR)
            deflated = file.read(info.compress_size)
        trailer = struct.pack("<II", info.CRC, info.file_size & 0xFFFFFFFF)
        return _GZIP_HEADER + deflated + trailer, [("Content-Encoding", "gzip")]


def _with_our_script(page: bytes) -> bytes:
    """Return the page with our script before its own; a page without scripts is not changed."""
    return page.replace(b"<script src=", f'<script src="{SCRIPT_NAME}"></script><script src='.encode(), 1)
