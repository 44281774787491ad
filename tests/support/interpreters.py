"""The Pythons of this machine that can run an algorithm, one of each minor version."""

from __future__ import annotations

import functools
import glob
import os
import shutil
import subprocess
import sys
from pathlib import Path

#: The versions that sandbox/child/main.py supports, and one that is too old.
VERSIONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13")


@functools.cache
def found(version: str) -> Path | None:
    """Return an interpreter of this version, or None."""
    root = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    names = sorted(glob.glob(f"{root}/versions/{version}.*/bin/python"))
    on_path = shutil.which(f"python{version}")
    for path in [*names, *([on_path] if on_path else [])]:
        if _version_of(path) == version:
            return Path(path)
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return Path(sys.executable) if own == version else None


def _version_of(path: str) -> str:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    asked = subprocess.run([path, "-c", code], capture_output=True, text=True)
    return asked.stdout.strip()


def all_found() -> dict[str, Path]:
    """Return version -> interpreter, for each that is supported."""
    return {version: path for version in VERSIONS if (path := found(version)) is not None}
