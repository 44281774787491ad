"""Install what HKube wrote and the interop tests run: python -m support.interop_packages.

Each test that needs one of these installs it, if it is missing; the first one would wait for up to a minute.
"""

from __future__ import annotations

from . import node_wrapper, npm, python_wrapper, socketio_worker

#: HKube's encoding for Node.
ENCODING = "@hkube/encoding@2"

if __name__ == "__main__":
    if npm.is_there():
        node_wrapper.installed()
        npm.folder_with(socketio_worker.PACKAGE)
        npm.folder_with(ENCODING)
    python = python_wrapper.find_python()
    if python is not None:
        python_wrapper.environment(python)
