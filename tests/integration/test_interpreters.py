"""The child in another Python than hkrunner's: each one from 3.8 on that is found, with nothing in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.interpreters import all_found, found
from support.local import ALGORITHMS, error_of, run_tasks
from support.programs import Result, run, run_hkrunner
from support.served import serving_worker

ANY = ALGORITHMS / "any_interpreter.py"
FOUND = all_found()


@pytest.fixture(params=FOUND, ids=FOUND)
def python(request: pytest.FixtureRequest) -> Path:
    """One interpreter after the other."""
    return FOUND[request.param]


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment of the oldest Python found, with nothing in it."""
    folder = tmp_path_factory.mktemp("bare") / "my env"
    python = next(iter(FOUND.values()))
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
    return folder


def tell(*args: str | Path, cwd: Path, env: Mapping[str, str | None] | None = None) -> Result:
    return run_hkrunner("--entry", ANY, "--input", '["who", null]', *args, cwd=cwd, env=env)


def refused(*args: str | Path, cwd: Path) -> str:
    """The one sentence that a run is refused with."""
    ended = tell(*args, cwd=cwd)
    assert (ended.status, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert not (cwd / ".hkrunner").exists()
    return line


def test_several_pythons_are_found_on_a_machine_that_has_them() -> None:
    assert f"{sys.version_info[0]}.{sys.version_info[1]}" in FOUND


# ---- the whole cycle


def test_every_kind_of_task_ends_as_it_does_in_our_own_python(python: Path, tmp_path: Path) -> None:
    tasks: list[Any] = [["who", None], ["give", {"a": [1, 2.5, None, "ü😀"]}], ["convert", None]]
    tasks += [["async", 7], ["raise", "bad"], ["unsendable", None], ["import", None], ["give", "end"]]
    ended = run_tasks(ANY, *tasks, args=("--python", python), cwd=tmp_path, deadline_s=60)
    who, given, converted, waited, raised, unsendable, imported, last = ended.tasks
    assert who["output"]["version"] == [int(part) for part in python_version(python).split(".")]
    assert who["output"]["folder"] == str(ALGORITHMS)
    assert given["output"] == {"a": [1, 2.5, None, "ü😀"]}
    assert converted["output"] == {
        **{"tuple": [1, 2], "set": [3], "4": "key", "array": [5]},
        **{"bytes": "AA==", "nan": None},
    }
    assert waited["output"] == 7
    code, message = error_of(raised)
    assert (code, message.splitlines()[0]) == (
        "ALGORITHM_ERROR",
        f"ALGORITHM_ERROR: ValueError: bad (any_interpreter.py:{line_of('raise ValueError')} in fails)",
    )
    assert "any_interpreter.py" in raised["error"]["details"] and "Traceback" in raised["error"]["details"]
    assert error_of(unsendable)[0] == "RESULT_INVALID" and "result['a'][0]" in error_of(unsendable)[1]
    assert "No module named 'no_such_module'" in error_of(imported)[1]
    assert last["output"] == "end"


def python_version(python: Path) -> str:
    return next(version for version, path in FOUND.items() if path == python)


def line_of(text: str) -> int:
    lines = ANY.read_text().splitlines()
    return next(number for number, line in enumerate(lines, start=1) if text in line)


def test_a_worker_is_served_with_calls_a_stop_and_an_exit(python: Path, tmp_path: Path) -> None:
    with serving_worker(tmp_path, "--python", str(python), entry=ANY) as (client, program):
        client.initialize(["call", 5])
        client.expect("initialized")
        client.start()
        call = client.receive()
        while call["command"] == "progress":
            call = client.receive()
        assert (call["command"], call["data"]["input"]) == ("startAlgorithmExecution", [5])
        client.send(
            {"command": "algorithmExecutionDone", "data": {"execId": call["data"]["execId"], "response": 6}}
        )
        assert client.answer()["data"] == 6
        client.initialize(["wait", None])
        client.expect("initialized")
        client.start()
        program.wait_for_line("waiting", stream="stdout")
        client.stop()
        client.expect("stopped")
        assert client.run(["give", "after"])["data"] == "after"
        client.exit()
        assert program.wait() == 0
    assert "stop ['forceStop']" in program.stdout and "exit ['exitCode']" in program.stdout


def test_a_process_that_ends_is_reported_and_replaced(python: Path, tmp_path: Path) -> None:
    ended = run_tasks(ANY, ["exit", None], ["give", 1], args=("--python", python), cwd=tmp_path)
    assert error_of(ended.tasks[0])[0] == "EXITED"
    assert ended.tasks[1]["output"] == 1


def test_a_limit_holds_in_any_python(python: Path, tmp_path: Path) -> None:
    (tmp_path / "hog.py").write_text("def start(args):\n    return len(bytearray(400 << 20))\n")
    ended = run_hkrunner("-e", "hog.py", "-i", "1", "--mem", "128Mi", "--python", python, cwd=tmp_path)
    assert ended.status == 137
    assert "128 MiB" in ended.stderr and "--mem" in ended.stderr


# ---- naming it


def test_the_folder_of_a_virtual_environment_is_a_name_for_its_python(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "env.py").write_text(
        "import os, sys, subprocess\n"
        "def start(args):\n"
        "    inner = subprocess.check_output(['python', '-c', 'import sys; print(sys.prefix)'], text=True)\n"
        "    return [sys.prefix, os.environ['VIRTUAL_ENV'], inner.strip()]\n"
    )
    for given in (bare, bare / "bin" / "python", os.path.relpath(bare, tmp_path)):
        ended = run_hkrunner("-e", "env.py", "-i", "1", "--python", given, "-q", cwd=tmp_path)
        assert ended.stdout == f'["{bare}","{bare}","{bare}"]\n', ended.stderr


def test_a_name_is_looked_up_on_path_and_may_come_from_the_environment(bare: Path, tmp_path: Path) -> None:
    path = f"{bare / 'bin'}:{os.environ['PATH']}"
    for args, env in ((("--python", "python"), {}), ((), {"HKRUNNER_PYTHON": "python"})):
        ended = tell(*args, cwd=tmp_path, env={"PATH": path, **env})
        assert f'"executable":"{bare / "bin" / "python"}"' in ended.stdout, ended.stderr


def test_a_broken_interpreter_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("no program")
    (tmp_path / "script").write_text("#!/bin/sh\necho hello\n")
    (tmp_path / "flood").write_text("#!/bin/sh\nexec yes\n")
    (tmp_path / "broken").write_text("#!/does/not/exist\n")
    for name in ("script", "broken", "flood"):
        (tmp_path / name).chmod(0o755)
    for given, sentence in [
        ("nowhere/python", "there is no such file"),
        ("no-such-name", "there is no such file, nor a program of that name on PATH"),
        ("folder", "this folder is no virtual environment: it has no bin/python"),
        ("./text", "it cannot be executed: permission denied"),
        ("./broken", "it cannot be executed: No such file or directory"),
        ("./script", "this is no Python interpreter"),
        ("./flood", "this is no Python interpreter"),
        ("false", "this is no Python interpreter"),
    ]:
        line = refused("--python", given, cwd=tmp_path)
        assert line.startswith(f"hkrunner: --python {given}") and line.endswith(sentence), line


def test_a_python_that_is_too_old_is_reported_with_its_version(tmp_path: Path) -> None:
    stub = tmp_path / "python3.7"
    stub.write_text("#!/bin/sh\necho hkrunner-probe 3.7.16\n")
    stub.chmod(0o755)
    assert refused("--python", stub, cwd=tmp_path).endswith(
        "it is Python 3.7.16, too old; 3.8 or newer is needed"
    )


@pytest.mark.parametrize("version", [one for one in ("2.7", "3.6", "3.7") if found(one)])
def test_a_real_python_that_is_too_old_is_refused(version: str, tmp_path: Path) -> None:
    line = refused("--python", str(found(version)), cwd=tmp_path)
    assert f"it is Python {version}." in line and line.endswith("3.8 or newer is needed")


# ---- encodings


def test_an_encoding_that_it_lacks_is_one_sentence_that_installs_it(bare: Path, tmp_path: Path) -> None:
    python = bare / "bin" / "python"
    for encoding, package in (("bson", "pymongo"), ("msgpack", "msgspec")):
        line = refused("--python", bare, "--encoding", encoding, cwd=tmp_path)
        assert line == (
            f"hkrunner: --encoding {encoding} needs {package} in the algorithm's Python:"
            f" {python} -m pip install {package}, or --encoding json, which needs nothing"
        )


@pytest.mark.parametrize("encoding", ["json", "bson", "msgpack"])
def test_an_environment_that_has_the_packages_speaks_every_encoding(encoding: str, tmp_path: Path) -> None:
    # Our own Python, under another name: it is asked like any other.
    link = tmp_path / "env" / "bin" / "python"
    link.parent.mkdir(parents=True)
    link.symlink_to(sys.executable)
    link.parent.parent.joinpath("pyvenv.cfg").write_text(
        Path(sys.prefix, "pyvenv.cfg").read_text(encoding="utf-8")
    )
    library = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}"
    (tmp_path / "env" / "lib").mkdir()
    (tmp_path / "env" / library).symlink_to(Path(sys.prefix, library))
    args = ("--python", str(link), "--encoding", encoding)
    with serving_worker(tmp_path, *args, entry=ANY) as (client, _):
        assert client.run(["give", [1, "ü", None]])["data"] == [1, "ü", None]


# ---- what is missing there


def test_a_failed_import_names_the_line_of_requirements_and_the_command(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "needs.py").write_text("import cv2\n\n\ndef start(args):\n    return 1\n")
    (tmp_path / "requirements.txt").write_text("numpy\nopencv-python>=4  # pictures\n")
    ended = run_hkrunner("-e", "needs.py", "-i", "1", "--python", bare, cwd=tmp_path)
    assert ended.status == 4
    python, file = bare / "bin" / "python", tmp_path / "requirements.txt"
    assert (
        f"No module named 'cv2' (python: {python}) (needs.py:1 in <module>); requirements.txt beside it lists"
        f" opencv-python: give --install, or install it: '{python}' -m pip install -r {file}"
    ) in ended.stderr


def test_a_missing_module_that_no_requirement_lists_is_reported_as_such(tmp_path: Path) -> None:
    (tmp_path / "needs.py").write_text("def start(args):\n    import no_such_module_at_all\n")
    (tmp_path / "requirements.txt").write_text("# nothing\n-r other.txt\n")
    ended = run_hkrunner("-e", "needs.py", "-i", "1", cwd=tmp_path)
    assert "; requirements.txt beside it does not list it: add it, and give --install" in ended.stderr


def test_the_code_sees_nothing_of_hkrunner(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "look.py").write_text(
        "import sys\n"
        "def start(args):\n"
        "    try:\n"
        "        import hkrunner\n"
        "    except ImportError:\n"
        "        return [p for p in sys.path if 'site-packages' in p or p.endswith('sandbox')]\n"
        "    return hkrunner.__file__\n"
    )
    ended = run_hkrunner("-e", "look.py", "-i", "1", "--python", bare, "-q", cwd=tmp_path)
    told = run(
        [
            bare / "bin" / "python",
            "-c",
            "import sys, json; print(json.dumps([p for p in sys.path if 'site-' in p]))",
        ]
    )
    assert ended.stdout.replace(" ", "") == told.stdout.replace(" ", ""), ended.stderr
