"""Where requirements are found, what of them decides about the environment, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hkrunner.runner.errors import SettingsError
from hkrunner.runner.image.requirement_lists import local_sources
from hkrunner.runner.prepare.requirement_sources import Requirements, find_requirements, not_read
from hkrunner.sandbox.child.requirements import hint
from hkrunner.sandbox.shared.entry import locate

INLINE = """\
#!/usr/bin/env python3
# /// script
# requires-python = ">=3.9"
# dependencies = [
#   "numpy>=1",  # arrays
#   'pandas[all] ; python_version > "3"',
# ]
# ///
def start(args): ...
"""
PROJECT = '[project]\nname = "x"\nrequires-python = ">=3.10,<4"\ndependencies = ["pyyaml"]\n'


def requirements_of(folder: Path, cwd: Path | None = None, entry: str = "alg.py") -> Requirements | None:
    if not (folder / entry).exists():
        (folder / entry).write_text("def start(args): ...\n")
    return find_requirements(locate(str(folder / entry), None, str(folder)), str(cwd or folder))


def test_inline_metadata_comes_before_requirements_and_these_before_the_project(tmp_path: Path) -> None:
    assert requirements_of(tmp_path) is None
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    found = requirements_of(tmp_path)
    assert found is not None and (found.source, found.lines) == ("pyproject.toml", ("pyyaml",))
    assert found.accepts((3, 12, 1)) and not found.accepts((3, 9, 7)) and not found.accepts((4, 0, 0))
    (tmp_path / "requirements.txt").write_text("scipy\n")
    found = requirements_of(tmp_path)
    assert found is not None and (found.source, found.lines, found.shown) == (
        "requirements.txt",
        None,
        ("scipy",),
    )
    (tmp_path / "alg.py").write_text(INLINE)
    found = requirements_of(tmp_path)
    assert found is not None
    assert found.source == "inline metadata in alg.py"
    assert found.lines == ("numpy>=1", 'pandas[all] ; python_version > "3"')
    assert found.accepts((3, 9, 0)) and not found.accepts((3, 8, 18))


def test_the_working_folder_is_searched_only_for_code_below_it(tmp_path: Path) -> None:
    code, other = tmp_path / "src", tmp_path / "other"
    code.mkdir()
    other.mkdir()
    for folder in (tmp_path, other):
        (folder / "requirements.txt").write_text("six\n")
    found = requirements_of(code, cwd=tmp_path)
    assert found is not None and found.file == str(tmp_path / "requirements.txt")
    assert requirements_of(code, cwd=other) is None


def test_a_project_without_dependencies_requires_nothing_that_could_be_installed(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.ruff]\nline-length = 100\n")
    assert requirements_of(tmp_path) is None


@pytest.mark.parametrize(
    ("inline", "sentence"),
    [
        ("dependencies = [1]", "dependencies must be a list of strings"),
        ("requires-python = 3", "requires-python must be a string"),
        ('dependencies = ["--index-url=http://x"]', "'--index-url=http://x' is no requirement"),
        ('dependencies = ["six\\n-r /etc/passwd"]', "is no requirement"),
        ("dependencies = [", "it is no TOML"),
        ("dependencies = " + "[" * 5000, "it is no TOML: nested too deeply"),
        ("x = " + "9" * 5000, "it is no TOML: Exceeds the limit (4300"),
    ],
    ids=range(7),
)
def test_metadata_that_is_wrong_is_refused(inline: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "alg.py").write_text(f"# /// script\n# {inline}\n# ///\n")
    with pytest.raises(SettingsError) as raised:
        requirements_of(tmp_path)
    assert str(raised.value).startswith("inline metadata in alg.py: ") and sentence in str(raised.value)


def test_two_blocks_and_dynamic_dependencies_are_refused(tmp_path: Path) -> None:
    (tmp_path / "alg.py").write_text("# /// script\n# dependencies = []\n# ///\n\n" * 2)
    with pytest.raises(SettingsError, match="there are 2 blocks of type script"):
        requirements_of(tmp_path)
    (tmp_path / "alg.py").write_text("")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\ndynamic = ["dependencies"]\n')
    with pytest.raises(SettingsError, match="its dependencies are dynamic"):
        requirements_of(tmp_path)


@pytest.mark.parametrize(
    "block",
    [
        "# /// script\n# dependencies = []\n\n# ///\n",
        "#/// script\n# dependencies = []\n# ///\n",
        "# /// script\n#dependencies = []\n# ///\n",
        "# /// script\n# dependencies = []\n# /// end\n",
    ],
)
def test_a_block_that_is_almost_inline_metadata_is_refused_with_its_line(block: str, tmp_path: Path) -> None:
    (tmp_path / "alg.py").write_text("import os\n" + block)
    with pytest.raises(
        SettingsError, match=r"inline metadata in alg\.py: the block in line 2 has not the form"
    ):
        requirements_of(tmp_path)


def test_a_list_in_utf_16_is_read_as_one_with_the_line_ends_of_windows_is(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_bytes(b"\xef\xbb\xbfpandas\r\n")
    (tmp_path / "requirements.txt").write_bytes("numpy>=1\r\n-r more.txt\r\n".encode("utf-16"))
    found = requirements_of(tmp_path)
    assert found is not None and found.shown == ("numpy>=1", "pandas")
    assert "requirements.txt beside it lists numpy" in hint("numpy", str(tmp_path), "python")


def test_versions_of_python_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "alg.py").write_text('# /// script\n# requires-python = "three"\n# ///\n')
    found = requirements_of(tmp_path)
    assert found is not None
    with pytest.raises(SettingsError, match="requires-python: no versions: three"):
        found.accepts((3, 12, 0))


def content(folder: Path) -> tuple[str, ...]:
    found = requirements_of(folder)
    assert found is not None
    return found.content


def test_the_content_follows_nested_files_and_local_packages_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("six\n")
    library = tmp_path / "library"
    (library / "build").mkdir(parents=True)
    (library / "setup.py").write_text("")
    lines = [
        "# arrays",
        "numpy \\",
        "  >=1  # newest",
        "-r more.txt",
        "./library",
        "-e ./library",
        "-c none.txt",
    ]
    (tmp_path / "requirements.txt").write_text("\n".join(lines))
    first = requirements_of(tmp_path)
    assert first is not None and first.shown == (*("numpy   >=1", "six", "./library", "-e ./library"),)
    # A comment, what a build leaves, and data of the library change nothing.
    (tmp_path / "requirements.txt").write_text("\n".join(lines[1:]))
    (library / "build" / "made.py").write_text("")
    (library / "data.csv").write_text("1,2")
    assert content(tmp_path) == first.content
    seen = {first.content}
    (tmp_path / "more.txt").write_text("six<2\n")
    seen.add(content(tmp_path))
    (library / "code.py").write_text("")
    seen.add(content(tmp_path))
    os.utime(library / "code.py", (1, 1))
    seen.add(content(tmp_path))
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("line", "more", "sentence"),
    [
        ("-r requirements.txt", "", "requirements.txt names requirements.txt, and pip reads no lists in a"),
        ("-r more.txt", "-c requirements.txt", "names more.txt, which names requirements.txt, and pip reads"),
        ("-c more.txt", "-r ./more.txt", "names more.txt, which names more.txt, and pip reads no lists in"),
    ],
)
def test_lists_that_name_each_other_in_a_circle_are_refused(
    line: str, more: str, sentence: str, tmp_path: Path
) -> None:
    """pip 23 ends with a RecursionError and 1,000 lines."""
    (tmp_path / "requirements.txt").write_text(f"six\n{line}\n")
    (tmp_path / "more.txt").write_text(more)
    with pytest.raises(SettingsError, match=sentence):
        requirements_of(tmp_path)
    (tmp_path / "requirements.txt").write_text("-r a.txt\n-r b.txt\n")
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("-r c.txt\n")
    (tmp_path / "c.txt").write_text("idna\n")
    found = requirements_of(tmp_path)
    assert found is not None and found.shown == ("idna",), "two lists may name the same one"


@pytest.mark.parametrize(
    "line",
    [
        "./my_lib",
        "./my_lib ; python_version > '3'",
        "./my_lib;python_version > '3'",
        "./my_lib --config-settings x=y",
        "my-lib @ file:my_lib",
        "my-lib[fast] @ file:./my_lib ; python_version > '3'",
        "my-lib @ file://localhost{folder}/my%5Flib#subdirectory=.",
        "-e my_lib",
        '-e "./my_lib[fast]"',
        "--editable=file:my_lib",
    ],
)
@pytest.mark.parametrize("name", ["requirements.txt", "lists/more.txt"])
def test_a_local_package_is_one_however_it_is_named_from_where_the_installer_runs(
    name: str, line: str, tmp_path: Path
) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "requirements.txt").write_text("-r lists/more.txt\n")
    (tmp_path / name).write_text(line.format(folder=tmp_path))
    (tmp_path / "my_lib").mkdir()
    (tmp_path / "my_lib" / "setup.py").touch()
    if name == "requirements.txt":
        (tmp_path / "lists" / "more.txt").touch()
    found = requirements_of(tmp_path)
    assert found is not None and str(tmp_path / "my_lib") in found.content
    assert [one.path for one in local_sources(found)] == [str(tmp_path / "my_lib")]


def test_a_login_in_an_address_is_not_shown(tmp_path: Path) -> None:
    secret = "a @ git+https://ada:hush@host.example/a"
    (tmp_path / "requirements.txt").write_text(f"{secret}\n-e git+ssh://git@host.example/b#egg=b\n")
    found = requirements_of(tmp_path)
    assert found is not None and secret in found.content
    assert found.shown[0] == "a @ git+https://****@host.example/a" and "git@host" in found.shown[1]
    (tmp_path / "requirements.txt").unlink()
    (tmp_path / "pyproject.toml").write_text(f"[project]\ndependencies = ['{secret}', 'b b']\n")
    with pytest.raises(SettingsError, match="'b b' is no requirement"):
        requirements_of(tmp_path)
    (tmp_path / "pyproject.toml").write_text(f"[project]\ndependencies = ['{secret}']\n")
    found = requirements_of(tmp_path)
    assert found is not None and found.shown == ("a @ git+https://****@host.example/a",)
    assert found.lines == (secret,)


def test_variables_of_requirements_but_not_of_options_decide_about_the_environment(tmp_path: Path) -> None:
    lines = ("--index-url https://${TOKEN}@lab", "-e git+https://lab/${REV}", "a==${A_V}")
    (tmp_path / "requirements.txt").write_text("\n".join(lines))
    found = requirements_of(tmp_path)
    assert found is not None and found.variables({"TOKEN": "x", "A_V": "3"}) == ["A_V=3", "REV=None"]


@pytest.mark.parametrize(
    ("module", "files", "expected"),
    [
        ("numpy", {"alg.py": INLINE}, "; the inline metadata lists numpy>=1: give --install"),
        ("scipy", {"alg.py": INLINE}, "; the inline metadata does not list it: add it, and give --install"),
        ("yaml", {"pyproject.toml": PROJECT}, "; pyproject.toml beside it lists pyyaml: give --install"),
        ("cv2", {}, "; list opencv-python, which has it, in requirements.txt, and give --install"),
        ("nobody", {}, "; list its package in requirements.txt, and give --install"),
        ("numpy.nothing", {}, ""),
        (None, {}, ""),
    ],
)
def test_a_missing_module_names_the_option(
    module: str | None, files: dict[str, str], expected: str, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert hint(module, str(tmp_path), "python3", str(tmp_path / "alg.py")) == expected.replace(
        "numpy>=1", "numpy"
    )


POETRY = """\
[tool.poetry]
name = "x"
[tool.poetry.dependencies]
python = "^3.9"
a = "^1.2.3"
b = "^0.2.3"
c = "^0.0"
d = "~1.2"
e = "~2"
f = "*"
g = "1.4.*"
h = "1.4"
i = ">=1.2, <2, !=1.5"
j = {version = "^2.0", extras = ["x", "y"], python = "<3.11", platform = "linux"}
k = [{version = "1", python = "3.9.*"}, {version = "^2", markers = "os_name == 'posix'"}]
l = {git = "git@host.example:org/repo.git", tag = "v1", subdirectory = "sub"}
m = {url = "https://host.example/m-1-py3-none-any.whl"}
n = {path = "../n", develop = true}
o = {version = "1", optional = true}
[tool.poetry.dependencies.p]
version = ">=1.0"
[tool.poetry.group.dev.dependencies]
pytest = "*"
"""


def test_the_table_of_poetry_is_read_where_the_standard_one_lists_nothing(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "n").mkdir()
    (tmp_path / "n" / "n.py").write_text("")
    project = tmp_path / "code" / "pyproject.toml"
    project.write_text(POETRY)
    found = requirements_of(tmp_path / "code")
    assert found is not None
    assert found.lines == (
        *("a>=1.2.3,<2", "b>=0.2.3,<0.3", "c>=0.0,<0.1", "d>=1.2,<1.3", "e>=2,<3", "f", "g==1.4.*", "h==1.4"),
        "i>=1.2,<2,!=1.5",
        'j[x,y]>=2.0,<3 ; (sys_platform == "linux") and (python_version < "3.11")',
        'k==1 ; (python_version == "3.9.*")',
        "k>=2,<3 ; (os_name == 'posix')",
        "l @ git+ssh://git@host.example/org/repo.git@v1#subdirectory=sub",
        "m @ https://host.example/m-1-py3-none-any.whl",
        f"n @ file://{tmp_path}/n",
        "p>=1.0",
    )
    assert found.accepts((3, 12, 0)) and not found.accepts((3, 8, 0)) and not found.accepts((4, 0, 0))
    assert any(str(tmp_path / "n" / "n.py") in line for line in found.content)
    project.write_text(
        '[project]\nname = "x"\ndynamic = ["dependencies"]\nrequires-python = ">=3.11"\n' + POETRY
    )
    found = requirements_of(tmp_path / "code")
    assert found is not None and len(found.lines or ()) == 16 and not found.accepts((3, 10, 0))
    project.write_text(PROJECT + POETRY)
    found = requirements_of(tmp_path / "code")
    assert found is not None and found.lines == ("pyyaml",)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            'six = "^1 || ^2"',
            "six = '^1 || ^2': pip has no 'or' between versions: list it in requirements.txt",
        ),
        ('six = "^one"', "six = '^one': it is no version"),
        ('six = "latest one"', "'six==latest,==one' is no requirement"),
        ("six = 1", "six: expected a version or a table, found 1"),
        ('six = {version = "1", source = "own"}', "six comes from the index 'own', which only Poetry knows"),
        ('six = {git = ["x"]}', "six: expected a string, found ['x']"),
        ('python = "three"', "requires-python: no versions: ==three"),
    ],
)
def test_what_pip_has_no_equal_of_in_the_table_of_poetry_is_refused(
    line: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text(f"[tool.poetry.dependencies]\n{line}\n")
    with pytest.raises(SettingsError) as raised:
        found = requirements_of(tmp_path)
        assert found is not None
        found.accepts((3, 12, 0))
    assert str(raised.value).startswith("pyproject.toml: ") and sentence in str(raised.value)


def test_lists_of_other_tools_are_named_if_nothing_else_says_what_is_required(tmp_path: Path) -> None:
    for name in ("setup.py", "Pipfile", "environment.yml", "requirements-dev.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "pyproject.toml").write_text('[dependency-groups]\ndev = ["six"]\n[project]\ndynamic = 5\n')
    assert requirements_of(tmp_path) is None
    assert not_read(locate(str(tmp_path / "alg.py"), None, str(tmp_path)), str(tmp_path)) == [
        *("Pipfile", "environment.yml", "requirements-dev.txt", "setup.py"),
        "[dependency-groups] in pyproject.toml",
    ]


def test_the_advice_names_the_package_of_a_module_and_the_list_that_is_read(tmp_path: Path) -> None:
    folder, project = str(tmp_path), tmp_path / "pyproject.toml"
    project.write_text(POETRY + 'q = "*"\n')
    assert hint("a", folder, "python") == "; pyproject.toml beside it lists a: give --install"
    assert hint("p", folder, "python") == "; pyproject.toml beside it lists p: give --install"
    told = "; pyproject.toml beside it does not list it: add opencv-python, and give --install"
    assert hint("cv2", folder, "python") == told
    project.write_text(PROJECT)
    assert hint("cv2", folder, "python") == told and "it: add it, and" in hint("six", folder, "python")
    (tmp_path / "requirements.txt").write_text("six\n")
    assert hint("sklearn", folder, "python") == (
        "; requirements.txt beside it does not list it: add scikit-learn, and give --install"
    )
