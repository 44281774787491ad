"""Descriptors as users have them: what runs, under which limits, and which error is reported."""

from __future__ import annotations

import json
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from support.programs import Result, run_hkrunner, serving
from support.scripted_worker import ScriptedWorker

#: What the descriptors of HKube's example pipeline look like.
SUMMARIZE = """\
name: {name}
env: python
resources:
  cpu: 0.5
  gpu: 0
  mem: 512Mi
code:
  path: {name}.tar.gz
  entryPoint: {name}.py
"""
PROGRAMS = {
    "range": "def start(args):\n    return list(range(args['input'][0]))\n",
    "multiply": "def start(args):\n    return [one * args['input'][1] for one in args['input'][0]]\n",
    "reduce": "def start(args):\n    return sum(args['input'][0])\n",
}
TELLS = """\
import os, sys
def start(args, api):
    return {"name": args["algorithmName"], "node": args["nodeName"], "folder": os.getcwd(),
            "model": os.environ.get("MODEL"), "gpu": os.environ.get("CUDA_VISIBLE_DEVICES")}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with code that tells about itself, in a folder of its own."""
    for name in ("code/main.py", "code/src/other.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(TELLS)
    return tmp_path


def describe(place: Path, text: str, name: str = "algorithm.yml") -> None:
    (place / name).write_text(text)


def told(*args: str | Path, cwd: Path, env: dict[str, str] | None = None) -> dict[str, object]:
    """What the code tells, run with one input."""
    ended = run_hkrunner(*args, "-i", "1", cwd=cwd, env=env)
    assert ended.status == 0, ended.stderr
    found: dict[str, object] = json.loads(ended.stdout)
    return found


def refused(*args: str | Path, cwd: Path, status: int = 2) -> str:
    """The one line that a run is refused with."""
    ended = run_hkrunner(*args, "-i", "1", cwd=cwd)
    assert (ended.status, ended.stdout) == (status, ""), ended.stderr
    (line,) = ended.stderr.splitlines()
    return line


# ---- the real ones


@pytest.fixture
def summarize(tmp_path: Path) -> Path:
    """The folder of HKube's example: three descriptors, and the code of each packed beside it."""
    folder = tmp_path / "summarize"
    folder.mkdir()
    for name, text in PROGRAMS.items():
        code = tmp_path / "code" / name
        code.mkdir(parents=True)
        (code / f"{name}.py").write_text(text)
        (code / "requirements.txt").write_text("")
        with tarfile.open(folder / f"{name}.tar.gz", "w:gz") as archive:
            # cd code; tar -zcvf ../multiply.tar.gz *
            for file in sorted(code.iterdir()):
                archive.add(file, file.name)
        (folder / f"{name}.yml").write_text(SUMMARIZE.format(name=name))
    return folder


def test_the_examples_of_hkube_run_as_they_are(summarize: Path) -> None:
    def run(name: str, given: str, cwd: Path) -> Result:
        file = os.path.relpath(summarize / f"{name}.yml", cwd)
        return run_hkrunner("-f", file, "-i", given, "--json", cwd=cwd)

    values = "[5]"
    for name, output in (("range", [0, 1, 2, 3, 4]), ("multiply", [0, 3, 6, 9, 12]), ("reduce", 30)):
        ended = run(name, values, summarize if name != "reduce" else summarize.parent)
        assert ended.status == 0, ended.stderr
        task = json.loads(ended.stdout)
        assert (task["output"], task["nodeName"]) == (output, name)
        assert task["memLimitBytes"] == 512 * 2**20
        assert f"({name}.yml)" in ended.stderr and "0.5" in ended.stderr
        values = json.dumps([task["output"], 3])


def test_an_archive_is_unpacked_once_and_again_when_it_changes(summarize: Path) -> None:
    args = ("-f", "range.yml", "-i", "[1]", "-q")
    assert run_hkrunner(*args, cwd=summarize).stdout == "[0]\n"
    cache = summarize / ".hkrunner" / "code"
    (first,) = cache.iterdir()
    assert run_hkrunner(*args, cwd=summarize).stdout == "[0]\n" and list(cache.iterdir()) == [first]
    with zipfile.ZipFile(summarize / "range.tar.gz", "w") as archive:
        archive.writestr("range.py", "def start(args):\n    return 'new'\n")
    assert run_hkrunner(*args, cwd=summarize).stdout == '"new"\n'
    assert len(list(cache.iterdir())) == 2


def test_without_records_an_archive_leaves_nothing(summarize: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    ended = run_hkrunner(
        "-f", "range.yml", "-i", "[2]", "--no-state", cwd=summarize, env={"TMPDIR": str(temporary)}
    )
    assert ended.stdout == "[0,1]\n" and not list(temporary.iterdir())
    assert not (summarize / ".hkrunner").exists()


# ---- what runs


def test_a_descriptor_alone_in_its_folder_is_enough(place: Path) -> None:
    describe(
        place, "name: my-alg\ncode: {path: ./code, entryPoint: src/other.py}\nalgorithmEnv: {MODEL: small}\n"
    )
    found = told(cwd=place)
    assert found == {
        **{"name": "my-alg", "node": "my-alg", "folder": str(place / "code")},
        **{"model": "small", "gpu": None},
    }


@pytest.mark.parametrize(
    ("text", "args", "env", "folder"),
    [
        ("code: {path: code}", (), {}, "code"),
        ("code: {path: code, entryPoint: main}", (), {}, "code"),
        ("code: {path: code, entryPoint: missing.py}", ("-e", "code/main.py"), {}, "code"),
        ("code: {path: code, entryPoint: missing.py}", ("-e", "main.py"), {}, "code"),
        ("code: {path: code, entryPoint: missing.py}", (), {"HKRUNNER_ENTRY": "main.py"}, "code"),
        ("code: {path: code, entryPoint: missing.py}", (), {"ALGORITHM_ENTRY_POINT": "main.py"}, "code"),
        ("code: {path: code}", ("-e", "code/src/other.py"), {}, "code"),
        ("code: {path: code/src, entryPoint: other.py}", ("-e", "code/main.py"), {}, "code"),
        ("code: {path: nowhere}", ("-e", "code/main.py"), {}, "code"),
        ("code: {path: nowhere}", ("--path", "code"), {}, "code"),
        ("code: {entryPoint: main.py}", ("--path", "code"), {}, "code"),
        ("entryPoint: code/main.py", (), {}, ""),
        ("name: my-alg", ("code/main.py",), {}, "code"),
    ],
)
def test_an_entry_is_named_by_flag_or_variable_or_file_or_is_main_py(
    place: Path, text: str, args: tuple[str, ...], env: dict[str, str], folder: str
) -> None:
    describe(place, text)
    assert told(*args, cwd=place, env=env)["folder"] == str(place / folder)


def test_a_folder_with_its_own_descriptor_is_an_entry(place: Path) -> None:
    describe(place / "code", "name: inner\ncode: {path: ., entryPoint: src/other.py}\n")
    describe(place, "name: outer\n")
    found = told("code", cwd=place)
    assert (found["name"], found["folder"]) == ("inner", str(place / "code"))


@pytest.mark.parametrize(
    ("text", "args", "name"),
    [
        ("code: {path: code, entryPoint: main.py}", (), "my-alg"),
        ("code: {path: code, entryPoint: main.py}", ("code/main.py",), "my-alg"),
        ("code: {path: code, entryPoint: 'src/other.py:start'}", ("code/src/other.py",), "my-alg"),
        ("code: {path: code, entryPoint: src.other}", ("code/src/other.py",), "my-alg"),
        ("code: {path: code, entryPoint: main.py}", ("code/src/other.py",), "other"),
        ("code: {path: code}", ("code/src/other.py",), "my-alg"),
    ],
)
def test_a_file_beside_the_algorithm_has_a_name_of_its_own(
    place: Path, text: str, args: tuple[str, ...], name: str
) -> None:
    describe(place, f"name: my-alg\n{text}\n")
    found = told(*args, cwd=place)
    assert (found["name"], found["node"]) == (name, name)
    listed = run_hkrunner("runs", "ls", cwd=place).stdout
    assert f"local/{name} " in listed


def test_a_descriptor_may_be_named_by_a_variable_and_lie_anywhere(place: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    describe(place, '{"name": "my-alg", "entryPoint": "main.py"}', "code/any.json")
    assert told(cwd=tmp_path / "work", env={"HKRUNNER_FILE": "../code/any.json"})["name"] == "my-alg"


def test_the_files_variables_are_the_childs(place: Path) -> None:
    describe(
        place, "code: {path: code}\nalgorithmEnv:\n  MODEL: 1.0\n  KEY: {secretKeyRef: {name: a, key: b}}\n"
    )
    ended = run_hkrunner("-i", "1", cwd=place, env={"MODEL": "the shell's"})
    assert json.loads(ended.stdout)["model"] == "1"
    assert "◌ algorithm.yml:4: only the cluster knows the value of KEY: left out" in ended.stderr
    assert told("-E", "MODEL=flag", cwd=place)["model"] == "flag"


def test_a_worker_is_served_with_the_descriptors_code(summarize: Path) -> None:
    env = {"HKRUNNER_MEM": "64Mi"}
    with (
        ScriptedWorker() as worker,
        serving("--file", "multiply.yml", "--url", worker.url, cwd=summarize, env=env) as program,
    ):
        client = worker.accept()
        assert client.run([[1, 2], 2])["data"] == [2, 4]
    assert "memory 64 MiB" in "\n".join(program.stderr)


# ---- limits


def test_a_memory_limit_says_where_it_was_written(place: Path) -> None:
    (place / "code" / "main.py").write_text(
        "def start(args):\n    held = []\n    while True:\n        held.append(b'x' * (8 << 20))\n"
    )
    describe(place, "resources: {mem: 64Mi}\ncode: {path: code}\n")
    for args, env, origin in [
        ((), {}, "mem: in algorithm.yml"),
        ((), {"HKRUNNER_MEM": "70Mi"}, "HKRUNNER_MEM"),
        (("--mem", "80Mi"), {"HKRUNNER_MEM": "70Mi"}, "--mem"),
        (("--mem-mode", "rss"), {}, "mem: in algorithm.yml"),
    ]:
        ended = run_hkrunner(*args, "-i", "1", cwd=place, env=env)
        assert ended.status == 137 and f"({origin})" in ended.stderr, ended.stderr


# ---- devices


SMI = "#!/bin/sh\ncase \"$1\" in --query-gpu*) echo 'GPU-aaaa, 0, 5'; echo 'GPU-bbbb, 1, 3';; esac\n"


def test_gpus_are_shown_to_the_algorithm_where_a_driver_answers(place: Path, tmp_path: Path) -> None:
    describe(place, "gpu: 1\ncode: {path: code}\n")
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "nvidia-smi").write_text(SMI)
    (programs / "nvidia-smi").chmod(0o755)
    env = {"PATH": f"{programs}:{os.environ['PATH']}"}
    assert told(cwd=place, env=env)["gpu"] == "GPU-bbbb"
    assert told("--gpu", "2", cwd=place, env=env)["gpu"] == "GPU-bbbb,GPU-aaaa"
    assert told("--gpu", "0", cwd=place, env=env)["gpu"] is None
    assert told("--no-gpu", cwd=place, env=env)["gpu"] == ""
    assert told("-E", "CUDA_VISIBLE_DEVICES=7", cwd=place, env=env)["gpu"] == "7"
    assert told(cwd=place, env={**env, "CUDA_VISIBLE_DEVICES": "0"})["gpu"] == "GPU-aaaa"


def test_gpus_without_a_driver_are_reported_in_one_sentence(place: Path, tmp_path: Path) -> None:
    describe(place, "name: my-alg\ngpu: 1\ncode: {path: code}\n")
    (tmp_path / "empty").mkdir()
    ended = run_hkrunner("-i", "1", cwd=place, env={"PATH": str(tmp_path / "empty")})
    assert (ended.status, ended.stdout) == (2, "")
    assert ended.stderr == (
        "hkrunner: asked for 1 GPU (gpu: in algorithm.yml:2), and there is no NVIDIA driver (no nvidia-smi on"
        " PATH); --no-gpu runs without GPUs\n"
    )
    assert told("--no-gpu", cwd=place)["name"] == "my-alg"


# ---- what is wrong


@pytest.mark.parametrize(
    ("text", "status", "sentence"),
    [
        (
            "name: my-alg\nmem: 512\n",
            2,
            "algorithm.yml:2: memory unit must be one of Ki,M,Mi,Gi,m,K,G,T,Ti (did you mean 512Mi?); got",
        ),
        (
            "env: nodejs\n",
            3,
            "ENTRY_NOT_FOUND: algorithm.yml:1: env is nodejs, and there is no file index.js in",
        ),
        ("a: b: c\n", 2, "algorithm.yml:1: not YAML: mapping values are not allowed here"),
        ("\ncode: {path: gone.zip}\n", 3, "ENTRY_NOT_FOUND: algorithm.yml:2: code.path: there is no "),
        (
            "code: {path: algorithm.yml}\n",
            2,
            "algorithm.yml: data.fileExt should be equal to one of the allowed",
        ),
        ("code: {path: code, entryPoint: gone.py}\n", 3, "ENTRY_NOT_FOUND: no file gone.py in "),
    ],
)
def test_a_wrong_descriptor_is_reported_in_one_sentence(
    place: Path, text: str, status: int, sentence: str
) -> None:
    describe(place, text)
    assert refused(cwd=place, status=status).startswith(f"hkrunner: {sentence}")


def test_a_named_descriptor_that_is_missing_is_reported(place: Path) -> None:
    assert refused("-f", "gone.yml", cwd=place).endswith("gone.yml: No such file or directory")


def test_an_archive_that_contains_the_folder_of_the_code_is_reported(place: Path) -> None:
    with tarfile.open(place / "code.tar.gz", "w:gz") as archive:
        archive.add(place / "code", "code")
    describe(place, "code: {path: code.tar.gz, entryPoint: main.py}\n")
    line = refused(cwd=place, status=3)
    assert line.endswith("it contains only the folder code: the root of code.path must be the code itself")
