"""--install: an environment of its own for the code, made once, kept by content, never half."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import hkrunner
import pytest
from support.programs import Program, Result, run_hkrunner, serving
from support.terminals import at_terminal
from support.waiting import wait_until
from support.wheels import make_wheel, variables

#: PATH without uv; with it for those tests that are for uv, where it is found.
UV = shutil.which("uv")
WITHOUT_UV = os.pathsep.join(
    one for one in os.environ["PATH"].split(os.pathsep) if not os.path.exists(os.path.join(one, "uv"))
)
INSTALLERS = {"pip": WITHOUT_UV, **({"uv": os.environ["PATH"]} if UV else {})}
CODE = """\
import sys
import hk_tiny

def start(args):
    return [hk_tiny.NUMBER, sys.prefix]
"""
INSTALL_S = 60.0


class Project:
    """A folder with an algorithm, and the cache of its environments."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        wheels = folder / "wheels"
        wheels.mkdir()
        make_wheel(wheels, "hk_tiny", "1.5", "NUMBER = 15\n")
        self.env = variables(wheels, self.cache, WITHOUT_UV)
        (folder / "alg.py").write_text(CODE)

    @property
    def made(self) -> list[str]:
        """What is in the folder of environments."""
        folder = self.cache / "hkrunner" / "envs"
        return sorted(one.name for one in folder.iterdir()) if folder.exists() else []

    def run(self, *args: str | Path, env: Mapping[str, str | None] | None = None) -> Result:
        return run_hkrunner(*args, cwd=self.folder, env={**self.env, **(env or {})}, deadline_s=INSTALL_S)

    def begin(self, **env: str | None) -> Program:
        return Program(
            [Path(sys.executable).parent / "hkrunner", "alg.py", "-i", "1", "--install"],
            cwd=self.folder,
            env={**self.env, **env},
        )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_two_runs_at_once_make_an_environment_once_though_an_earlier_one_was_killed(project: Project) -> None:
    (project.folder / "requirements.txt").write_text("hk-tiny>=1\n")
    with project.begin() as killed:
        killed.wait_for_line("installing requirements.txt (hk-tiny>=1) with pip")
        wait_until(lambda: len(project.made) > 1, deadline_s=INSTALL_S, what="a folder of an environment")
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        wait_until(lambda: not killed.family(), deadline_s=INSTALL_S, what="the end of the installer")
    half = set(project.made)
    assert half and not any(name.endswith(".json") for name in half)
    refused = project.run("env", "path", "alg.py")
    assert (refused.status, refused.stdout) == (1, "")

    with project.begin() as first, project.begin() as second:
        assert (first.wait(deadline_s=INSTALL_S), second.wait(deadline_s=INSTALL_S)) == (0, 0)
    lines = [*first.stderr, *second.stderr]
    assert sum("installing requirements.txt" in line for line in lines) == 1, lines
    assert sum(line.startswith("✔ installed in ") for line in lines) == 1, lines
    assert first.stdout == second.stdout
    number, prefix = json.loads(first.stdout[0])
    assert number == 15 and Path(prefix).parent == project.cache / "hkrunner" / "envs"
    assert len(project.made) == 3  # nothing is left of the run that was killed
    assert project.run("env", "path", "alg.py").stdout == f"{prefix}\n"

    # hkrunner.run(), a repeated task, a dry run and a validation use it too, and install nothing.
    with pytest.MonkeyPatch.context() as patch:
        for name, value in project.env.items():
            patch.setenv(name, value) if value is not None else patch.delenv(name, raising=False)
        (result,) = hkrunner.run(
            project.folder / "alg.py", [1], install=True, state_dir=project.folder / ".hkrunner"
        )
    assert result.output == [15, prefix]
    again = project.run("runs", "again", "t1")
    assert json.loads(again.stdout) == [15, prefix], again.stderr
    told = json.loads(project.run("alg.py", "-i", "1", "--install", "--dry-run", "--json").stdout)
    assert (told["python"], told["install"]["environment"]) == (f"{prefix}/bin/python", prefix)
    told = json.loads(project.run("validate", "alg.py", "--install", "--json").stdout)
    assert told["ok"] and told["missing"] == [] and told["install"]["requirements"] == ["hk-tiny>=1"]

    (kept,) = project.run("env", "ls", "--json").stdout.splitlines()
    facts = json.loads(kept)
    assert (facts["folder"], facts["installer"], facts["requirements"]) == (prefix, "pip", ["hk-tiny>=1"])
    (project.folder / "waits.py").write_text("import hk_tiny\ndef start(args):\n    while True: pass\n")
    with serving("waits.py", "--install", cwd=project.folder, env=project.env) as program:
        program.wait_for_line("waiting for an HKube worker")
        used = project.run("env", "rm", facts["name"][:6])
        assert (used.status, f"in use by a run, and not removed: {facts['name']}" in used.stderr) == (1, True)
    assert project.run("env", "rm", facts["name"][:6]).stderr == "1 environment removed\n"
    assert project.made == []


@pytest.mark.parametrize("installer", INSTALLERS)
def test_an_installer_that_fails_is_one_sentence_with_its_own_last_lines(
    installer: str, project: Project
) -> None:
    (project.folder / "pyproject.toml").write_text(
        '[project]\nname = "x"\nversion = "1"\ndependencies = ["hk-tiny", "hk-nowhere==3"]\n'
    )
    ended = project.run("alg.py", "-i", "1", "--install", env={"PATH": INSTALLERS[installer]})
    first, sentence, *reason = ended.stderr.splitlines()
    assert (ended.status, ended.stdout) == (7, ""), ended
    assert first == f"◌ installing pyproject.toml (hk-tiny, hk-nowhere==3) with {installer}"
    assert sentence.startswith(
        f"hkrunner: --install: {installer} could not install pyproject.toml; it ended with"
    )
    assert any("hk-nowhere" in line for line in reason)
    assert project.made == []


def test_without_a_network_the_sentence_says_so(project: Project) -> None:
    (project.folder / "requirements.txt").write_text("hk-nowhere\n")
    offline = {
        "PIP_NO_INDEX": None,
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",  # the port `discard`, on which nothing listens
        "PIP_RETRIES": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    ended = project.run("alg.py", "-i", "1", "--install", env=offline)
    sentence = (
        "hkrunner: --install: pip could not install requirements.txt; it ended with status 1, since a package"
        " index cannot be reached (Connection refused):"
    )
    assert ended.status == 7 and sentence in ended.stderr.splitlines(), ended
    assert project.made == []


@pytest.mark.parametrize("installer", INSTALLERS)
def test_inline_metadata_is_installed_into_a_python_that_it_allows(installer: str, project: Project) -> None:
    project.env = {**project.env, "PATH": INSTALLERS[installer]}
    version = sys.version_info
    (project.folder / "alg.py").write_text(
        f'# /// script\n# requires-python = "=={version[0]}.{version[1]}.*"\n# dependencies = ["hk_tiny"]\n'
        f"# ///\n{CODE}"
    )
    before = project.run("alg.py", "-i", "1")
    assert before.status == 4 and "the inline metadata lists hk_tiny: give --install" in before.stderr
    shown = project.run("alg.py", "-i", "1", "--install", "--dry-run").stdout
    assert (
        f"  install    inline metadata in alg.py (hk_tiny): not installed yet; {installer} would do it"
        in shown
    )
    shown = project.run("validate", "alg.py").stdout
    assert (
        f"◌ --install: inline metadata in alg.py (hk_tiny): not installed yet; {installer} would do it"
        in shown
    )
    assert project.made == []
    # At a terminal, the installer's latest line is shown below ours until it is done.
    with at_terminal(
        project.folder, "alg.py", "-i", "1", "--install", env={**project.env, "TERM": "xterm"}
    ) as terminal:
        status, _ = terminal.end(deadline_s=INSTALL_S)
    assert status == 0, terminal.shown
    last = {"pip": "Successfully installed hk_tiny-1.5", "uv": " + hk-tiny==1.5"}[installer]
    assert f"\r\x1b[2K  {last}\r\x1b[2K✔ installed in " in terminal.shown
    assert "✔ t1 done" in terminal.shown


def test_a_python_that_the_metadata_excludes_is_refused(project: Project) -> None:
    (project.folder / "alg.py").write_text('# /// script\n# requires-python = "<3.8"\n# ///\n' + CODE)
    ended = project.run("alg.py", "-i", "1", "--install", env={"PATH": "/usr/bin:/bin"})
    version = ".".join(map(str, sys.version_info[:3]))
    assert (ended.status, ended.stderr) == (
        2,
        f"hkrunner: inline metadata in alg.py requires Python <3.8, and {sys.executable} is {version}: name"
        " another with --python\n",
    )
    assert project.made == []


def test_an_interrupted_installation_leaves_nothing_and_installs_nothing_unasked(project: Project) -> None:
    (project.folder / "requirements.txt").write_text("hk-tiny\n")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # an index that does not answer
        index = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            with project.begin(PIP_NO_INDEX=None, PIP_INDEX_URL=index, NO_PROXY="127.0.0.1") as program:
                program.wait_for_line("installing requirements.txt")
                program.send_signal(number)
                assert program.wait() == status
            assert project.made == []
    assert project.run("alg.py", "-i", "1").status == 4
    assert project.made == []


def test_a_cache_that_cannot_be_written_is_one_sentence(project: Project) -> None:
    (project.folder / "requirements.txt").write_text("hk-tiny\n")
    project.cache.write_text("a file")
    ended = project.run("alg.py", "-i", "1", "--install")
    place = project.cache / "hkrunner" / "envs"
    assert (ended.status, ended.stderr) == (
        7,
        f"hkrunner: --install: no environment can be made in {place}: Not a directory\n",
    )


def test_code_that_requires_nothing_runs_as_without_the_option(project: Project) -> None:
    (project.folder / "alg.py").write_text("def start(args):\n    return 1\n")
    ended = project.run("alg.py", "-i", "1", env={"HKRUNNER_INSTALL": "1"})
    assert ended.stdout == "1\n"
    assert "◌ --install: nothing to install: alg.py has no inline metadata" in ended.stderr
    (project.folder / "algorithm.yml").write_text("name: my-alg\ndependencyInstallCmd: ./install.sh\n")
    ended = project.run("alg.py", "-i", "1", "--install")
    assert "◌ algorithm.yml:2: --install does not run dependencyInstallCmd" in ended.stderr
