"""npm packages for tests, installed once below build/."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

from support.programs import run
from support.python_wrapper import ROOT

ABSENT = "node and npm are not here: what HKube wrote for Node.js cannot be tried"


def is_there() -> bool:
    """Whether node and npm are on the PATH."""
    return shutil.which("node") is not None and shutil.which("npm") is not None


def folder_with(*packages: str) -> Path:
    """Return a folder whose node_modules holds these packages, made if need be.

    Two runs at a time: the second one waits. Fails with what npm said when it cannot.
    """
    name = "npm-" + "-".join(one.strip("@").replace("/", "-") for one in packages)
    folder = ROOT / "build" / name
    folder.parent.mkdir(exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            (folder / "package.json").write_text("{}")
            ended = run(
                ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *packages],
                cwd=folder,
                deadline_s=300,
            )
            assert ended.status == 0, ended.stdout + ended.stderr
            (folder / "made").write_text("")
    return folder
