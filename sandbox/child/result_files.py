"""What is kept of a task in its folder: input.json and output.json, whole or not at all.

Python 3.8 and newer.
"""

from __future__ import annotations

import contextlib
import os
from typing import Callable, Optional, Sequence, Tuple

from ..codec import DONE_JSON
from ..codec.codec import Buffer
from ..shared.channel import write_all
from .frame_socket import move_high

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


class ResultFiles:
    """The files of one task. A full disk or a removed folder fails no task: it is reported."""

    def __init__(
        self,
        folder: Optional[str],
        keep_max_bytes: Optional[int],
        report: Callable[[str], None],
        *,
        recorded_bytes: int = 0,
    ) -> None:
        """`folder`: None when nothing is kept. `keep_max_bytes`: of a value; None: any size is kept.

        `recorded_bytes`: values up to this size are kept by the parent; then there may be no folder yet.
        """
        self._folder = folder
        self._keep_max_bytes = keep_max_bytes
        self._recorded_bytes = recorded_bytes
        self._report = report
        self._output: Optional[Tuple[int, str]] = None

    def wants(self, size: int) -> bool:
        """Whether a value of this size is kept here."""
        is_small = self._keep_max_bytes is None or size <= self._keep_max_bytes
        return self._folder is not None and is_small and size > self._recorded_bytes

    def write_input(self, data: Optional[bytes]) -> None:
        """Keep the input; None: it has no JSON form."""
        if self._folder is None or data is None:
            return
        part = os.path.join(self._folder, ".input.json.part")
        try:
            fd = os.open(part, _FLAGS, 0o666)
            try:
                write_all(fd, data)
            finally:
                os.close(fd)
            os.replace(part, os.path.join(self._folder, "input.json"))
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(part)
            self._not_kept("input.json", error)

    def prepare_output(self) -> None:
        """Make the file for the result now: a new file costs up to 0.2 ms, which is then no part of the time
        between start and done."""
        if self._folder is not None and not self._recorded_bytes:
            self._open_output()

    def _open_output(self) -> None:
        assert self._folder is not None, "something is kept"
        part = os.path.join(self._folder, ".output.json.part")
        try:
            self._output = (move_high(os.open(part, _FLAGS, 0o666)), part)
        except OSError as error:
            self._not_kept("output.json", error)

    def write_output(self, data: Optional[bytes]) -> None:
        """Keep the result; None: it has no JSON form."""
        if self._folder is None or data is None:
            return
        if self._recorded_bytes:
            with contextlib.suppress(OSError):  # there is one, or opening the file says why there is none
                os.mkdir(self._folder)
            self._open_output()
        if self._output is None:
            return
        fd, part = self._output
        try:
            write_all(fd, data)
            os.replace(part, os.path.join(self._folder, "output.json"))
        except OSError as error:
            self._not_kept("output.json", error)
        else:
            self._output = None
            os.close(fd)

    def close(self) -> None:
        """Remove the file that was prepared for a result, if none was written."""
        if self._output is not None:
            fd, part = self._output
            self._output = None
            with contextlib.suppress(OSError):
                os.unlink(part)
            with contextlib.suppress(OSError):  # the user's code may have closed it
                os.close(fd)

    def _not_kept(self, name: str, error: OSError) -> None:
        self._report(f"{name} was not kept: {error.strerror}")


def result_json(wire: Sequence[Buffer]) -> Optional[bytes]:
    """Return the result's own JSON out of a `done` message in JSON."""
    data = bytes(wire[0])
    return data[len(DONE_JSON) : -1] if data.startswith(DONE_JSON) else None
