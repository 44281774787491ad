"""The architecture: which package may import which, and what a wheel holds."""

from __future__ import annotations

import ast
import functools
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.programs import run

ROOT = Path(__file__).parents[2]
FOLDERS = ("runner", "sandbox", "boards")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
START = ROOT / "sandbox" / "start.py"
# Run by the child's interpreter, which is the user's and may be as old as this.
CHILD_PYTHON = (3, 8)


@dataclass(frozen=True)
class Import:
    """One import statement's target; ours is a path below the root without suffix, as parts."""

    file: Path
    line: int
    name: str
    ours: tuple[str, ...] | None
    is_guarded: bool

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.name}"


def imports_of(file: Path) -> Iterator[Import]:
    """All imports of the file. Guarded: inside a function, a try block or a block for type checkers only."""
    yield from _imports(file, ast.parse(file.read_text(encoding="utf-8"), str(file)), is_guarded=False)


def _imports(file: Path, node: ast.AST, *, is_guarded: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(file, node.lineno, alias.name, None, is_guarded)
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
        name = node.module or ""
        yield Import(file, node.lineno, name, _of_start(file, name), is_guarded)
    elif isinstance(node, ast.ImportFrom):
        package = file.relative_to(ROOT).parent.parts
        base = (*package[: len(package) - (node.level - 1)], *(node.module.split(".") if node.module else ()))
        for alias in node.names:
            ours = (*base, alias.name) if module_file((*base, alias.name)).exists() else base
            yield Import(file, node.lineno, "." * node.level + ".".join(ours), ours, is_guarded)
    for child in ast.iter_child_nodes(node):
        yield from _imports(file, child, is_guarded=is_guarded or _guards(node))


def _of_start(file: Path, name: str) -> tuple[str, ...] | None:
    """What sandbox/start.py, which is run by file, imports under its private name for this folder."""
    package, *parts = name.split(".")
    return tuple(parts) if file == START and package == "_hkrunner" else None


def _guards(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.Try))


def module_file(parts: tuple[str, ...]) -> Path:
    path = ROOT.joinpath(*parts)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def all_imports() -> list[Import]:
    """Every import of the product. Not read when pytest collects, which it does in each of its processes."""
    return [found for file in SOURCES for found in imports_of(file)]


def broken(rule: Iterator[Import]) -> str:
    return "\n".join(str(found) for found in rule)


def test_our_folders_import_each_other_by_relative_imports_only() -> None:
    ours = {"hkrunner", "_hkrunner", *FOLDERS}
    assert not broken(found for found in all_imports() if not found.ours and found.name.split(".")[0] in ours)


#: A room may import the rooms of its own group that stand below it, and those of the groups in GROUPS.
#: A room is a package, or a module beside the packages; those of one line may not import each other.
ROOMS: dict[str, list[tuple[str, ...]]] = {
    "sandbox": [
        ("start",),
        ("parent",),
        ("child", "warden"),
        ("isolation",),
        ("usage",),
        ("codec", "linux", "typing_stand_in"),
        ("shared",),
        ("importable",),
    ],
    "boards": [
        ("start",),
        ("rest_server",),
        ("rest_routes",),
        ("manager", "report", "tensorboard"),
        ("board_child", "spawn"),
        ("board_record", "browser", "end_with_owner", "targets"),
        ("runs",),
        ("errors",),
    ],
    "runner": [
        ("pytest_plugin",),
        ("python_api",),
        ("entry_point",),
        ("cli",),
        ("app",),
        ("local_stream",),
        ("serving",),
        ("cluster", "image", "program", "streaming"),
        ("console", "prepare"),
        ("worker_stub",),
        ("storage",),
        ("link", "settings"),
        ("protocol", "io"),
        ("errors",),
    ],
}
GROUPS = {"sandbox": {"sandbox"}, "boards": {"boards", "sandbox"}, "runner": {"runner", "boards", "sandbox"}}
#: The rooms of runner that know of boards.
KNOW_BOARDS = {"app", "serving", "console", "cli"}
#: The root module's version and names, for the command line.
KNOW_THE_ROOT = {"runner.cli", "runner.entry_point"}


def room_of(parts: tuple[str, ...]) -> str:
    """Return `runner.link` for runner/link/outbox.py, `runner` for that package, `root` for the root."""
    return ".".join(parts[:2]) if parts else "root"


def may_import(importer: str, imported: str) -> bool:
    """Whether the table allows it."""
    if importer == imported:
        return True
    if imported == "root":
        return importer in KNOW_THE_ROOT
    group, _, room = importer.partition(".")
    other_group, _, other_room = imported.partition(".")
    if group != other_group or not other_room:
        return other_group in GROUPS[group] and (other_group != "boards" or room in KNOW_BOARDS)
    height = {name: level for level, row in enumerate(ROOMS[group]) for name in row}
    return height[room] < height[other_room]


def importer_of(found: Import) -> str:
    return room_of(found.file.relative_to(ROOT).with_suffix("").parts)


def test_a_room_imports_only_what_the_table_allows() -> None:
    assert not broken(
        found
        for found in all_imports()
        if found.ours is not None and not may_import(importer_of(found), room_of(found.ours))
    )


def test_the_table_has_every_room_and_no_other() -> None:
    there = {
        f"{folder}.{path.stem}"
        for folder in FOLDERS
        for path in (ROOT / folder).iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and path.name != "__init__.py"
    }
    assert there == {f"{group}.{name}" for group, rows in ROOMS.items() for row in rows for name in row}


@pytest.mark.parametrize(
    ("importer", "imported", "may"),
    [
        ("runner.cli", "runner.app", True),
        ("runner.app", "runner.cli", False),
        ("runner.link", "runner.settings", False),
        ("runner.link", "boards.runs", False),
        ("runner.serving", "boards.runs", True),
        ("sandbox.child", "runner.protocol", False),
        ("boards.runs", "sandbox.linux", True),
        ("boards.runs", "boards.manager", False),
        ("runner.io", "root", False),
    ],
)
def test_the_table_allows_and_forbids_imports(importer: str, imported: str, may: bool) -> None:
    assert may_import(importer, imported) is may


def circles(edges: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Return each set of nodes that reach each other (Tarjan's strongly connected components)."""
    graph: dict[str, set[str]] = {}
    for start, end in edges:
        graph.setdefault(start, set()).add(end)
        graph.setdefault(end, set())
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = lowest[node] = len(order)
        stack.append(node)
        for following in sorted(graph[node]):
            if following not in order:
                visit(following)
            if following in stack:
                lowest[node] = min(lowest[node], lowest[following])
        if lowest[node] == order[node]:
            members = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(members) > 1 or node in graph[node]:
                found.append(sorted(members))

    for node in sorted(graph):
        if node not in order:
            visit(node)
    return found


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports for type checkers count: what needs another's types knows it."""
    edges = [
        (
            ".".join(found.file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"),
            ".".join(found.ours),
        )
        for found in all_imports()
        if found.ours
    ]
    assert not circles(edges)


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ([("a", "b"), ("b", "c")], []),
        ([("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")], [["a", "b", "c"]]),
        ([("a", "a")], [["a"]]),
    ],
    ids=["a chain", "three that reach each other", "itself"],
)
def test_circles_are_found(edges: list[tuple[str, str]], expected: list[list[str]]) -> None:
    assert circles(edges) == expected


def test_no_two_classes_have_the_same_name() -> None:
    names = [
        node.name
        for file in SOURCES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file)))
        if isinstance(node, ast.ClassDef)
    ]
    assert [name for name, count in Counter(names).items() if count > 1] == []


def test_every_package_says_what_lives_there() -> None:
    for file in (path for path in SOURCES if path.name == "__init__.py"):
        assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))), file


def importers_of(package: str) -> set[str]:
    """Return the rooms of its group that import this one, and the other groups that do."""
    group, _, _ = package.partition(".")
    importers = {
        importer_of(found)
        for found in all_imports()
        if found.ours is not None and room_of(found.ours) == package != importer_of(found)
    }
    return {
        name.removeprefix(f"{group}.") if name.startswith(f"{group}.") else name.split(".")[0]
        for name in importers
    }


def packages() -> dict[str, str]:
    """Return the docstring of each package of a group, as one line."""
    return {
        room_of(file.parent.relative_to(ROOT).parts): " ".join(
            str(ast.get_docstring(ast.parse(file.read_text()))).split()
        )
        for folder in FOLDERS
        for file in (ROOT / folder).glob("*/__init__.py")
    }


@pytest.mark.parametrize("package", sorted(packages()))
def test_a_package_names_those_that_import_it(package: str) -> None:
    """Unless it says of whole groups that they may."""
    text = packages()[package]
    named = re.search(r"\. Imported by (.+)\.$", text)
    if named is None:
        assert re.search(r"\. (All .+|Everybody) may import it\.$", text), text
    else:
        assert set(re.split(", | and ", named[1])) == (importers_of(package) or {"nobody"})


def test_the_page_lists_packages_so_that_each_imports_only_those_below_it() -> None:
    text = (ROOT / "docs" / "generated.py").read_text(encoding="utf-8")
    shown = re.findall(r'"((?:runner|boards|sandbox)\.\w+)"', text[: text.index("def packages()")])
    upwards = [
        found
        for found in all_imports()
        if found.ours is not None
        and {importer_of(found), room_of(found.ours)} <= set(shown)
        and shown.index(importer_of(found)) > shown.index(room_of(found.ours))
    ]
    assert not broken(iter(upwards))


def test_only_the_command_line_knows_click() -> None:
    assert not broken(
        found
        for found in all_imports()
        if found.name.split(".")[0] == "click" and importer_of(found) != "runner.cli"
    )


def test_only_the_link_knows_the_websocket_client() -> None:
    assert not broken(
        found
        for found in all_imports()
        if found.name.split(".")[0] == "websocket" and found.file != ROOT / "runner" / "link" / "connect.py"
    )


def test_the_root_module_imports_nothing_when_it_is_imported() -> None:
    assert not broken(found for found in imports_of(ROOT / "__init__.py") if not found.is_guarded)


def child_files() -> list[Path]:
    """What starts the child, sandbox/child/main.py, and all of ours that it imports, however deep; and what
    the user's processes import by its name."""
    importable = (ROOT / "sandbox" / "importable").rglob("*.py")
    waiting, seen = [ROOT / "sandbox" / "child" / "main.py", *importable], {START}
    while waiting:
        file = waiting.pop()
        if file in seen or not file.exists():
            continue
        seen.add(file)
        waiting.append(file.parent / "__init__.py")
        waiting.extend(module_file(found.ours) for found in imports_of(file) if found.ours)
    return sorted(seen)


def test_the_child_imports_the_standard_library_and_our_own_modules_only() -> None:
    allowed = {*sys.stdlib_module_names, "__future__"}
    assert not broken(
        found
        for file in child_files()
        for found in imports_of(file)
        if found.ours is None and not found.is_guarded and found.name.split(".")[0] not in allowed
    )


def test_the_child_is_written_for_an_old_interpreter() -> None:
    for file in child_files():
        tree = ast.parse(file.read_text(encoding="utf-8"), str(file), feature_version=CHILD_PYTHON)
        if any(isinstance(node, ast.AnnAssign | ast.arg | ast.FunctionDef) for node in ast.walk(tree)):
            assert "from __future__ import annotations" in ast.unparse(tree), file


def test_the_linter_knows_which_files_are_the_childs() -> None:
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.findall(r'^"(.+)" = "py38"$', settings, re.M) == [
        file.relative_to(ROOT).as_posix() for file in child_files()
    ]


def test_a_wheel_holds_our_modules_and_nothing_else(tmp_path: Path) -> None:
    stage = 'scripts=$1; . "$scripts/lib.sh"; stage_sources "$2"'
    copied = run(["sh", "-euc", stage, "sh", ROOT / "scripts", tmp_path / "copy"])
    assert copied.status == 0, copied.stderr
    pip_wheel = [sys.executable, "-I", "-m", "pip", "wheel", "--disable-pip-version-check", "--no-index"]
    built = run(
        [*pip_wheel, "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, tmp_path / "copy"],
        deadline_s=100,
    )
    assert built.status == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    sources = [*SOURCES, ROOT / "__init__.py", ROOT / "__main__.py"]
    assert "hkrunner/py.typed" in names
    assert not [name for name in names if not name.startswith("hkrunner/")]
    assert {name for name in names if name.endswith(".py")} == {
        f"hkrunner/{path.relative_to(ROOT)}" for path in sources
    }
