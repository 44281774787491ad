"""Small file work that store, history and boards share: safe names, whole JSON files, process identity."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

NAME_MAX_BYTES = 255
# Control characters are encoded too: a name is printed on terminals.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f%/\ud800-\udfff]")


def safe_part(text: str, *, limit: int = NAME_MAX_BYTES) -> str:
    """The text as one path part; two different texts never give the same part.

    Ids come from the wire, and a task must not be lost for its name: what cannot stand in a path is
    percent-encoded instead of refused. Empty becomes `%`, `.` becomes `%2E`, `a/b` becomes `a%2Fb`, and
    `%` itself `%25`; a name above `limit` bytes is cut and ends in `%~` and a hash of the whole.
    """
    if not text:
        return "%"
    if text in (".", ".."):
        return "%2E" * len(text)
    part = text if _UNSAFE.search(text) is None else _UNSAFE.sub(_percent, text)
    if len(part) * 4 > limit and len(part.encode()) > limit:
        import hashlib  # 5 ms, for OpenSSL

        mark = "%~" + hashlib.sha256(part.encode()).hexdigest()[:16]
        part = part.encode()[: limit - len(mark)].decode(errors="ignore") + mark
    return part


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match.group().encode("utf-8", "surrogatepass"))


def original_text(part: str) -> str:
    """The text that safe_part made the part of; of one that was cut, the part itself."""
    if part == "%":
        return ""
    if "%~" in part:
        return part
    from urllib.parse import unquote_to_bytes  # 3 ms that writing a task need not spend

    return unquote_to_bytes(part).decode("utf-8", "surrogatepass") if "%" in part else part


def replace_file(path: str, data: bytes, *, mode: int = 0o666) -> None:
    """The file holds exactly these bytes; a crash at any point leaves the old content or the new."""
    folder, name = os.path.split(path)
    temporary = f"{folder}/.{name[:200]}.{os.getpid()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        try:
            write_all(fd, data)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError:
        remove_quietly(temporary)
        raise


def write_all(fd: int, data: bytes) -> None:
    """All bytes are written; a regular file near a full disk takes them in parts before it refuses."""
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])


def remove_quietly(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def is_empty_folder(path: str) -> bool:
    """Nothing is in it, or it is not there."""
    try:
        with os.scandir(path) as entries:
            return next(entries, None) is None
    except FileNotFoundError:
        return True
    except OSError:
        return False


def to_json(value: Mapping[str, object]) -> bytes:
    """One JSON document (lone surrogates of the wire survive, escaped); what JSON lacks is put as text."""
    return (_encoder.encode(value) + "\n").encode()


_encoder = json.JSONEncoder(default=str, separators=(",", ":"))  # json.dumps() makes a new one each time


def read_json(path: str) -> dict[str, object] | None:
    """The object in the file, or None when there is no readable one."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return None
    return read_json_bytes(data)


def read_json_bytes(data: bytes) -> dict[str, object] | None:
    """The object that the text is, or None."""
    try:
        value = json.loads(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


@dataclass(frozen=True)
class Identity:
    """Which process wrote something, so that a later one can tell whether it still lives."""

    pid: int
    started: str
    host: str

    @staticmethod
    def of(pid: int) -> Identity | None:
        """Who runs under this pid on this host now; None when nobody does."""
        started = process_started(pid)
        return None if started is None else Identity(pid, started, _host())

    def to_dict(self) -> dict[str, object]:
        return {"pid": self.pid, "started": self.started, "host": self.host}

    @staticmethod
    def from_dict(value: object) -> Identity | None:
        """The identity as it was stored; None when a field is missing or of another type."""
        if not isinstance(value, dict):
            return None
        pid, started, host = value.get("pid"), value.get("started"), value.get("host")
        if isinstance(pid, int) and pid > 0 and isinstance(started, str) and isinstance(host, str):
            return Identity(pid, started, host)
        return None

    def is_alive(self) -> bool:
        """False only when that very process is known to be gone.

        A process of another host (a state folder on a shared volume) cannot be looked at from here and
        counts as alive.
        """
        if self.host != _host():
            return True
        return process_started(self.pid) == self.started

    def is_here_and_alive(self) -> bool:
        """True only when that very process runs on this host: then, and only then, may it be signalled."""
        return self.host == _host() and process_started(self.pid) == self.started


def process_started(pid: int) -> str | None:
    """A text that no two processes with this pid share; None when there is none, or only a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except FileNotFoundError:
        return None if os.path.isdir("/proc/self") else _psutil_started(pid)
    except (OSError, ValueError):
        return None
    if fields[0] in (b"Z", b"X"):
        return None
    return f"{_boot()}-{int(fields[19])}"


def _psutil_started(pid: int) -> str | None:
    import psutil  # only where there is no /proc: it costs 30 ms

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.Error:
        return None


@lru_cache(maxsize=1)
def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read(8)
    except OSError:
        return "-"


@lru_cache(maxsize=1)
def _host() -> str:
    return os.uname().nodename


_own: Identity | None = None


def own_identity() -> Identity:
    """This process; looked up once, and once more after a fork."""
    global _own
    if _own is None or _own.pid != os.getpid():
        _own = Identity.of(os.getpid()) or Identity(os.getpid(), "-", _host())
    return _own
