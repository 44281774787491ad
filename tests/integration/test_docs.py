"""The documentation: it builds without a warning, its commands print what it shows, its links lead somewhere.

How a page is run: tests/support/pages.py.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import itertools
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest
from hkrunner.runner.cli.main import command as hkrunner_command
from support.pages import Reader, blocks, pattern
from support.ports import free_port
from support.programs import HKRUNNER, ROOT, run, run_hkrunner

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
WITH_COMMANDS = [
    page for page in PAGES if any(one.language == "console" for one in blocks(page.read_text("utf-8")))
]
NAMES = [str(page.relative_to(ROOT)) for page in WITH_COMMANDS]
#: The blocks that no test runs: page, how many.
NOT_RUN = {
    "README.md": 2,  # opens a browser, installs over the network
    "docs/how-to/pool.md": 2,  # needs a package that the tests do not have
    "docs/reference/boards.md": 2,  # opens a browser
    "docs/how-to/apply.md": 3,  # needs a cluster
    "docs/how-to/cluster.md": 1,  # builds an image
    "docs/how-to/debug.md": 1,  # a person types at a prompt
    "docs/how-to/image.md": 2,  # builds an image
    "docs/how-to/install-requirements.md": 1,  # installs over the network
    "docs/how-to/run-in-a-cluster.md": 5,  # needs a cluster
    "docs/how-to/serve.md": 1,  # needs a cluster
    "docs/how-to/streaming.md": 1,  # installs over the network
    "docs/how-to/untrusted-code.md": 1,  # what is refused depends on the machine
    "docs/explanation/performance.md": 1,  # takes many minutes
    "docs/tutorial.md": 1,  # installs over the network
}
COMPARISON = DOCS / "explanation" / "comparison.md"


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder as a reader has it: the examples, scripts/run, and hkrunner on PATH."""
    folder = tmp_path / "desk"
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "scripts").mkdir()
    (folder / "scripts" / "run").symlink_to(HKRUNNER)
    (folder / "runner" / "image").mkdir(parents=True)
    script = Path("runner", "image", "algorithm-entrypoint")
    (folder / script).symlink_to(ROOT / script)
    return folder


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=NAMES)
def test_the_commands_of_a_page_print_what_it_shows(page: Path, desk: Path) -> None:
    path = f"{HKRUNNER.parent}:{os.environ['PATH']}"
    env = {"PATH": path, "HOME": str(desk), "TMPDIR": str(desk), "COLUMNS": "80"}
    env["XDG_CACHE_HOME"] = str(desk / ".cache")
    port = str(free_port())  # not 3000, which another program may have
    with Reader(desk, {**env, "WORKER_SOCKET_PORT": port}) as reader:
        reader.follow(page)


def test_only_few_named_blocks_are_not_run_and_say_why() -> None:
    found: dict[str, int] = {}
    for page in PAGES:
        for block in blocks(page.read_text("utf-8")):
            if block.why_not is not None:
                assert len(block.why_not) > 10, f"{page.name}:{block.line} gives no reason"
                name = str(page.relative_to(ROOT))
                found[name] = found.get(name, 0) + 1
    assert found == NOT_RUN


@pytest.mark.parametrize(
    ("shown", "printed", "fits"),
    [
        (["6", "✔ t1 done in 2 ms"], "6\n✔ t1 done in 0.5 s\n", True),
        (["6"], "7\n", False),
        (["peak 8.7 MiB of 512 MiB"], "peak 1.1 GiB of 256 MiB\n", True),
        (["✔ t1 done"], "✘ t1 failed\n", False),
        (["a", "…", "b"], "a\nany\nlines\nb\n", True),
        (["a", "…", "b"], "a\nb\n", True),
        (["a", "…", "b"], "a\nc\n", False),
        (["▶ task b6thsibs  job 4ispixlx3ka6"], "▶ task t1  job 4ispixlx3ka6\n", False),
        (["one … two"], "one and two\n", True),
    ],
)
def test_a_page_may_differ_in_numbers_and_ids_alone(shown: list[str], printed: str, fits: bool) -> None:
    assert (re.fullmatch(pattern(shown), printed) is not None) is fits


def test_the_site_builds_without_a_warning_and_no_link_in_it_is_broken(tmp_path: Path) -> None:
    shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    shutil.copytree(ROOT / "runner" / "image", tmp_path / "runner" / "image")
    site = tmp_path / "site"
    sphinx = [sys.executable, "-I", "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html"]
    built = run([*sphinx, "-d", tmp_path / "trees", tmp_path / "docs", site], deadline_s=90)
    assert (built.status, built.stderr) == (0, ""), built.stderr
    checked = run([sys.executable, "-I", DOCS / "check.py", site])
    assert (checked.status, checked.stderr) == (0, ""), checked.stderr


def test_the_check_finds_what_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<h1 id="here">.</h1><a href="#here">.</a><a href="#gone">.</a><a href="gone.html">.</a>'
        '<script src="https://elsewhere.example/x.js"></script><a href="https://elsewhere.example/">.</a>'
    )
    checked = run([sys.executable, "-I", DOCS / "check.py", tmp_path])
    assert checked.status == 1
    assert [line.split(" ", 1)[1].split(",")[0].split(":")[0] for line in checked.stderr.splitlines()] == [
        "fetches https",
        "leads to #gone",
        "leads to gone.html",
    ]


def imported(name: str) -> ModuleType:
    """A file of docs/, imported without its folder staying on the path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS))
        spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return module


def test_the_pictures_show_the_table_as_it_is_and_every_row_that_matters_once() -> None:
    diagrams = imported("diagrams")
    assert diagrams.out_of_date() == [], "run: python docs/diagrams.py"
    drawn = [row for picture in diagrams.PICTURES for row in diagrams.rows(picture)]
    matters = [
        (state, event)
        for (state, event), row in diagrams.TABLE.items()
        if row.state is not state or row.actions
    ]
    assert sorted((state.value, event.value) for state, event, _ in drawn) == sorted(
        (state.value, event.value) for state, event in matters
    )


def test_json_has_the_types_and_nulls_of_the_reference(tmp_path: Path) -> None:
    imported("diagrams")
    fields = imported("generated").RESULT
    kinds = {"string": str, "integer": int, "number": (int, float), "object": dict, "any": object}
    seen_null: set[str] = set()
    for args in (["-i", "1", "-i", "x"], ["-i", "1", "--no-state", "--mem", "128Mi"], ["-i", "null"]):
        ended = run_hkrunner(
            ROOT / "examples" / "sum.py", *(a if a != "x" else '["x"]' for a in args), "--json", cwd=tmp_path
        )
        for line in ended.stdout.splitlines():
            told = json.loads(line)
            assert list(told) == list(fields)
            for name, value in told.items():
                if value is None:
                    seen_null.add(name)
                    assert fields[name].null, f"{name} is never null, says the reference"
                else:
                    assert isinstance(value, kinds[fields[name].kind]), f"{name} is {value!r}"
    assert seen_null >= {"reason", "error", "memLimitBytes", "metricsDir", "logs", "output"}


# ---- the comparison


def rows_of(head: str) -> Iterator[list[str]]:
    """The rows of the comparison's table that begins with `head`, each a list of its cells."""
    lines = iter(COMPARISON.read_text("utf-8").splitlines())
    assert any(line.startswith(head) for line in lines), f"there is no table {head}"
    next(lines)
    for line in lines:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("| ").split(" | ")]


def test_every_test_that_a_page_names_is_there() -> None:
    count = 0
    for page in PAGES:
        for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text("utf-8")):
            tree = ast.parse((ROOT / file).read_text("utf-8"))
            names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert name in names, f"{page.name}: there is no test {file}::{name}"
            count += 1
    assert count > 40


def test_every_cell_of_ours_in_the_comparison_is_backed_by_a_test_or_a_command() -> None:
    compared = [(row[0], row[1]) for row in rows_of("| feature | hkrunner |")]
    backed = [(row[0], row[1]) for row in rows_of("| feature | backed by |")]
    assert [feature for feature, _ in compared] == [feature for feature, _ in backed]
    assert len(backed) >= 25 and all(cell for _, cell in compared)
    for feature, cell in backed:
        commands = re.findall(r"`hkrunner( [^`]+)`", cell)
        assert commands or "`tests/" in cell, f"{feature}: nothing backs the cell"
        for words in commands:
            assert_known(words.split(), feature)


def assert_known(words: list[str], feature: str) -> None:
    """The words are commands and options that there are."""
    group: click.Command = hkrunner_command
    context = click.Context(group, info_name="hkrunner")
    if words[0].startswith("-") or "." in words[0]:
        words = ["run", *words]
    for word in words:
        if isinstance(group, click.Group):
            found = group.get_command(context, word)
            assert found is not None, f"{feature}: there is no command {word}"
            group = found
        elif word.startswith("-"):
            flags = {flag for one in group.params for flag in (*one.opts, *one.secondary_opts)}
            assert word.partition("=")[0] in flags, f"{feature}: there is no option {word}"


# ---- the page "The code in ten minutes"

CODE = DOCS / "explanation" / "code.md"
STEP = re.compile(r"^(\d+)\. `([\w/]+\.py)`: `([\w.]+)`(.*(?:\n   .*)*)", re.M)


@functools.cache
def defined(path: Path) -> set[str]:
    """The qualified names of everything that the file defines."""
    found: set[str] = set()

    def add(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                found.add(prefix + node.name)
                add(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    if isinstance(target, ast.Name):
                        found.add(prefix + target.id)

    add(ast.parse(path.read_text("utf-8")).body, "")
    return found


def ways() -> Iterator[list[tuple[Path, str, str]]]:
    """Each numbered list of the page: file, name, and the description."""
    way: list[tuple[Path, str, str]] = []
    for number, file, name, said in STEP.findall(CODE.read_text("utf-8")):
        if number == "1" and way:
            yield way
            way = []
        way.append((ROOT / file, name, said))
    yield way


def test_the_paths_through_the_code_name_existing_functions() -> None:
    steps = [step for way in ways() for step in way]
    assert len(steps) > 30
    missing = [f"{path.relative_to(ROOT)}: {name}" for path, name, _ in steps if name not in defined(path)]
    assert not missing


def test_each_step_of_a_path_through_the_code_leads_to_the_next() -> None:
    """By a call, which names the next function or its class; or by what both name on the page and in code."""
    broken = []
    for way in ways():
        for (path, name, said), (next_path, next_name, next_said) in itertools.pairwise(way):
            text, next_text = path.read_text("utf-8"), next_path.read_text("utf-8")
            called = {part.strip("_") for part in next_name.split(".")}
            carried = {*re.findall(r"`(\w+)`", said), name} & {*re.findall(r"`(\w+)`", next_said), next_name}
            if not (
                any(re.search(rf"\b_*{one}\b", text, re.IGNORECASE) for one in called)
                or any(re.search(rf"\b{one}\b", text) and one in next_text for one in carried)
                or f'"{next_path.name}"' in text  # executed by file
            ):
                broken.append(f"{path.relative_to(ROOT)}: {name} does not lead to {next_name}")
    assert not broken
