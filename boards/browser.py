"""Asks the user's browser to show a page.

In a process of its own: a browser may stay in the foreground or take seconds to start, and a running hkrunner
must not wait for it. The address goes through stdin: it is a secret, and every user can read arguments.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time

from ..sandbox.parent import orphan_cleanup

_SHOW = "import sys, webbrowser; sys.exit(not webbrowser.open(sys.stdin.readline().strip()))"


class BrowserProcess:
    """The process that asks the browser; made by show()."""

    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self._process = process
        self._url = url
        self._began = time.monotonic()

    def problem(self, *, deadline_s: float = 0.0) -> str | None:
        """Return a sentence if no browser could be started; None if nothing is wrong by the deadline.

        `deadline_s`: since it was started. A browser that stays in the foreground is waited for once only.
        """
        left = max(0.0, self._began + deadline_s - time.monotonic())
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._process.wait(left) != 0:
                return f"no browser could be started; open {self._url} in one"
        return None

    @property
    def has_ended(self) -> bool:
        """Whether the browser was asked, or there is none."""
        return self._process.poll() is not None

    def detach(self) -> None:
        """Stop waiting for the process: a browser runs for as long as its user wants."""
        if self._process.poll() is None:
            orphan_cleanup.leave(self._process)
            self._process.returncode = 0  # else Popen warns that the process still runs


def show_and_detach(url: str, *, deadline_s: float) -> str | None:
    """Ask the browser to show the page; return what is wrong by the deadline, or None. Raises OSError."""
    browser = show(url)
    problem = browser.problem(deadline_s=deadline_s)
    browser.detach()
    return problem


def show(url: str) -> BrowserProcess:
    """Ask the browser that BROWSER names, or the system's, to show the page; never waits. Raises OSError."""
    # A session of its own: Ctrl-C is meant for hkrunner, not for the browser.
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", _SHOW],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        bufsize=0,
    )
    orphan_cleanup.spare(process)
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin:
        process.stdin.write(f"{url}\n".encode())
    return BrowserProcess(process, url)
