"""Install and start HKube's own wrapper for Node."""

from __future__ import annotations

from pathlib import Path

from . import npm

PROGRAM = Path(__file__).parents[1] / "algorithms" / "wrapped.js"
PACKAGE = "@hkube/nodejs-wrapper@2.1.3"
#: The transport for streams, which would be compiled on installation; storage v1 does not need it.
NO_STREAMS = "module.exports = new Proxy({}, { get: () => class {} });\n"


def installed() -> Path:
    """Return the folder with node_modules; install the wrapper on first use."""
    folder = npm.folder_with(PACKAGE)
    (folder / "node_modules" / "zeromq" / "index.js").write_text(NO_STREAMS)
    return folder


def variables(folder: Path, port: int, encoding: str) -> dict[str, str]:
    """Return the wrapper's environment; the URL selects storage v1."""
    return {
        "NODE_PATH": str(folder / "node_modules"),
        "WORKER_SOCKET_URL": f"ws://127.0.0.1:{port}",
        "WORKER_ALGORITHM_ENCODING": encoding,
    }
