"""Declared once: a copy gets a limit and an error code, each added in one place, and has them everywhere."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from support.local import ALGORITHMS
from support.programs import ROOT, Result, run

#: What is added to sandbox/shared/limits.py, as the first limit.
LIMIT = """    moons: Annotated[
        int | None, Limit("--moons", Unit.COUNT, "moons in sight", "Number of moons.", "MOON_LIMIT", least=2)
    ] = None
"""
#: The end of the docstring of Limits.
BEFORE_LIMITS = """with its declaration, and the code that enforces it.
    \"\"\"

"""
#: What is added to runner/protocol/error_codes.py, as the first code.
CODE = """    "MOON_LIMIT": ErrorCode("More moons than allowed.", "Look elsewhere.", CPU_LIMIT, 77),
"""


def insert(file: Path, after: str, text: str) -> None:
    source = file.read_text("utf-8")
    assert source.count(after) == 1, f"{file.name}: {after}"
    file.write_text(source.replace(after, after + text), "utf-8")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a copy of the package hkrunner, with the two additions, is imported from."""
    site = tmp_path_factory.mktemp("site")
    package = site / "hkrunner"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("runner", "sandbox", "boards", "docs"):
        shutil.copytree(ROOT / name, package / name, ignore=ignored)
    for name in ("__init__.py", "__main__.py"):
        shutil.copy(ROOT / name, package)
    limits = package / "sandbox" / "shared" / "limits.py"
    insert(limits, BEFORE_LIMITS, LIMIT)
    insert(package / "runner" / "protocol" / "error_codes.py", "CODES: dict[str, ErrorCode] = {\n", CODE)
    return site


def python(copy: Path, *arguments: str | Path, env: dict[str, str | None] | None = None) -> Result:
    """Run Python with the copy for the package."""
    ended = run(
        [sys.executable, "-B", *arguments],
        cwd=copy,
        env={"PYTHONPATH": str(copy), "COLUMNS": "200", "HKRUNNER_MOONS": None, **(env or {})},
    )
    assert ended.status == 0, ended
    return ended


def hkrunner(copy: Path, *arguments: str | Path, env: dict[str, str | None] | None = None) -> str:
    return python(copy, "-m", "hkrunner", *arguments, env=env).stdout


def test_the_installed_copy_is_run(copy: Path) -> None:
    assert python(copy, "-c", "import hkrunner; print(hkrunner.__file__)").stdout.startswith(str(copy))


@pytest.mark.parametrize("command", ["run", "worker", "validate"])
def test_a_limit_is_an_option_of_each_command_that_limits_an_algorithm(copy: Path, command: str) -> None:
    (line,) = (one for one in hkrunner(copy, command, "--help").splitlines() if "--moons N" in one)
    assert "Number of moons." in line and "[env var: HKRUNNER_MOONS]" in line


def test_the_plan_shows_a_limit_and_where_it_comes_from(copy: Path) -> None:
    args = ("--entry", ALGORITHMS / "adds.py", "-i", "[1]", "--dry-run", "--no-state")
    assert "  limit      moons in sight 3 (--moons)" in hkrunner(copy, *args, "--moons=3").splitlines()
    told = json.loads(hkrunner(copy, *args, "--json", env={"HKRUNNER_MOONS": "4"}))
    assert {"name": "moons in sight", "value": 4, "shown": "4", "from": "HKRUNNER_MOONS"} in told["limits"]


def test_a_value_below_the_least_is_refused_by_the_options_name(copy: Path) -> None:
    ended = run(
        [sys.executable, "-B", "-m", "hkrunner", ALGORITHMS / "adds.py", "--moons", "1"],
        cwd=copy,
        env={"PYTHONPATH": str(copy)},
    )
    assert (ended.status, ended.stderr) == (2, "hkrunner: --moons wants a whole number from 2 on, not '1'\n")


def test_a_limit_is_a_keyword_of_run(copy: Path) -> None:
    entry = str(ALGORITHMS / "adds.py")
    told = python(
        copy,
        "-c",
        "import hkrunner, inspect, json\n"
        "parameter = inspect.signature(hkrunner.run).parameters['moons']\n"
        f"(result,) = hkrunner.run({entry!r}, [[1, 2]], moons=3)\n"
        "print(json.dumps([parameter.annotation, parameter.default, result.output, hkrunner.run.__doc__]))",
    ).stdout
    annotation, default, output, doc = json.loads(told)
    assert (annotation, default, output) == ("int | None", None, 3)
    assert "Number of moons." in doc


def test_a_repeated_task_has_the_limit_that_it_ran_with(copy: Path, tmp_path: Path) -> None:
    state = ("--state-dir", tmp_path)
    hkrunner(copy, ALGORITHMS / "adds.py", "-i", "[1]", "--moons=5", *state)
    told = json.loads(hkrunner(copy, "--again", "t1", "--dry-run", "--json", *state))
    assert [one["value"] for one in told["limits"]] == [5]


def test_the_warden_gets_the_limit(copy: Path) -> None:
    told = python(
        copy,
        "-c",
        "from hkrunner.sandbox.shared.limits import Limits\n"
        "print(Limits.from_json(Limits(moons=6).to_json()).moons)",
    ).stdout
    assert told == "6\n"


def test_the_reference_has_the_option_its_variable_and_the_code(copy: Path) -> None:
    pages = python(
        copy,
        "-c",
        "import sys; sys.path.insert(0, 'hkrunner/docs'); import generated\n"
        "for part in ('options', 'worker options', 'environment', 'codes'): print(generated.PARTS[part]())",
    ).stdout
    assert "| `--moons N` | Number of moons. | none | `HKRUNNER_MOONS` |" in pages
    assert "| `HKRUNNER_MOONS` | `--moons` |" in pages
    assert "`--moons`, " in pages.partition("have the same meaning as for `hkrunner run`")[2]
    section = pages.partition("## MOON_LIMIT\n")[2].partition("\n## ")[0]
    assert "More moons than allowed." in section and "- **Limit:** `--moons`" in section
    assert "`reason` is `CpuLimit`, the exit status `77`" in section


def test_a_code_is_explained_with_its_limit(copy: Path) -> None:
    told = hkrunner(copy, "explain", "MOON_LIMIT")
    assert "  what    More moons than allowed." in told and "  limit   --moons" in told
    assert "  --json  reason CpuLimit" in told and "  exit    status 77 " in told
    assert "MOON_LIMIT" in hkrunner(copy, "explain", "77")


def test_a_result_with_the_code_has_its_reason_and_exit_status(copy: Path) -> None:
    told = python(
        copy,
        "-c",
        "from hkrunner.runner.protocol.messages import Failure\n"
        "from hkrunner.runner.protocol.result import Result\n"
        "one = Result('t', 'j', 'n', 'p', 'failed', 0, 1, 1, failure=Failure('MOON_LIMIT', 'too many'))\n"
        "print(one.facts()['reason'], one.exit_status)",
    ).stdout
    assert told == "CpuLimit 77\n"
