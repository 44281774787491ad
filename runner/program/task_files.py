"""What is kept of a program's task in its folder: the input and the result, as JSON."""

from __future__ import annotations

from collections.abc import Callable

from ...sandbox.child.result_files import ResultFiles
from . import program_message

#: Largest value of bson or msgpack that is converted to JSON: the loop waits meanwhile.
TRANSLATED_MAX = 1024 * 1024


class TaskFiles:
    """The files of one task. What cannot be written is reported, and fails no task."""

    def __init__(
        self, encoding: str, folder: str | None, keep_max_bytes: int | None, report: Callable[[str], None]
    ) -> None:
        """`folder`: None when nothing is kept. `keep_max_bytes`: of a message; None: any size is kept."""
        self._encoding = encoding
        self._files = ResultFiles(folder, keep_max_bytes, report)
        self._report = report

    def write_input(self, initialize: bytes | memoryview) -> None:
        """Keep the input of the task, and prepare the file for its result."""
        if self._wants("input.json", len(initialize)):
            text = program_message.input_json(self._encoding, initialize)
            self._files.write_input(text if text is None else bytes(text))
        self._files.prepare_output()

    def write_output(self, done: bytes | memoryview, data_json: bytes | memoryview | None) -> None:
        """Keep the result in this message; `data_json`: its payload, where it is JSON."""
        if self._wants("output.json", len(done)):
            text = data_json if data_json is not None else program_message.result_json(self._encoding, done)
            self._files.write_output(text if text is None else bytes(text))

    def _wants(self, name: str, size: int) -> bool:
        if not self._files.wants(size):
            return False
        if self._encoding != "json" and size > TRANSLATED_MAX:
            self._report(f"{name} is not kept of a program's messages in {self._encoding} above 1 MiB")
            return False
        return True

    def close(self) -> None:
        """Remove the file that was prepared for a result, if none was written."""
        self._files.close()
