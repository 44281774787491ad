"""HKube's own wrapper for Node, as its users start it."""

from __future__ import annotations

from pathlib import Path

from . import npm

PROGRAM = Path(__file__).parents[1] / "algorithms" / "wrapped.js"
PACKAGE = "@hkube/nodejs-wrapper@2.1.3"
#: Its streams' transport is compiled on installation; storage v1 does without it.
NO_STREAMS = "module.exports = new Proxy({}, { get: () => class {} });\n"


def installed() -> Path:
    """Return the folder that holds node_modules, made if need be."""
    folder = npm.folder_with(PACKAGE)
    (folder / "node_modules" / "zeromq" / "index.js").write_text(NO_STREAMS)
    return folder


def variables(folder: Path, port: int, encoding: str) -> dict[str, str]:
    """Return the environment of the wrapper. A URL makes it take storage v1."""
    return {
        "NODE_PATH": str(folder / "node_modules"),
        "WORKER_SOCKET_URL": f"ws://127.0.0.1:{port}",
        "WORKER_ALGORITHM_ENCODING": encoding,
    }
