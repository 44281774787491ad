"""hkrunner in surroundings that lack something, which it names in one sentence."""

from __future__ import annotations

from pathlib import Path

from .programs import HKRUNNER, Result, run


def run_in(folder: Path, prelude: str, *args: str | Path) -> Result:
    """Run hkrunner by a shell that executes the prelude first."""
    return run(["sh", "-c", f'{prelude} exec "$0" "$@"', HKRUNNER, *args], cwd=folder)


def one_sentence(ended: Result, said: str) -> None:
    """Check that it has said this on stderr, in one line and with nothing else."""
    assert "Traceback" not in ended.stderr, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert said in line
