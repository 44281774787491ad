"""Install and start HKube's own wrapper for Node."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from . import npm

PROGRAM = Path(__file__).parents[1] / "algorithms" / "wrapped.js"
PACKAGE = "@hkube/nodejs-wrapper@2.1.3"
ZEROMQ = "zeromq@6.8.0"


def installed() -> Path:
    """Return the folder with node_modules; install the wrapper on first use.

    Its transport for streams would have to be compiled: it gets zeromq 6, which comes compiled, with its
    interface of version 5.
    """
    folder = npm.folder_with(PACKAGE, ZEROMQ)
    shutil.rmtree(folder / "node_modules/@hkube/worker-data-adapter/node_modules/zeromq", ignore_errors=True)
    file = folder / "node_modules/zeromq/package.json"
    package = json.loads(file.read_text())
    if package["main"] != "v5-compat.js":
        package["main"] = "v5-compat.js"
        package.pop("exports", None)
        changed = file.with_name(f"package.json.{os.getpid()}")
        changed.write_text(json.dumps(package))
        changed.replace(file)  # at once: a test beside this one may read it
    return folder


def variables(folder: Path, port: int, encoding: str) -> dict[str, str]:
    """Return the wrapper's environment; the URL selects storage v1."""
    return {
        "NODE_PATH": str(folder / "node_modules"),
        "WORKER_SOCKET_URL": f"ws://127.0.0.1:{port}",
        "WORKER_ALGORITHM_ENCODING": encoding,
    }
