"""Install and start HKube's own wrapper for Node."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from . import npm

PROGRAM = Path(__file__).parents[1] / "algorithms" / "wrapped.js"
PACKAGE = "@hkube/nodejs-wrapper@2.1.3"
ZEROMQ = "zeromq@6.8.0"
#: The transport for streams, which would be compiled on installation; storage v1 does not need it.
NO_STREAMS = "module.exports = new Proxy({}, { get: () => class {} });\n"


def installed() -> Path:
    """Return the folder with node_modules; install the wrapper on first use."""
    folder = npm.folder_with(PACKAGE)
    (folder / "node_modules" / "zeromq" / "index.js").write_text(NO_STREAMS)
    return folder


def installed_with_streams() -> Path:
    """Return the folder with node_modules in which the wrapper has its transport for streams.

    That is zeromq 6, which comes compiled, with its interface of version 5 for the wrapper.
    """
    folder = npm.folder_with(PACKAGE, ZEROMQ)
    shutil.rmtree(folder / "node_modules/@hkube/worker-data-adapter/node_modules/zeromq", ignore_errors=True)
    file = folder / "node_modules/zeromq/package.json"
    package = {**json.loads(file.read_text()), "main": "v5-compat.js"}
    package.pop("exports", None)
    file.write_text(json.dumps(package))
    return folder


def variables(folder: Path, port: int, encoding: str) -> dict[str, str]:
    """Return the wrapper's environment; the URL selects storage v1."""
    return {
        "NODE_PATH": str(folder / "node_modules"),
        "WORKER_SOCKET_URL": f"ws://127.0.0.1:{port}",
        "WORKER_ALGORITHM_ENCODING": encoding,
    }
