"""Interop tests need another project's program to run: without one they are left out, with a message."""

from __future__ import annotations

from support import npm, python_wrapper

# In continuous integration as well: HKube's wrapper installs on Python 3.8 to 3.10 only, and where there is
# none of these there is nothing to try it with.
PYTHON = ("test_python_wrapper.py", "test_python_wrapper_streams.py", "test_peers.py")
NODE = (
    "test_hkube_encoding.py",
    "test_node_wrapper.py",
    "test_node_wrapper_streams.py",
    "test_socketio.py",
)
ABSENT = {
    **({} if python_wrapper.find_python() is not None else dict.fromkeys(PYTHON, python_wrapper.ABSENT)),
    **({} if npm.is_there() else dict.fromkeys(NODE, npm.ABSENT)),
}
collect_ignore = list(ABSENT)


def pytest_report_header() -> list[str]:
    """Name what is left out."""
    return [f"left out: {name}: {why}" for name, why in ABSENT.items()]
