"""Checks of `hkrunner doctor` on what is installed: Python, hkrunner's dependencies, TensorBoard."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Iterator

from ... import __version__
from ...boards.tensorboard.data_server import DataServerError, find_binary
from ...boards.tensorboard.start_failures import too_little_memory
from .doctor_finding import Finding, Machine

INSTALL = "run: pip install --upgrade hkrunner"


def check_python(machine: Machine) -> Iterator[Finding]:
    version = platform.python_version()
    ok = sys.version_info >= (3, 10) and sys.implementation.name == "cpython"
    kind = "" if sys.implementation.name == "cpython" else f" ({sys.implementation.name})"
    remedy = (
        "" if ok else "install CPython 3.10 or newer for hkrunner; --python runs your code in another version"
    )
    yield Finding("python", ok, f"{version}{kind}, {sys.executable}", remedy, needed=True)
    yield Finding("hkrunner", True, __version__)


def check_packages(machine: Machine) -> Iterator[Finding]:
    try:
        required = importlib.metadata.requires("hkrunner") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("packages", False, "hkrunner runs from its source and is not installed", INSTALL)
        return
    good = []
    for line in required:
        match = re.match(r"([\w.-]+)\s*(?:>=\s*([\d.]+))?\s*$", line)
        if match is None or match[1] == "tensorboard":  # optional, or with a line of its own
            continue
        name, least = match[1], match[2] or "0"
        version = _version(name)
        if version is None:
            yield Finding(name, False, "not installed", f"run: pip install '{name}>={least}'", needed=True)
        elif numbers(version) < numbers(least):
            remedy = f"run: pip install --upgrade '{name}>={least}'"
            yield Finding(name, False, f"{version}, older than {least}", remedy, needed=True)
        else:
            good.append(f"{name} {version}")
    yield Finding("packages", True, ", ".join(good))
    if _version("bson") is not None:
        remedy = "run: pip uninstall bson && pip install --force-reinstall pymongo"
        yield Finding("bson", False, "the package `bson` replaces the bson of pymongo", remedy)


def check_tensorboard(machine: Machine) -> Iterator[Finding]:
    version = _version("tensorboard")
    install = "run: pip install 'tensorboard>=2.21'"
    if version is None:
        yield Finding("tensorboard", False, "not installed", install, needed=True)
        return
    if numbers(version) < (2, 21) and importlib.util.find_spec("pkg_resources") is None:
        text = f"{version} needs pkg_resources, which setuptools {_version('setuptools') or ''} no longer has"
        yield Finding("tensorboard", False, text, f"{install} (or 'setuptools<82')", needed=True)
        return
    if (failure := too_little_memory()) is not None:
        yield Finding("tensorboard", False, f"{version}; {failure.error}", failure.hint, needed=True)
        return
    slow = _why_slow(machine)
    if slow is None:
        yield Finding("tensorboard", True, f"{version} (fast loader)", needed=True)
    else:
        yield Finding("tensorboard", True, version, needed=True)
        why, remedy = slow
        yield Finding("fast loader", False, f"{why}: boards load 5 to 30 times slower", remedy)


def _why_slow(machine: Machine) -> tuple[str, str] | None:
    """Return why boards use TensorBoard's own, slow loader, and the remedy; None if they do not."""
    try:
        find_binary()
    except DataServerError as error:
        return str(error), "run: pip install tensorboard-data-server, on x86-64 with GLIBC"
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        wheel = importlib.metadata.distribution("tensorboard-data-server").read_text("WHEEL") or ""
        wanted = re.search(r"manylinux_(\d+)_(\d+)_", wheel)
        here = _glibc()
        if wanted is not None and here < (int(wanted[1]), int(wanted[2])):
            has = ".".join(map(str, here)) if here else "no GLIBC"
            return (
                f"the data server needs GLIBC {wanted[1]}.{wanted[2]}; this machine has {has}",
                "use a newer base system",
            )
    return None


def _glibc() -> tuple[int, ...]:
    try:
        told = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return ()
    return numbers(told.removeprefix("glibc "))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers: (2, 21, 0) for 2.21.0rc1."""
    match = re.match(r"\d+(?:\.\d+)*", version.strip())
    return tuple(int(part) for part in match[0].split(".")) if match else ()
