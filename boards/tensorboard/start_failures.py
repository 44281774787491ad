"""Why a board did not start, in one sentence and with what to do about it (BOARDS 1.5)."""

from __future__ import annotations

import errno
import importlib.metadata
import resource
from dataclasses import dataclass

ADDRESS_SPACE_BYTES = 400 << 20  # 350 MiB were enough for the fast loader, 300 were not


@dataclass(frozen=True)
class Failure:
    """One sentence for the user, and what to do; the hint may be empty."""

    error: str
    hint: str = ""


def failure_of(error: BaseException, *, package: str = "tensorboard", port: int, log_tail: str) -> Failure:
    """The failure that an exception from starting what the package serves stands for."""
    if isinstance(error, ModuleNotFoundError) and error.name == "pkg_resources":
        return Failure(
            f"tensorboard {_version('tensorboard')} needs pkg_resources, which setuptools "
            f"{_version('setuptools')} no longer has",
            "run: pip install 'tensorboard>=2.21' (or 'setuptools<82')",
        )
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "tensorboard":
        return Failure("TensorBoard is not installed", "run: pip install 'tensorboard>=2.21'")
    if isinstance(error, ImportError):
        return Failure(
            f"{package} {_version(package)} cannot be imported: {error}",
            f"run: pip install --upgrade {package}",
        )
    if isinstance(error, MemoryError):
        return Failure("there is too little memory for a board", "it needs about 100 MiB")
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return Failure(f"port {port} is in use", "choose another one, or 0 for a free one")
    if isinstance(error, PermissionError):
        return Failure(f"port {port} cannot be bound: {error.strerror}", "choose one above 1023")
    if type(error).__name__ == "TensorBoardPortInUseError":
        return Failure(f"port {port} is in use", "choose another one, or 0 for a free one")
    if isinstance(error, SystemExit):  # TensorBoard and werkzeug print, and end the process
        return Failure(f"{package} gave up: {log_tail or 'it said nothing'}")
    return Failure(f"{package} did not start: {type(error).__name__}: {error}")


def too_little_memory() -> Failure | None:
    """The failure that a limit on the address space will be; None when there is room enough.

    Looked at first: what does not fit says so in a dozen ways, some of them by a signal.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY or limit >= ADDRESS_SPACE_BYTES:
        return None
    return Failure(
        f"a board does not fit in the address space of {limit >> 20} MiB that RLIMIT_AS allows here",
        "raise it to 1 GiB (ulimit -v 1048576)",
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
