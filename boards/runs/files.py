"""Helpers for files: safe names, files that are replaced whole, JSON, and the identity of a process."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from ...sandbox.linux import procfs

NAME_MAX_BYTES = 255
#: A write within one page is never cut.
PAGE_BYTES = 4096
_MAX_NUMBER = 10**17
#: What nearly all ids are, and nothing is to be done about: shorter than any limit, and not `.` or `..`.
_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,49}")
# Control characters are encoded too: a name is printed on terminals.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f%/\ud800-\udfff]")


def safe_part(text: str, *, limit: int = NAME_MAX_BYTES) -> str:
    """Return the text as one part of a path; two different texts never give the same part.

    Ids come from the worker, and none is a reason to lose a task: characters that a path cannot have are
    percent-encoded instead of refused. Empty becomes `%`, `.` becomes `%2E`, `a/b` becomes `a%2Fb`, and
    `%` itself `%25`; a name above `limit` bytes is cut and ends in `%~` and a hash of the whole.
    """
    if _PLAIN.fullmatch(text):
        return text
    if not text:
        return "%"
    if text in (".", ".."):
        return "%2E" * len(text)
    part = text if _UNSAFE.search(text) is None else _UNSAFE.sub(_percent, text)
    if len(part) * 4 > limit and len(part.encode()) > limit:
        import hashlib  # late: OpenSSL takes 5 ms

        mark = "%~" + hashlib.sha256(part.encode()).hexdigest()[:16]
        part = part.encode()[: limit - len(mark)].decode(errors="ignore") + mark
    return part


def with_suffix(text: str, suffix: object) -> str:
    """Return the text as one part of a path, with a dot and the suffix behind it."""
    end = f".{suffix}"
    return safe_part(text, limit=NAME_MAX_BYTES - len(end)) + end


def is_part(text: str) -> bool:
    """Whether the text may be one part of a path, and is printed safely, as what safe_part() returns."""
    return text not in ("", ".", "..") and _UNSAFE.search(text.replace("%", "")) is None


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match.group().encode("utf-8", "surrogatepass"))


def original_text(part: str) -> str:
    """Return the text that safe_part() was given; the part itself if it was cut, or made by others."""
    if part == "%":
        return ""
    if "%~" in part:
        return part
    from urllib.parse import unquote_to_bytes  # late: 3 ms, which writing a record can do without

    try:
        return unquote_to_bytes(part).decode("utf-8", "surrogatepass") if "%" in part else part
    except UnicodeError:
        return part


def overwrite_page(path: str, data: bytes) -> bool:
    """Write at most a page over a file of one page; False when a new file is needed.

    Both are padded with the spaces that JSON allows: a write within one page is never cut by SIGKILL, never
    meets a full disk, and costs a quarter of a new file and a rename.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            return os.pwrite(fd, data.ljust(PAGE_BYTES), 0) == PAGE_BYTES
        finally:
            os.close(fd)
    except OSError:
        return False


def replace_file(path: str, data: bytes, *, mode: int = 0o666) -> None:
    """Replace the file's content by these bytes; a crash at any point leaves the old content or the new."""
    with replacement(path, mode) as fd:
        write_all(fd, data)


@contextlib.contextmanager
def replacement(path: str, mode: int = 0o666) -> Iterator[int]:
    """Yield a descriptor; what is written to it replaces the file in the end, unless an error is raised."""
    temporary = temporary_path(path)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        try:
            yield fd
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:  # Ctrl-C, too
        remove_quietly(temporary)
        raise


def temporary_path(path: str) -> str:
    """Return where this process writes what replaces the file."""
    folder, name = os.path.split(path)
    return f"{folder}/.{name[:200]}.{os.getpid()}.tmp"


def write_all(fd: int, data: bytes) -> None:
    """Write all bytes; a regular file near a full disk takes them in parts before it refuses."""
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])


def remove_quietly(path: str) -> None:
    """Remove the file, if that is possible."""
    with contextlib.suppress(OSError):
        os.unlink(path)


def unlock_folder(path: str) -> None:
    """Give its owner all rights on a folder that an algorithm may have locked; a link is not followed."""
    try:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # it is no folder
        return
    try:
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        if mode & 0o700 != 0o700:
            # By the descriptor: the algorithm may put a link in its place now.
            os.chmod(f"/proc/self/fd/{fd}", mode | 0o700)
    except OSError:  # it is another user's: whoever uses it gets the error
        pass
    finally:
        os.close(fd)


def is_empty_folder(path: str) -> bool:
    """Whether the folder has no entries, or does not exist."""
    try:
        with os.scandir(path) as entries:
            return next(entries, None) is None
    except FileNotFoundError:
        return True
    except OSError:
        return False


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
    """Run the block while no other process has this folder locked; also where it cannot be locked."""
    fd = -1
    try:
        with contextlib.suppress(OSError):  # it does not exist, or its file system has no locks
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        if fd >= 0:
            os.close(fd)


class NoLocksError(Exception):
    """The file system has no locks."""


def lock_file(path: str) -> int | None:
    """Return a descriptor that holds the lock; None when another process has it.

    Raises NoLocksError, and OSError when the file cannot be made.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The owner before us may have removed the file between our open and our lock.
        if os.fstat(fd).st_ino == os.stat(path).st_ino:
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError as error:
        os.close(fd)
        raise NoLocksError from error
    os.close(fd)
    return None


def to_json(value: Mapping[str, object]) -> bytes:
    """Return one line of JSON; lone surrogates are escaped, and types that JSON lacks become text."""
    return (_encoder.encode(value) + "\n").encode()


_encoder = json.JSONEncoder(default=str, separators=(",", ":"))  # json.dumps() makes a new one each time


def read_json(path: str) -> dict[str, object] | None:
    """Return the object in the file; None when there is none that can be read."""
    try:
        data = read_bytes(path)
    except OSError:
        return None
    return read_json_bytes(data)


def read_bytes(path: str) -> bytes:
    """Return the content of the file. Raises OSError.

    In two thirds of the time that a file object takes: a board reads three files of each of its tasks.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, PAGE_BYTES)
        if len(data) < PAGE_BYTES:
            return data
        parts = [data]
        while part := os.read(fd, 1 << 20):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def read_json_bytes(data: bytes) -> dict[str, object] | None:
    """Return the object that the JSON text describes; None if it describes none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def number_in(value: object) -> float | None:
    """Return the number of a record; None for what a damaged or foreign record may have in its place.

    No time or size in a record is beyond 1e17: in milliseconds that is 3 million years.
    """
    if not isinstance(value, (int, float)) or not -_MAX_NUMBER <= value <= _MAX_NUMBER:  # NaN fails, too
        return None
    return value


def integer_in(value: object) -> int | None:
    """As number_in(), rounded."""
    number = number_in(value)
    return None if number is None else round(number)


class ProcessIdentity(NamedTuple):
    """A process, identified beyond its end: a pid alone may be used again."""

    pid: int
    started: str
    host: str
    namespace: str = ""  #: of its pid; "" if that is not known

    @staticmethod
    def of(pid: int) -> ProcessIdentity | None:
        """Return the process that has this pid on this host now; None when there is none."""
        started = process_started(pid)
        return None if started is None else ProcessIdentity(pid, started, _host(), _namespace())

    def to_dict(self) -> dict[str, object]:
        """Return the identity for a record."""
        return {"pid": self.pid, "started": self.started, "host": self.host, "namespace": self.namespace}

    @staticmethod
    def from_dict(value: object) -> ProcessIdentity | None:
        """Return the identity from its record; None when a field is missing or of another type."""
        if not isinstance(value, dict):
            return None
        pid, started, host = value.get("pid"), value.get("started"), value.get("host")
        namespace = value.get("namespace")
        if isinstance(pid, int) and pid > 0 and isinstance(started, str) and isinstance(host, str):
            return ProcessIdentity(
                pid, started, host, namespace if isinstance(namespace, str) and namespace.isdecimal() else ""
            )
        return None

    def is_alive(self) -> bool:
        """Whether the process may still run: False only when it is known to be gone.

        A process of another host (the state folder is on a shared volume) cannot be seen and counts as alive.
        """
        if self.host != _host():
            return True
        return process_started(self.pid) == self.started

    @property
    def is_of_other_namespace(self) -> bool:
        """Whether it runs in another pid namespace of this host: another process may have its pid here."""
        return self.host == _host() and self.namespace not in ("", _namespace())

    def is_here_and_alive(self) -> bool:
        """Whether the process runs on this host: only then may it be signalled."""
        return self.host == _host() and process_started(self.pid) == self.started


def process_started(pid: int) -> str | None:
    """Return the boot and start time of the process with this pid; None when there is none but a zombie."""
    try:
        found = procfs.stat(pid)
    except OSError:
        return None
    return None if found.state in (b"Z", b"X") else f"{_boot()}-{found.started}"


@lru_cache(maxsize=1)
def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read(8)
    except OSError:
        return "-"


@lru_cache(maxsize=1)
def _host() -> str:
    return os.uname().nodename


@lru_cache(maxsize=1)
def _namespace() -> str:
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        return ""


_own: ProcessIdentity | None = None


def own_identity() -> ProcessIdentity:
    """Return this process's identity; looked up once, and again after a fork."""
    global _own
    if _own is None or _own.pid != os.getpid():
        _own = ProcessIdentity.of(os.getpid()) or ProcessIdentity(os.getpid(), "-", _host(), _namespace())
    return _own
