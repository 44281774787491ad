"""Nothing heavy is imported before it is used: --version and the help of each command."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hkrunner.runner.cli.main import COMMANDS
from support.local import ALGORITHMS, run_tasks
from support.programs import HKRUNNER, run

HEAVY = {"websocket", "websockets", "tensorboard", "yaml", "bson", "rich", "multiprocessing", "numpy"}
HEAVY |= {"psutil", "msgspec", "asyncio", "subprocess", "ctypes", "watchfiles"}


def imported_by(*args: str, cwd: Path) -> set[str]:
    """Return the modules that the command has imported, as the interpreter itself tells it."""
    ended = run([sys.executable, "-X", "importtime", HKRUNNER, *args], cwd=cwd)
    assert ended.status == 0, ended
    lines = [line for line in ended.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


def heavy(names: set[str]) -> set[str]:
    return {name for name in names if name.partition(".")[0] in HEAVY}


@pytest.mark.parametrize("args", [("--version",), ("--help",), ("version",)], ids=" ".join)
def test_nothing_heavy_is_imported_to_answer(args: tuple[str, ...], tmp_path: Path) -> None:
    names = imported_by(*args, cwd=tmp_path)
    assert "click" in names
    assert heavy(names) == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_heavy_is_imported_for_the_help_of_a_command(name: str, tmp_path: Path) -> None:
    assert heavy(imported_by(name, "--help", cwd=tmp_path)) == set()


def test_the_version_is_reported_without_the_options(tmp_path: Path) -> None:
    ours = {name for name in imported_by("--version", cwd=tmp_path) if name.startswith("hkrunner.")}
    rooms = {"", ".cli", ".io"}
    modules = {".entry_point", ".cli.main", ".cli.lean_command", ".errors"}
    modules |= {".io.signals", ".io.standard_streams", ".io.lean_imports"}
    assert ours == {f"hkrunner.runner{name}" for name in rooms | modules}


def test_the_package_is_run_as_the_command_is(tmp_path: Path) -> None:
    as_package = run([sys.executable, "-m", "hkrunner", "--version"], cwd=tmp_path)
    as_command = run([HKRUNNER, "--version"], cwd=tmp_path)
    assert as_package.status == 0, as_package
    assert as_package.stdout == as_command.stdout


def test_the_doctor_loads_no_package_that_it_looks_at(tmp_path: Path) -> None:
    assert heavy(imported_by("doctor", cwd=tmp_path)) <= {"subprocess", "ctypes", "ctypes._endian"}


def copied(folder: Path) -> Path:
    """Return a copy of the program with nothing beside it."""
    folder.mkdir()
    entry = folder / "tells_what_is_imported.py"
    entry.write_text((ALGORITHMS / entry.name).read_text())
    return entry


def test_the_first_task_does_not_wait_for_what_makes_the_next_ones_faster(tmp_path: Path) -> None:
    run = run_tasks(copied(tmp_path / "code"), *[["msgspec", 1]] * 6, cwd=tmp_path)
    seen = [output[0] for output in run.outputs]
    # From a pause on, and after some tasks without one.
    assert seen[0] is False and seen[5] is True and seen == sorted(seen)


def test_a_large_result_imports_the_fast_encoder_at_once(tmp_path: Path) -> None:
    run = run_tasks(copied(tmp_path / "code"), ["msgspec", 5000], ["msgspec", 1], cwd=tmp_path)
    assert run.outputs == [[False, list(range(5000))], [True, [0]]]


@pytest.mark.parametrize("name", ["uuid.py", "msgspec", "inspect.py"])
def test_files_of_the_user_with_its_names_are_never_taken_for_it(name: str, tmp_path: Path) -> None:
    entry = copied(tmp_path / "code")
    own = entry.parent / name
    if own.suffix:
        own.write_text("raise RuntimeError('this was not asked for')\n")
    else:
        own.mkdir()
        (own / "__init__.py").write_text("raise RuntimeError('this was not asked for')\n")
    run = run_tasks(entry, *[["_hkrunner.sandbox.codec", 3000]] * 5, cwd=tmp_path)
    assert run.status == 0 and all(output[0] for output in run.outputs), run.stderr
