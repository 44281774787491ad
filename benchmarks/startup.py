"""Measure the start of hkrunner's commands, compared with a bare interpreter.

    scripts/bench startup [--rounds 15] [--json]

Each round starts the bare interpreter and each command once, so that all have the same noise; a figure is the
difference between a command and the bare interpreter.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from report import Bar, Report, interleaved, to_json

HKRUNNER = str(Path(sysconfig.get_path("scripts"), "hkrunner"))
# Not isolated (-I), so that it processes site-packages as the command does.
BARE = [sys.executable, "-c", ""]
COMMANDS = {
    "--version": [HKRUNNER, "--version"],
    "--help": [HKRUNNER, "--help"],
    "doctor": [HKRUNNER, "doctor"],
}
BARS = [
    Bar("--version over bare", 80.0, is_ratio=False),
    Bar("--help over bare", 150.0, is_ratio=False),
    Bar("doctor over bare", 1000.0, is_ratio=False),
]


def took_ms(command: list[str], cwd: str) -> float:
    """Run the command to its end; return the time in ms."""
    began = time.perf_counter()
    ended = subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    seconds = time.perf_counter() - began
    if ended.stderr:
        raise RuntimeError(f"{' '.join(command)}: {ended.stderr.decode(errors='replace')}")
    return seconds * 1000


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    report = Report(f"startup: {options.rounds} rounds")
    with tempfile.TemporaryDirectory(prefix="hkrunner-bench-") as folder:
        for command in (BARE, *COMMANDS.values()):
            took_ms(command, folder)  # warm-up: afterwards its files are compiled and in the page cache

        def measure(name: str) -> None:
            bare = took_ms(BARE, folder)
            report.add("bare interpreter", "ms", "hkrunner", bare)
            report.add(f"{name} over bare", "ms", "hkrunner", took_ms(COMMANDS[name], folder) - bare)

        interleaved(options.rounds, list(COMMANDS), measure)
    facts = report.facts(BARS, "hkrunner")
    print(to_json(facts) if options.json else report.text(BARS, "hkrunner"))
    return 1 if any(bar["holds"] is False for bar in facts["bars"]) else 0


if __name__ == "__main__":
    sys.exit(main())
