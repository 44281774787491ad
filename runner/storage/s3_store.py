"""HKube's storage in S3 (its s3 adapter), with the package boto3.

The header of an object is in its metadata, as base64 under the key `header`. HKube's worker (storage v1)
writes it into the body instead, and HKube's services write none: all three are read. Buckets are made by
HKube's services, not here.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import boto3
import urllib3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ..settings.storage_settings import StorageSettings
from .encoded_value import HEADER_SIZE, is_header
from .errors import StorageError
from .file_region import Bytes, FileRegion
from .stored_object import StoredObject, check_fits

_FAILURES = (
    *(Boto3Error, BotoCoreError, ClientError, urllib3.exceptions.HTTPError, OSError),
    RecursionError,  # boto3 follows redirections that lead in a circle until then
    ValueError,  # boto3 reads numbers and times in headers that are none
)
_HEADER = "header"
#: The region that Amazon's S3 requires; other servers accept any.
_REGION = "us-east-1"
#: How long a server may take to accept a connection.
CONNECT_S = 10.0
#: Larger results are uploaded in parts: S3 takes no more than 5 GB at once.
PARTS_FROM = 64 * 1024 * 1024
#: Most bytes of an answer that is no object: an error, or what a write leads to, in XML.
ANSWER_MAX = 1024 * 1024
#: Bytes that are read between two reports of progress: few, so that a slow connection reports in time.
READ_CHUNK = 64 * 1024


class S3Store:
    """Objects in the buckets of one server."""

    def __init__(self, settings: StorageSettings) -> None:
        """Raises StorageError for an address or a configuration that cannot be used."""
        self._bucket = settings.s3_bucket
        if not settings.s3_verifies:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        try:
            self._client = _client(settings)
        except _FAILURES as error:
            text = f"the S3 server at {settings.s3_endpoint} cannot be used: {_reason(error)}"
            raise StorageError(text) from None
        self._transfer = TransferConfig(
            multipart_threshold=PARTS_FROM, multipart_chunksize=PARTS_FROM, use_threads=False
        )

    def open(self, path: str, progress: Callable[[], None]) -> StoredObject:
        """Return the object at this path, which is in memory then; raises StorageError."""
        bucket, key = self._place(path)
        name = f"s3://{bucket}/{key}"
        try:
            found = self._client.get_object(Bucket=bucket, Key=key)
            progress()
            data = _read(found["Body"], _size(found), name, progress)
        except _FAILURES as error:
            raise StorageError(f"no object can be read at {name}: {_reason(error)}") from None
        # Some servers (MinIO, Ceph) write the names of metadata with capitals.
        metadata = {name.lower(): value for name, value in found.get("Metadata", {}).items()}
        told = metadata.get(_HEADER)
        if told:
            return StoredObject(name, _header(told, name), data, lambda: None)
        view = memoryview(data)
        if is_header(view[:HEADER_SIZE]):
            return StoredObject(name, bytes(view[:HEADER_SIZE]), view[HEADER_SIZE:], lambda: None)
        return StoredObject(name, None, view, lambda: None)

    def write(self, path: str, header: bytes, body: Sequence[Bytes], progress: Callable[[], None]) -> None:
        """Write an object, which is there whole or not at all; raises StorageError."""
        bucket, key = self._place(path)
        try:
            self._client.upload_fileobj(
                _UploadBody(body, progress),
                bucket,
                key,
                ExtraArgs={"Metadata": {_HEADER: base64.b64encode(header).decode()}} if header else None,
                Config=self._transfer,
            )
        except _FAILURES as error:
            name = f"s3://{bucket}/{key}"
            raise StorageError(f"no object can be written to {name}: {_reason(error)}") from None

    def _place(self, path: str) -> tuple[str, str]:
        """Return the bucket and the key of an object. Raises StorageError."""
        try:
            path.encode()
        except UnicodeEncodeError as error:  # a lone surrogate, which JSON can hold
            raise StorageError(f"the path of an object is no text: {path!r:.200}: {error}") from None
        if self._bucket:
            return self._bucket, path
        bucket, _, key = path.lstrip("/").partition("/")
        return bucket, key


def _client(settings: StorageSettings) -> Any:
    """Return boto3's client. What is not set here it reads from the variables and files of Amazon's tools."""
    return boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        aws_access_key_id=settings.s3_access_key or None,
        aws_secret_access_key=settings.s3_secret_key or None,
        region_name=settings.s3_region or _REGION,
        verify=settings.s3_verifies,
        config=Config(
            connect_timeout=CONNECT_S,
            read_timeout=settings.timeout_s,
            retries={"total_max_attempts": 2},
            s3={"addressing_style": "path"},
            # Servers other than Amazon's may not know the checksums that boto3 adds otherwise.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def _content(answer: Any) -> bytes:
    """Return an answer that is no object. boto3 has no limit for it, and such an answer may have no end."""
    if answer._content is None:
        answer._content = answer.raw.read(ANSWER_MAX)
        answer.raw.close()  # its connection, too, unless all was read
    return answer._content  # type: ignore[no-any-return]


AWSResponse.content = property(_content)


class _UploadBody(io.RawIOBase):
    """The bytes of an object as a file, without a copy of all of them."""

    def __init__(self, pieces: Sequence[Bytes], progress: Callable[[], None]) -> None:
        self._pieces = [memoryview(bytes(one) if isinstance(one, FileRegion) else one) for one in pieces]
        self._size = sum(len(one) for one in self._pieces)
        self._at = 0
        self._progress = progress

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        self._progress()
        left = self._size - self._at if size is None or size < 0 else size
        parts, begin = [], 0
        for piece in self._pieces:
            part = piece[max(0, self._at - begin) :][:left]
            begin += len(piece)
            if part and self._at < begin:
                parts.append(part)
                self._at += len(part)
                left -= len(part)
        return b"".join(parts)


def _size(found: Mapping[str, Any]) -> int | None:
    """Return the size of an object; None: its chunks say where it ends. Raises OSError if it is not whole."""
    told = found["ResponseMetadata"]
    if told["HTTPStatusCode"] != 200:
        raise OSError(f"the server sent a part of it (HTTP {told['HTTPStatusCode']})")
    size: int | None = found.get("ContentLength")
    if size is None and told["HTTPHeaders"].get("transfer-encoding") != "chunked":
        # Also an answer that is cut within its headers, which http.client takes for one without a body.
        raise OSError("the server does not say how long it is")
    return size


def _read(body: Any, size: int | None, name: str, progress: Callable[[], None]) -> bytearray:
    """Read an object; `size`: as announced, None: of chunks. Raises OSError, StorageError."""
    if size is not None:
        check_fits(size, name)
    # It grows with what arrives: memory of the announced size would be filled with zeros first.
    data = bytearray()
    while size is None or len(data) < size:
        chunk = body.read(READ_CHUNK if size is None else min(READ_CHUNK, size - len(data)))
        if not chunk:
            if size is None:
                break
            raise OSError(f"the server sent {len(data):,} of {size:,} bytes")
        data += chunk
        check_fits(len(data), name)
        progress()
    return data


def _header(told: str, name: str) -> bytes:
    """Return the header that the metadata has; one that is none is shown as it is."""
    try:
        header = base64.b64decode(told, validate=True)
    except ValueError:
        header = b""
    if len(header) != HEADER_SIZE:
        raise StorageError(f"{name} has a header of an unknown form: {told[:40]!r}")
    return header


def _reason(error: Exception) -> str:
    if isinstance(error, ClientError):
        told = error.response.get("Error", {})
        return f"{told.get('Code')}: {told.get('Message')}"
    if isinstance(error, RecursionError):
        return "the redirections of the server have no end"
    return " ".join(str(error).split()) or type(error).__name__  # some have several lines
