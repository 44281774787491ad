"""What no file of the repository may contain."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def tracked_texts() -> Iterator[tuple[str, str]]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in listed.decode().split("\0"):
        path = ROOT / name
        if name and path.is_file():
            content = path.read_bytes()
            if b"\0" not in content:
                yield name, content.decode("utf-8", "replace")


# Put together here, so that this file does not hold what it looks for.
HOSTS = ["pypi" + ".org", "python" + "hosted.org", "npmjs" + ".org", "npmjs" + ".com", "deb." + "debian.org"]
HOMES = ["root", "work", "farm", "opt/pypi", "opt/wheels"]
A_HOST = "|".join(map(re.escape, HOSTS))
# A slash that begins a path: not the one in examples/work, $root/work or ~/work.
A_HOME = rf"(?<![\w.$}}~*])/(?:{'|'.join(HOMES)})/"
FORBIDDEN = re.compile(f"{A_HOST}|{A_HOME}")


def test_no_file_names_a_registry_or_a_place_on_one_machine() -> None:
    hits = [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in tracked_texts()
        for number, line in enumerate(text.splitlines(), start=1)
        if FORBIDDEN.search(line)
    ]
    assert not hits, "\n".join(hits)


@pytest.mark.parametrize("line", ["cd /" + "work/main", "index https://" + HOSTS[0], "'/" + "root/.cache'"])
def test_the_search_for_forbidden_names_finds_them(line: str) -> None:
    assert FORBIDDEN.search(line)


@pytest.mark.parametrize("line", ["examples/work/a.py", "root / work", "$root/.venv", "/hkube/algorithm"])
def test_the_search_for_forbidden_names_ignores_others(line: str) -> None:
    assert not FORBIDDEN.search(line)


def test_no_test_is_skipped_or_expected_to_fail() -> None:
    words = {"skip", "skipif", "xfail", "importorskip", "skipTest", "skipUnless", "skipIf", "expectedFailure"}
    hits = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {node.attr}"
        for file in sorted((ROOT / "tests").rglob("*.py"))
        if "algorithms" not in file.parts
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file)))
        if isinstance(node, ast.Attribute) and node.attr in words
    ]
    assert not hits, "\n".join(hits)
