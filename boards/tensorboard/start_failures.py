"""Why a board did not start: one sentence, and what to do about it."""

from __future__ import annotations

import errno
import importlib.metadata
import resource
from dataclasses import dataclass

ADDRESS_SPACE_BYTES = 400 << 20  # 350 MiB were enough for the fast loader, 300 were not


@dataclass(frozen=True)
class StartFailure:
    """One sentence for the user, and what to do; the hint may be empty."""

    error: str
    hint: str = ""


def failure_of(
    error: BaseException, *, package: str = "tensorboard", port: int, log_tail: str
) -> StartFailure:
    """Return what an exception means that was raised while the package was started."""
    if isinstance(error, ModuleNotFoundError) and error.name == "pkg_resources":
        return StartFailure(
            f"tensorboard {_version('tensorboard')} needs pkg_resources, which setuptools "
            f"{_version('setuptools')} no longer has",
            "run: pip install 'tensorboard>=2.21' (or 'setuptools<82')",
        )
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "tensorboard":
        return StartFailure("TensorBoard is not installed", "run: pip install 'tensorboard>=2.21'")
    if isinstance(error, ImportError):
        return StartFailure(
            f"{package} {_version(package)} cannot be imported: {error}",
            f"run: pip install --upgrade {package}",
        )
    if isinstance(error, MemoryError):
        return StartFailure("there is too little memory for a board", "it needs about 100 MiB")
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return StartFailure(f"port {port} is in use", "choose another one, or 0 for a free one")
    if isinstance(error, PermissionError):
        return StartFailure(f"port {port} cannot be bound: {error.strerror}", "choose one above 1023")
    if type(error).__name__ == "TensorBoardPortInUseError":
        return StartFailure(f"port {port} is in use", "choose another one, or 0 for a free one")
    if isinstance(error, SystemExit):  # TensorBoard and werkzeug print, and end the process
        return StartFailure(f"{package} ended: {log_tail or 'without a message'}")
    return StartFailure(f"{package} did not start: {type(error).__name__}: {error}")


def too_little_memory() -> StartFailure | None:
    """Return the failure that a limit on the address space will cause; None when there is enough.

    Checked before the start: too little memory shows in a dozen ways, some of them signals.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY or limit >= ADDRESS_SPACE_BYTES:
        return None
    return StartFailure(
        f"a board does not fit in the address space of {limit >> 20} MiB that RLIMIT_AS allows here",
        "raise it to 1 GiB (ulimit -v 1048576)",
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
