"""HKube's worker and the algorithm beside it, which Kubernetes would run in one pod."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from services import ControlPlane


class Pod:
    """One pod; what has ended is started again by keep(), as Kubernetes does."""

    def __init__(
        self, plane: ControlPlane, algorithm: str, words: Sequence[str], folder: Path, **variables: str
    ) -> None:
        """Nothing is started. `words` and `variables`: of the program that is the algorithm."""
        self._plane = plane
        self._algorithm = algorithm
        self._words = list(words)
        self._folder = folder
        self._variables = variables
        self.worker = f"worker of {algorithm}"
        self.program = algorithm
        self.restarts = 0

    def start(self, **variables: str) -> None:
        """Start both, with these variables of the program besides."""
        self._variables = {**self._variables, **variables}
        self._start_worker()
        self._start_program()

    def stop(self) -> None:
        """End both, if they run."""
        self._plane.stop(self.program)
        self._plane.stop(self.worker)

    def is_running(self) -> bool:
        """Whether neither has ended."""
        return all(self._plane.is_running(name) for name in (self.worker, self.program))

    def keep(self) -> None:
        """Start again what has ended. The worker ends itself when its algorithm has gone."""
        gone = [name for name in (self.worker, self.program) if not self._plane.is_running(name)]
        if not gone:
            return
        self.restarts += 1
        if self.program in gone:
            self._plane.wait_for_end(self.worker)
            self._plane.stop(self.program)
        self._plane.stop(self.worker)
        self._start_worker()
        if self.program in gone:
            self._start_program()

    def _start_worker(self) -> None:
        self._plane.run_worker(self._algorithm, self.worker, is_developed=False)

    def _start_program(self) -> None:
        self._plane.start_program(self.program, self._words, self._folder, self.worker, self._variables)
