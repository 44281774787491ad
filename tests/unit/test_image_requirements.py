"""Requirements in an image: local packages, variables, and logins, which no layer may have."""

from __future__ import annotations

from pathlib import Path

import pytest
from hkrunner.runner.errors import SettingsError
from hkrunner.runner.image.containerfile import CODE, ImagePlan, containerfile
from hkrunner.runner.image.engines import option_values, secret_files
from hkrunner.runner.image.requirement_lists import (
    check,
    local_sources,
    nested_lists,
    variables_in,
    with_places,
)
from hkrunner.runner.prepare.requirement_sources import Requirements, find_requirements
from hkrunner.sandbox.shared.entry import locate

PLAN = ImagePlan("adder", "python:3.12", "1.0", "hkrunner.whl", "main.py")


def requirements_of(folder: Path, text: str, name: str = "requirements.txt") -> Requirements:
    (folder / "alg.py").touch()
    (folder / name).write_text(text)
    found = find_requirements(locate(str(folder / "alg.py"), None, str(folder)), str(folder))
    assert found is not None
    return found


@pytest.mark.parametrize(
    "line",
    [
        "--extra-index-url https://ada:hush@pypi.example/simple",
        "--index-url=https://hush@pypi.example/simple",
        "tool @ git+https://hush@github.example/team/tool",
        "-e git+ssh://git:hush@host.example/tool#egg=tool",
        "tool @ https://__token__:hush@host.example/tool.whl ; python_version > '3'",
    ],
)
def test_an_address_with_a_login_is_refused_without_showing_it(line: str, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text(line)
    with pytest.raises(SettingsError) as refused:
        check(requirements_of(tmp_path, "-r more.txt\n"))
    assert "requirements.txt has a login in the address of " in str(refused.value)
    assert ".example, which everyone who pulls the image could read" in str(refused.value)
    assert "hush" not in str(refused.value)
    for fine in (
        "--index-url https://${NAME}:${PASSWORD}@pypi.example/simple",
        "--index-url https://ada:${PASSWORD}@pypi.example/simple",
        "-e git+ssh://git@host.example/tool#egg=tool",
        "tool @ git+https://git@host.example/a@b",
    ):
        check(requirements_of(tmp_path, fine))


def test_variables_are_arguments_of_the_build_and_its_secret_is_mounted(tmp_path: Path) -> None:
    found = requirements_of(tmp_path, "--index-url https://${TOKEN}@i/\na==${A_V}\nb @ file://${PWD}/x\n")
    plan = PLAN._replace(requirements="requirements.txt", variables=variables_in(found), has_pip_conf=True)
    lines = containerfile(plan).splitlines()
    at = lines.index("ARG A_V=")
    assert lines[at + 1] == "ARG TOKEN=" and "cd /opt/hkrunner-requirements && " in lines[at + 2]
    mount = "RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf "
    mounted = [line for line in lines if line.startswith(mount)]
    assert [line.split()[2] for line in mounted] == ["python3", "cd"], "all that pip downloads may need it"
    words = ["--secret", "id=/a", "--net", "--secret=id=b,src=c"]
    assert option_values(words, "--secret") == ["id=/a", "id=b,src=c"]
    words += ["--secret", "type=file,source=/d/e", "--secret", "id=f,env=F"]
    assert secret_files(words) == ["/a", "/d/e", str(Path.cwd() / "c")]


def test_a_list_is_installed_in_its_own_folder_where_its_local_packages_are_found(tmp_path: Path) -> None:
    plan = PLAN._replace(requirements="my code/requirements.txt", after_code=True, list_in_code=True)
    (line,) = [one for one in containerfile(plan).splitlines() if "-r requirements.txt" in one]
    assert line.startswith(f"RUN cd '{CODE}/my code' && ")
    (tmp_path / "lib").mkdir()
    named = ("a @ file://${PWD}/lib", "./lib", f"{tmp_path}/lib", f"a @ file://{tmp_path}/lib")
    found = requirements_of(tmp_path, "\n".join(named))
    assert [one.is_relative for one in local_sources(found)] == [True, True, False, False]


def test_an_address_in_a_table_is_replaced_in_its_own_requirement_only(tmp_path: Path) -> None:
    for name in ("lib", "library"):
        (tmp_path / name).mkdir()
    lines = ["a @ file:lib", "b @ file:library ; os_name == 'posix'", "c[file] @ https://h/file:lib.whl"]
    found = requirements_of(tmp_path, f"[project]\ndependencies = {lines}\n", "pyproject.toml")
    assert with_places(found, lambda path: f"file:///there/{Path(path).name}") == [
        "a @ file:///there/lib",
        "b @ file:///there/library ; os_name == 'posix'",
        lines[2],
    ]


def test_a_list_that_would_not_be_found_in_the_image_is_refused_before_it_is_built(tmp_path: Path) -> None:
    found = requirements_of(tmp_path, "-c nothing.txt\n")
    with pytest.raises(SettingsError, match=r"requirements.txt names nothing.txt, and there is no such file"):
        check(found)
    found = requirements_of(tmp_path, f"-r {tmp_path}/more.txt\n")
    with pytest.raises(SettingsError, match=r"more.txt, which is elsewhere in the image: write more.txt$"):
        nested_lists(found.file)
