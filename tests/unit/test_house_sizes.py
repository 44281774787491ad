"""Files and classes of the product stay small, and say why they take any error."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("runner", "sandbox", "boards")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
LONGEST_FILE = 400
MOST_METHODS = 25
#: In the docstring or the first comment of a longer file, before the reason why it is not divided.
REASON = re.compile(rf"(?i)longer than {LONGEST_FILE} lines[,:]? (?:because|since) \w+")


def is_too_long(text: str) -> bool:
    """Whether a file has too many lines, and does not begin with the reason."""
    if len(text.splitlines()) <= LONGEST_FILE:
        return False
    first_comment = re.match(r"(?:#.*\n)*", text)
    assert first_comment is not None
    beginning = f"{ast.get_docstring(ast.parse(text)) or ''} {first_comment.group()}"
    return not REASON.search(re.sub(r"[\s#]+", " ", beginning))


def classes_with_too_many_methods(text: str) -> list[str]:
    """Return the classes, nested ones too, with more methods than a reader can keep in mind."""
    return [
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef)
        and sum(isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) for one in node.body) > MOST_METHODS
    ]


def test_a_file_of_ours_is_short_or_says_why_it_is_not() -> None:
    files = [file for file in SOURCES if is_too_long(file.read_text(encoding="utf-8"))]
    assert not files, "\n".join(map(str, files))


def test_a_class_of_ours_has_few_methods() -> None:
    found = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in SOURCES
        for name in classes_with_too_many_methods(file.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("beginning", "lines", "too_long"),
    [
        ('"""A file."""', 400, False),
        ('"""A file."""', 401, True),
        ('"""A file.\n\nLonger than 400 lines, since the table\nis read as a whole.\n"""', 401, False),
        ("# Longer than 400\n# lines: because it is generated.", 401, False),
        ('"""Longer than 400 lines."""', 401, True),
        ('"""A file."""\n\n# Longer than 400 lines, since nobody divided it.', 401, True),
    ],
    ids=["at the limit", "above it", "a reason", "a reason in a comment", "no reason", "a later comment"],
)
def test_long_files_are_found(beginning: str, lines: int, too_long: bool) -> None:
    text = beginning + "\nNUMBER = 1" * (lines - beginning.count("\n") - 1) + "\n"
    assert len(text.splitlines()) == lines
    assert is_too_long(text) is too_long


@pytest.mark.parametrize("methods", [MOST_METHODS, MOST_METHODS + 1])
def test_large_classes_are_found(methods: int) -> None:
    body = "".join(f"        async def m{number}(self): ...\n" for number in range(methods))
    found = classes_with_too_many_methods(f"class Small:\n    class Large:\n{body}")
    assert found == (["Large"] if methods > MOST_METHODS else [])


#: Code that takes any error, with what follows on its line.
TAKES_ALL = re.compile(r"(?:noqa: BLE001|suppress\((?:Base)?Exception\):)(.*)")


def is_unexplained(line: str, above: str) -> bool:
    """Whether a line takes any error, and neither it nor a comment above says why."""
    found = TAKES_ALL.search(line)
    return found is not None and not re.match(r" +[-#] \w", found[1]) and not above.lstrip().startswith("# ")


def test_what_takes_any_error_says_why() -> None:
    unexplained = []
    for file in SOURCES:
        above = ""
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            if is_unexplained(line, above):
                unexplained.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()}")
            above = line
    assert not unexplained, "\n".join(unexplained)


@pytest.mark.parametrize(
    ("above", "line", "expected"),
    [
        ("try:", "except Exception:  # noqa: BLE001 - a plugin", False),
        ("try:", "except Exception:  # noqa: BLE001", True),
        ("x = 1", "with suppress(Exception):  # a plugin", False),
        ("x = 1", "with suppress(Exception):", True),
        ("    # A plugin.", "    with suppress(Exception):", False),
        ("x = 1", "with suppress(OSError):", False),
    ],
)
def test_an_unexplained_line_is_found(above: str, line: str, expected: bool) -> None:
    assert is_unexplained(line, above) is expected
