"""Code that cannot be loaded is reported before any task, with the exit status of its kind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.local import ALGORITHMS
from support.programs import run_hkrunner

FAILS = {
    "syntax_error": (
        4,
        "IMPORT_FAILED: SyntaxError: ",
        ["(syntax_error.py:5, read by Python 3.", "return args["],
    ),
    "indentation_error": (4, "IMPORT_FAILED: IndentationError: ", ["indentation_error.py:7"]),
    "has_a_null_byte": (4, "IMPORT_FAILED: ", ["null bytes", "(has_a_null_byte.py); Python reads UTF-8"]),
    "imports_missing_module": (
        4,
        "IMPORT_FAILED: ModuleNotFoundError: No module named 'a_package_that_nobody_has'",
        [f"python: {sys.executable}", "imports_missing_module.py:3"],
    ),
    "has_no_start": (
        4,
        "ENTRY_INVALID: has_no_start.py has no function start(args, api); it has: main, helper",
        [],
    ),
    "start_is_no_function": (4, "ENTRY_INVALID: start in start_is_no_function.py is no function but int", []),
    "start_wants_three": (
        4,
        "ENTRY_INVALID: start in start_wants_three.py wants (args, api, model); ",
        ["it is called with (args, api)"],
    ),
    "start_wants_a_keyword": (
        4,
        "ENTRY_INVALID: start in start_wants_a_keyword.py wants (args, *, model)",
        [],
    ),
    "raises_at_import": (
        4,
        "IMPORT_FAILED: FileNotFoundError: model.bin is not there during import",
        ["raises_at_import.py:5 in read_model"],
    ),
    "interrupted_at_import": (4, "IMPORT_FAILED: KeyboardInterrupt", ["during import"]),
    "exits_at_import": (4, "EXITED: sys.exit(0) ended the algorithm during import", []),
    "exits_at_once_at_import": (4, "EXITED: the algorithm ended its process with code 3 during import", []),
    "crashes_at_import": (4, "KILLED_BY_SIGNAL: ", ["SIGSEGV", "during import", "crashes_at_import.py"]),
}


@pytest.mark.parametrize("algorithm", FAILS)
def test_code_that_cannot_be_loaded_is_reported_before_any_task(algorithm: str, tmp_path: Path) -> None:
    status, begins, parts = FAILS[algorithm]
    ended = run_hkrunner("--entry", ALGORITHMS / f"{algorithm}.py", "--input", "1", cwd=tmp_path)
    assert ended.status == status, ended
    assert ended.stdout == ""
    assert f"✘ {begins}" in ended.stderr
    for part in parts:
        assert part in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.glob(".hkrunner/tasks/*"))


def test_code_that_cannot_be_loaded_ends_with_json_asked_for_too(tmp_path: Path) -> None:
    ended = run_hkrunner("--entry", ALGORITHMS / "has_no_start.py", "-i", "1", "-i", "2", "-j", cwd=tmp_path)
    assert (ended.status, ended.stdout) == (4, "")


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("missing.py", "ENTRY_NOT_FOUND: no file missing.py in "),
        ("missing_folder/", "ENTRY_NOT_FOUND: "),
        (ALGORITHMS / "folder_without_main", "no main.py in the folder"),
        ("notes.ipynb", "is a notebook; save its code as a .py file"),
        ("notes.txt", "is no Python file"),
    ],
)
def test_a_missing_entry_is_reported_in_one_sentence(
    entry: str | Path, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("notes")
    ended = run_hkrunner("--entry", entry, "--input", "1", cwd=tmp_path)
    assert (ended.status, ended.stdout) == (3, "")
    assert sentence in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / ".hkrunner").exists()


@pytest.mark.parametrize(("entry", "module"), [("no_such.module", "no_such"), ("model.pkl", "model")])
def test_a_dotted_name_of_nothing_is_no_missing_package(entry: str, module: str, tmp_path: Path) -> None:
    ended = run_hkrunner(entry, "--input", "1", cwd=tmp_path)
    assert (ended.status, ended.stdout) == (3, "")
    said = f"ENTRY_NOT_FOUND: no file {entry} in {tmp_path}, and no module {module} is installed (python: "
    assert said in ended.stderr and len(ended.stderr.splitlines()) == 1


def test_a_folder_without_main_names_what_it_holds(tmp_path: Path) -> None:
    ended = run_hkrunner("--entry", ALGORITHMS / "folder_without_main", "--input", "1", cwd=tmp_path)
    assert "there is: first.py, second.py: name one with --entry" in ended.stderr


def test_much_output_at_import_blocks_nothing(tmp_path: Path) -> None:
    ended = run_hkrunner("--entry", ALGORITHMS / "prints_much_at_import.py", "--input", "1", cwd=tmp_path)
    assert (ended.status, ended.stdout) == (0, '"served"\n')
