"""Which files of a folder are the code: .hkubeignore with hkubectl's meaning, and what is left out anyway."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hkrunner.runner.errors import SettingsError
from hkrunner.runner.prepare.code_files import code_files


def tree(folder: Path, files: str, **ignore: str) -> Path:
    for name in files.split():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for inside, rules in ignore.items():
        (folder / ("" if inside == "top" else inside) / ".hkubeignore").write_text(rules)
    return folder


def names(folder: Path) -> list[str]:
    return [one.name for one in code_files(folder).files if not one.name.endswith(".hkubeignore")]


FILES = "main.py a/main.py a/b/x.csv a/data/y data/x data/keep/z Foo.LOG a/foo.log"


# Each expectation is what ignore-walk 3.0.4, which hkubectl uses, returned for the same files and rules.
@pytest.mark.parametrize(
    ("rules", "left"),
    [
        ("# nothing\n\n", "Foo.LOG a/b/x.csv a/data/y a/foo.log a/main.py data/keep/z data/x main.py"),
        ("data/", "Foo.LOG a/b/x.csv a/data/y a/foo.log a/main.py main.py"),
        ("data", "Foo.LOG a/b/x.csv a/foo.log a/main.py main.py"),
        ("/main.py\n*.log", "a/b/x.csv a/data/y a/main.py data/keep/z data/x"),
        ("a/*", "Foo.LOG data/keep/z data/x main.py"),
        ("**/b/**\r\n", "Foo.LOG a/data/y a/foo.log a/main.py data/keep/z data/x main.py"),
        ("*\n!main.py", "main.py"),
        ("data/*\n!data/keep", "Foo.LOG a/b/x.csv a/data/y a/foo.log a/main.py data/keep/z main.py"),
        ("{a,data}", "Foo.LOG main.py"),
        ("[!m]*", "main.py"),
        ("\ufeff*.log\n", "a/b/x.csv a/data/y a/main.py data/keep/z data/x main.py"),
        ("a/?", "Foo.LOG a/data/y a/foo.log a/main.py data/keep/z data/x main.py"),
    ],
)
def test_rules_mean_what_they_mean_to_hkubectl(tmp_path: Path, rules: str, left: str) -> None:
    assert names(tree(tmp_path, FILES, top=rules)) == left.split()


def test_a_folder_has_rules_of_its_own(tmp_path: Path) -> None:
    folder = tree(tmp_path, FILES, top="*.csv\n", a="/main.py\n!*.csv\n")
    assert names(folder) == [
        "Foo.LOG",
        "a/b/x.csv",
        "a/data/y",
        "a/foo.log",
        "data/keep/z",
        "data/x",
        "main.py",
    ]


def test_what_is_made_from_the_code_is_left_out_and_everything_left_out_is_told(tmp_path: Path) -> None:
    tree(
        tmp_path,
        "main.py m.pyc __pycache__/m.pyc .hkrunner/x .git/x env/pyvenv.cfg conda/conda-meta/history a/x b c",
        top="[bc]\na\n",
    )
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "inside").symlink_to("main.py")
    (tmp_path / "outside").symlink_to("../x")
    (tmp_path / "main.py").write_text("x" * 3000)
    found = code_files(tmp_path)
    assert [(one.name, one.link) for one in found.files] == [
        *((".hkubeignore", None), ("inside", "main.py"), ("main.py", None))
    ]
    assert found.lines() == [
        "3 files, 2.9 KiB, of which main.py is 2.9 KiB",
        "left out (never part of the code): .git/, .hkrunner/, __pycache__/, m.pyc",
        "left out (.hkubeignore): a/, b, c",
        "left out (a virtual environment): conda/, env/",
        "left out (a link that leads outside the folder): outside",
        "left out (neither a file nor a link): pipe",
    ]


def test_what_may_have_secrets_is_left_out_unless_a_rule_names_it(tmp_path: Path) -> None:
    secrets = ".env .env.prod a/.netrc .ssh/id_rsa .ssh/config .hkube/.hkuberc pip.conf"
    tree(tmp_path, f"main.py .env.example env.py {secrets}")
    assert names(tmp_path) == [".env.example", "env.py", "main.py"]
    told = "left out (it may have secrets; a line !NAME in .hkubeignore includes it)"
    assert code_files(tmp_path).lines()[1] == f"{told}: .env, .env.prod, .hkube/, .ssh/ and 2 more"
    tree(tmp_path, "", top="!.env\n!.ssh/config\n!a/.netrc\n")
    assert names(tmp_path) == [".env", ".env.example", "a/.netrc", "env.py", "main.py"]
    tree(tmp_path, "", top="!.ssh\n")
    assert [name for name in names(tmp_path) if "ssh" in name] == [".ssh/config", ".ssh/id_rsa"]


def test_a_link_that_leaves_the_folder_and_comes_back_by_its_name_is_left_out(tmp_path: Path) -> None:
    tree(tmp_path / "alg", "main.py sub/x.py .git")
    for name, target in {
        "back": "../alg/main.py",
        "sub/up": "../main.py",
        "dangling": "nowhere",
        "loop": "loop",
        "folder": "sub",
        "absolute": str(tmp_path / "alg" / "main.py"),
    }.items():
        (tmp_path / "alg" / name).symlink_to(target)
    assert names(tmp_path / "alg") == ["dangling", "folder", "loop", "main.py", "sub/up", "sub/x.py"]


def test_a_secret_of_the_build_is_no_code_by_whatever_path_it_is_named(tmp_path: Path) -> None:
    tree(tmp_path / "alg", "main.py creds.ini")
    (tmp_path / "alg" / "pip.conf").symlink_to("creds.ini")
    (tmp_path / "link").symlink_to("alg")
    (tmp_path / "alg" / "dangling").symlink_to("nowhere")
    for folder, secret in (("link", "alg/creds.ini"), ("alg", "alg/pip.conf"), ("alg", "link/creds.ini")):
        found = code_files(str(tmp_path / folder), without=(str(tmp_path / secret), str(tmp_path / "none")))
        assert [one.name for one in found.files] == ["dangling", "main.py"], (folder, secret)
        assert not found.left_out


@pytest.mark.parametrize("rule", ["+(a|b)", "x{1..3}"])
def test_a_rule_that_is_not_understood_is_refused_with_its_line(tmp_path: Path, rule: str) -> None:
    tree(tmp_path, "main.py", top=f"\n{rule}\n")
    with pytest.raises(SettingsError, match=r"\.hkubeignore:2: .* are not supported"):
        code_files(tmp_path)


def test_folders_may_be_nested_deeper_than_functions_may_call_each_other(tmp_path: Path) -> None:
    folder = tmp_path
    for _ in range(600):
        folder = folder / "d"
        folder.mkdir()
    (folder / "main.py").touch()
    assert [os.path.basename(name) for name in names(tmp_path)] == ["main.py"]


def test_a_folder_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no code"):
        code_files(tmp_path)
    tree(tmp_path, "main.py", top="*")
    with pytest.raises(SettingsError, match="leaves every file out"):
        code_files(tmp_path)
