"""Which program is started, for --command and for a descriptor that names another language."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hkrunner.runner.errors import EntryNotFound, HkrunnerError, SettingsError
from hkrunner.runner.prepare.program import NODE_PRELOAD, NODE_WRAPPER, Program, of_command, of_descriptor
from hkrunner.runner.settings.settings import CodeSource, LocalRunSettings, Serving, Settings
from hkrunner.sandbox.shared.limits import MI, Limits


@pytest.fixture
def tools(tmp_path: Path) -> dict[str, str]:
    """An environment whose PATH has node and java."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("node", "java"):
        (folder / name).write_text("")
        (folder / name).chmod(0o755)
    return {"PATH": str(folder)}


def settings(cwd: Path, **more: Any) -> Settings:
    return Settings(CodeSource(str(cwd)), Serving("ws://worker"), None, **more)  # type: ignore[arg-type]


def command(text: str, cwd: Path, tools: dict[str, str], path: str | None = None, **more: Any) -> Program:
    return of_command(text, path, settings(cwd, **more), tools)


def described(kind: str, cwd: Path, tools: dict[str, str], entry: str | None = None, **more: Any) -> Program:
    return of_descriptor(kind, "algorithm.yml:2", str(cwd), entry, settings(cwd, **more), tools)


def test_a_command_is_found_on_the_path_or_in_its_folder(tmp_path: Path, tools: dict[str, str]) -> None:
    (tmp_path / "app.js").write_text("")
    found = command("node 'app.js' --flag 'two words'", tmp_path, tools)
    node = (f"{tools['PATH']}/node", "--require", NODE_PRELOAD)
    assert found.argv == (*node, "app.js", "--flag", "two words")
    assert (found.where.folder, found.where.shown) == (str(tmp_path), "app.js")
    found = command("./node", tmp_path, tools, path="bin")
    assert found.argv == node
    assert (found.where.folder, found.where.shown) == (tools["PATH"], "node")
    assert command("node -e 5", tmp_path, tools).where.shown == "node"
    assert command("java app.js", tmp_path, tools).argv == (f"{tools['PATH']}/java", "app.js")


@pytest.mark.parametrize(
    ("text", "path", "error", "sentence"),
    [
        ("none app.js", None, EntryNotFound, "ENTRY_NOT_FOUND: no program none in "),
        ("./app.py x", None, EntryNotFound, "ENTRY_NOT_FOUND: ./app.py in "),
        ("app.py", None, EntryNotFound, "ENTRY_NOT_FOUND: app.py in "),
        ("./none", None, EntryNotFound, "ENTRY_NOT_FOUND: no program ./none in "),
        ("node app.js", "nowhere", EntryNotFound, "ENTRY_NOT_FOUND: no folder nowhere in "),
        ("node 'app.js", None, SettingsError, '--command "node \'app.js": No closing quotation'),
        ("  ", None, SettingsError, "--command names no program"),
    ],
)
def test_a_command_that_cannot_be_started_is_one_sentence(
    tmp_path: Path,
    tools: dict[str, str],
    text: str,
    path: str | None,
    error: type[HkrunnerError],
    sentence: str,
) -> None:
    (tmp_path / "app.py").touch()
    with pytest.raises(error) as caught:
        command(text, tmp_path, tools, path)
    assert str(caught.value).startswith(sentence)
    assert ("chmod +x" in str(caught.value)) == ("app.py" in text)


def test_nodejs_is_hkubes_wrapper_with_the_entry(tmp_path: Path, tools: dict[str, str]) -> None:
    code = tmp_path / "code"
    code.mkdir()
    with pytest.raises(EntryNotFound, match=r"env is nodejs, and there is no file index\.js in "):
        described("nodejs", code, tools)
    (code / "index.js").write_text("")
    with pytest.raises(EntryNotFound, match=f"npm install {NODE_WRAPPER}; .*--command 'node index.js'"):
        described("nodejs", code, tools)
    (tmp_path / "node_modules" / NODE_WRAPPER).mkdir(parents=True)  # above the code
    with pytest.raises(EntryNotFound, match=r"env is nodejs, and there is no file package\.json in "):
        described("nodejs", code, tools)
    (code / "package.json").write_text("{}")
    found = described("nodejs", code, tools)
    run = f'require("{NODE_WRAPPER}").run()'
    assert found.argv == (f"{tools['PATH']}/node", "--require", NODE_PRELOAD, "-e", run)
    assert found.variables == {"ALGORITHM_PATH": ".", "ALGORITHM_ENTRY_POINT": "index.js"}
    assert found.where.shown == "index.js"
    for seconds, limit in ((3.5, "3500"), (10**9, "2147483647")):
        limited = described("nodejs", code, tools, limits=Limits(task_timeout_s=seconds))
        assert limited.variables["HKRUNNER_MESSAGE_MS"] == limit
        # A program may start the wrapper itself.
        own = command("node index.js", code, tools, limits=Limits(task_timeout_s=seconds))
        assert own.argv == (f"{tools['PATH']}/node", "--require", NODE_PRELOAD, "index.js")
        assert own.variables == {"HKRUNNER_MESSAGE_MS": limit}
    (code / "main.js").write_text("")
    again = described("nodejs", code, tools, str(code / "main.js"))
    assert again.variables["ALGORITHM_ENTRY_POINT"] == "main.js"


def test_java_runs_a_jar_or_a_file_with_a_heap_below_the_limit(tmp_path: Path, tools: dict[str, str]) -> None:
    (tmp_path / "sum.jar").write_text("")
    (tmp_path / "Sum.java").write_text("")
    java = os.path.join(tools["PATH"], "java")
    assert described("java", tmp_path, tools, "Sum.java").argv == (java, "Sum.java")
    found = described("java", tmp_path, tools, "sum.jar", limits=Limits(memory_bytes=256 * MI))
    assert found.argv == (
        *(java, f"-XX:MaxRAM={256 * MI}", "-XX:MaxRAMPercentage=70"),
        *("-jar", "sum.jar"),
    )


@pytest.mark.parametrize(
    ("kind", "entry", "more", "sentence"),
    [
        (
            "java",
            None,
            {},
            "algorithm.yml:2: env is java: the entry point must be a file .jar or .java, not none",
        ),
        ("java", "main.py", {}, "not main.py"),
        ("java", "gone.jar", {}, "env is java, and there is no file gone.jar in "),
        (
            "java",
            "a.jar",
            {"local_run": LocalRunSettings(in_process=True)},
            "--in-process, --pdb and --install",
        ),
    ],
)
def test_a_descriptor_of_another_language_that_is_wrong_is_one_sentence(
    tmp_path: Path, tools: dict[str, str], kind: str, entry: str | None, more: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(HkrunnerError) as caught:
        described(kind, tmp_path, tools, entry, **more)
    assert sentence in str(caught.value)


def test_a_language_that_is_not_installed_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "sum.jar").write_text("")
    with pytest.raises(EntryNotFound, match="env is java, and there is no java on PATH"):
        described("java", tmp_path, {"PATH": str(tmp_path)}, "sum.jar")
