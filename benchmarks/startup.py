"""What hkrunner's commands cost over a bare interpreter, before they do anything.

    scripts/bench startup [--rounds 15] [--json]

Each round starts the bare interpreter and each command once, one after the other, so that all have the same
noise; the figure is the difference of the two.
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
# As the command itself is started: with its site-packages.
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
    """Run it to its end."""
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
            took_ms(command, folder)  # its files are in the page cache, compiled

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
