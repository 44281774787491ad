"""Where HKube's storage is and how storage v3 uses it, from the variables that HKube's own wrappers read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from ...sandbox.codec import ENCODINGS
from ..errors import SettingsError

#: The kinds of storage that HKube has (DEFAULT_STORAGE).
KINDS = ("fs", "s3")
_PORT_MAX = 65534  #: the ping port is the next one
_FALSE = ("false", "0", "no", "")


class StorageSettings(NamedTuple):
    """What the storage process is configured with."""

    kind: str = "fs"
    encoding: str = "msgpack"
    cluster: str = "local"  #: the first word of every path
    folder: str = "/var/tmp/fs/storage"
    timeout_s: float = 60.0  #: a task fails when its storage moves no byte for this long
    input_cache_mb: int = 400
    result_cache_mb: int = 400
    serves_peers: bool = True
    peer_host: str = "127.0.0.1"  #: the address that other pods have for this one
    peer_port: int = 9020
    peer_encoding: str = "msgpack"
    serving_report_s: float = 5.0  #: how often the worker is told that peers were served lately
    peer_timeout_s: float = 10.0
    ping_timeout_s: float = 1.0
    s3_endpoint: str = "http://127.0.0.1:9000"
    s3_access_key: str = ""
    s3_secret_key: str = ""
    s3_bucket: str = ""  #: the one bucket that holds everything; "": the first part of a path is the bucket
    s3_region: str = ""
    s3_verifies: bool = False  #: whether certificates are verified

    @property
    def place(self) -> str:
        """The storage in a few words, for people."""
        return f"folder {self.folder}" if self.kind == "fs" else f"S3 at {self.s3_endpoint}"


def storage_settings(environ: Mapping[str, str], timeout_s: float) -> StorageSettings:
    """Return the settings that HKube's variables describe; raises SettingsError."""
    default = StorageSettings()

    def text(name: str, otherwise: str) -> str:
        return environ.get(name) or otherwise

    def choice(name: str, otherwise: str, choices: tuple[str, ...]) -> str:
        value = text(name, otherwise)
        if value not in choices:
            raise SettingsError(f"{name}={value} is not one of {', '.join(choices)}")
        return value

    def number(name: str, otherwise: int, *, most: int = 2**31 - 1) -> int:
        value = text(name, str(otherwise))
        if not value.isdecimal() or len(value) > 18 or int(value) > most:
            raise SettingsError(f"{name} wants a whole number up to {most}, not {value!r}")
        return int(value)

    kind = choice("DEFAULT_STORAGE", default.kind, KINDS)
    s3_endpoint = text("S3_ENDPOINT_URL", default.s3_endpoint)
    if kind == "s3" and not s3_endpoint.lower().startswith(("http://", "https://")):
        raise SettingsError(f"S3_ENDPOINT_URL={s3_endpoint} does not begin with http:// or https://")
    return StorageSettings(
        kind=kind,
        encoding=choice("STORAGE_ENCODING", default.encoding, ENCODINGS),
        cluster=text("CLUSTER_NAME", default.cluster),
        folder=os.path.abspath(text("BASE_FS_ADAPTER_DIRECTORY", default.folder)),
        timeout_s=timeout_s,
        input_cache_mb=number("STORAGE_MAX_CACHE_SIZE", default.input_cache_mb),
        result_cache_mb=number("DISCOVERY_MAX_CACHE_SIZE", default.result_cache_mb),
        serves_peers=text("DISCOVERY_ENABLE", "true").lower() not in _FALSE,
        peer_host=text("POD_IP", default.peer_host),
        peer_port=number("DISCOVERY_PORT", default.peer_port, most=_PORT_MAX),
        peer_encoding=choice("DISCOVERY_ENCODING", default.peer_encoding, ENCODINGS),
        serving_report_s=max(1, number("DISCOVERY_SERVING_REPORT_INTERVAL", 5000)) / 1000,
        peer_timeout_s=number("DISCOVERY_TIMEOUT", 10_000) / 1000,
        ping_timeout_s=number("DISCOVERY_NETWORK_TIMEOUT", 1000) / 1000,
        s3_endpoint=s3_endpoint,
        s3_access_key=text("AWS_ACCESS_KEY_ID", ""),
        s3_secret_key=text("AWS_SECRET_ACCESS_KEY", ""),
        s3_bucket=text("S3_BUCKET_NAME", ""),
        s3_region=text("S3_REGION", ""),
        s3_verifies=text("S3_VERIFY_SSL", "false").lower() not in _FALSE,
    )
