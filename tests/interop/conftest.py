"""Interop tests need another project's program to run: without one they are left out, and that is said."""

from __future__ import annotations

from support import python_wrapper

# In continuous integration as well: HKube's wrapper installs on Python 3.8 to 3.10 only, and where there is
# none of these there is nothing to try it with.
collect_ignore = [] if python_wrapper.find_python() is not None else ["test_python_wrapper.py"]


def pytest_report_header() -> list[str]:
    """Name what is left out."""
    return [f"left out: {name}: {python_wrapper.ABSENT}" for name in collect_ignore]
