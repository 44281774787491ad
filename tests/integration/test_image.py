"""`hkrunner image`: what an image is built from, and how it starts.

The Containerfile is followed here without an engine: its COPY lines into a folder, its variables and its
entry point as a process. Where an engine works, it builds and pushes what needs no base image.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hkrunner.runner.errors import HkrunnerError, SettingsError
from hkrunner.runner.image.engines import ENGINES, carry_out, find_engine, full_tag, is_loopback
from support.ports import free_port
from support.processes import runs
from support.programs import HKRUNNER, Program, run_hkrunner
from support.scripted_worker import ScriptedWorker
from support.waiting import wait_until

MAIN = """
import os
from . import helper

def begin(args, api):
    return {"sum": sum(args["input"]), "helper": helper.__name__, "linked": open("link.txt").read()}
"""


@pytest.fixture
def algorithm(tmp_path: Path) -> Path:
    folder = tmp_path / "adder"
    (folder / "data").mkdir(parents=True)
    (folder / "__pycache__").mkdir()
    (folder / "data" / "big.bin").write_bytes(b"0" * 5000)
    (folder / "main.py").write_text(MAIN)
    (folder / "helper.py").touch(mode=0o600)
    (folder / "tool.sh").touch(mode=0o700)
    (folder / "real.txt").write_text("followed")
    (folder / "link.txt").symlink_to("real.txt")
    (folder / "outside").symlink_to("/etc/hostname")
    (folder / ".hkubeignore").write_text("data/\n")
    (folder / "common.txt").write_text("msgspec\n")
    (folder / "requirements.txt").write_text("-r common.txt\nidna==3.10  # pinned\n")
    (folder / "algorithm.yml").write_text(
        "name: adder\nenv: python\nbaseImage: registry.example/py:3.12\n"
        "code: {path: ., entryPoint: 'main.py:begin'}\nresources: {mem: 256Mi}\n"
    )
    return folder


def instructions(text: str) -> list[tuple[str, str]]:
    joined = text.replace("\\\n", " ")
    return [
        (word, rest)
        for word, _, rest in (line.partition(" ") for line in joined.splitlines())
        if word.isupper()
    ]


def test_an_image_starts_as_its_containerfile_says_and_serves_a_worker(
    algorithm: Path, tmp_path: Path
) -> None:
    context = tmp_path / "context"
    ended = run_hkrunner("image", "--context", context, "--json", cwd=algorithm)
    assert ended.status == 0, ended.stderr
    assert "left out (.hkubeignore): data/" in ended.stderr
    assert "left out (a link that leads outside the folder): outside" in ended.stderr
    facts = json.loads(ended.stdout)
    assert facts["base"] == "registry.example/py:3.12" and facts["engine"] is None
    assert re.fullmatch("adder:[0-9a-f]{12}", facts["image"])
    lines = instructions(facts["containerfile"])
    assert (context / "Containerfile").read_text() == facts["containerfile"]
    # A change of code must build one layer only, and that of the code.
    assert [word for word, _ in lines][-1] == "COPY" and lines[-1][1].startswith("code/ ")
    assert lines[0] == ("FROM", "registry.example/py:3.12")
    assert sorted(path.name for path in (context / "code").iterdir()) == [
        *("common.txt", "helper.py", "link.txt", "main.py", "real.txt", "requirements.txt", "tool.sh")
    ]
    assert sorted(path.name for path in (context / "requirements").iterdir()) == [
        "common.txt",
        "requirements.txt",
    ]
    for path in context.rglob("*"):
        if not path.is_symlink():
            assert stat.S_IMODE(path.stat().st_mode) == (
                0o755 if path.is_dir() or path.name in ("tool.sh", "algorithm-entrypoint") else 0o644
            ), f"any user of the container must be able to read {path}"

    root = tmp_path / "root"
    for source, target in (rest.split() for word, rest in lines if word == "COPY"):
        shutil.copytree(context / source, root / target.lstrip("/"), symlinks=True, dirs_exist_ok=True)
    code = root / "hkube/algorithm-runner/algorithm_unique_folder"
    (code / "__init__.py").touch()
    words = dict(lines)
    variables = dict(one.split("=", 1) for one in shlex.split(words["ENV"]))
    assert words["USER"].split(":")[0].isdecimal(), "runAsNonRoot is checked by the number"
    assert json.loads(words["ENTRYPOINT"]) == ["/usr/local/bin/algorithm-entrypoint"]
    script = root / "opt/hkrunner-install/algorithm-entrypoint"
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    for path in (root, *root.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o555)
    with ScriptedWorker() as worker:
        env = {
            **variables,
            "HKRUNNER_PYTHON": sys.executable,
            "PATH": f"{HKRUNNER.parent}:{os.environ['PATH']}",
            "TMPDIR": str(temporary),
            "WORKER_SOCKET_PORT": str(worker.port),
            "HKRUNNER_STATE_DIR": None,
            "STORAGE_PROTOCOL": "v1",
        }
        with Program([script], cwd=root / words["WORKDIR"].lstrip("/"), env=env) as program:
            answer = worker.accept().run([1, 2, 3])
            assert answer["data"] == {
                "sum": 6,
                "helper": "algorithm_unique_folder.helper",
                "linked": "followed",
            }
            # The descriptor is the cluster's: limits in a file of the image would be older.
            assert not any("256 MiB" in line for line in program.stderr)
    for path in root.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)


def test_the_wheel_in_the_context_is_the_hkrunner_that_runs_and_is_the_same_each_time(
    algorithm: Path, tmp_path: Path
) -> None:
    images = []
    for name in ("one", "two"):
        ended = run_hkrunner("image", "--context", tmp_path / name, cwd=algorithm)
        assert ended.status == 0, ended.stderr
        images.append(ended.stdout)
        os.utime(algorithm / "main.py")
    assert images[0] == images[1]
    (algorithm / "main.py").write_text(MAIN + "\n")
    other = run_hkrunner("image", "--dry-run", "--json", cwd=algorithm)
    assert json.loads(other.stdout)["image"] != images[0].strip(), "other code has another name"

    wheels = [next((tmp_path / name / "hkrunner").glob("*.whl")) for name in ("one", "two")]
    assert wheels[0].read_bytes() == wheels[1].read_bytes()
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target]
    subprocess.run([*pip, wheels[0]], check=True, capture_output=True)
    told = subprocess.run(
        [target / "bin" / "hkrunner", "version"],
        env={**os.environ, "PYTHONPATH": str(target)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert told.stdout == run_hkrunner("version").stdout
    with zipfile.ZipFile(wheels[0]) as wheel:
        names = wheel.namelist()
    assert "hkrunner/runner/image/algorithm-entrypoint" in names
    assert not [one for one in names if "/tests/" in one or one.endswith(".pyc")]


def test_what_the_image_cannot_be_is_said_before_anything_is_built(algorithm: Path, tmp_path: Path) -> None:
    def refused(*words: str | Path, status: int = 2) -> str:
        ended = run_hkrunner("image", *words, cwd=algorithm)
        assert (ended.status, ended.stdout) == (status, ""), ended.stderr
        return ended.stderr

    assert "--push wants --tag" in refused("--push")
    assert "--tag wants the name of an image" in refused("--tag", "a@sha256:1", "--dry-run")
    assert "already" in refused("--context", algorithm)
    (algorithm / ".hkubeignore").write_text("*.py\n")
    assert "the entry, is left out of the code" in refused("--dry-run")
    (algorithm / ".hkubeignore").unlink()
    (algorithm / "requirements.txt").write_text("./package\n-r ../shared.txt\n")
    (algorithm / "package").mkdir()
    (tmp_path / "shared.txt").touch()
    assert "shared.txt lies outside of the code" in refused("--dry-run")
    (algorithm / "requirements.txt").write_text("-e ./package\n")
    ended = run_hkrunner("image", "--dry-run", cwd=algorithm)
    assert "each change of the code installs all of it again" in ended.stderr
    assert instructions(ended.stdout)[-1][0] == "CMD", "the code was copied before"
    (algorithm / "requirements.txt").write_text(f"-e {algorithm}/package\n")
    assert f"installs from {algorithm}/package, which is elsewhere in the image: write ./package" in refused(
        "--dry-run"
    )
    (algorithm / "requirements.txt").unlink()
    url = (algorithm / "package").as_uri()
    (algorithm / "pyproject.toml").write_text(
        f'[project]\nname = "a"\ndependencies = ["p @ {url} ; os_name == \'posix\'"]'
    )
    assert run_hkrunner("image", "--context", tmp_path / "made", cwd=algorithm).status == 0
    (line,) = (tmp_path / "made/requirements/requirements.txt").read_text().splitlines()
    there = "/hkube/algorithm-runner/algorithm_unique_folder"
    assert line == f"p @ file://{there}/package ; os_name == 'posix'"
    made = (tmp_path / "made/Containerfile").read_text()
    assert made.index(f"COPY code/ {there}/") < made.index("pip install -r")
    (algorithm / "algorithm.yml").write_text("name: adder\nenv: nodejs\n")
    assert "images of Python code" in refused("--dry-run")


def test_without_an_engine_one_sentence_says_what_was_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        HkrunnerError, match=r"docker: not installed; podman: not installed; buildah: not installed"
    ):
        find_engine(None)
    (tmp_path / "docker").write_text("#!/bin/sh\necho first >&2\necho 'no daemon' >&2\nexit 1\n")
    (tmp_path / "docker").chmod(0o755)
    with pytest.raises(HkrunnerError, match=r"docker: no daemon; podman: not installed"):
        find_engine(None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_the_engine_too_and_leaves_no_folder(
    number: signal.Signals, algorithm: Path, tmp_path: Path
) -> None:
    engine, temporary = tmp_path / "bin" / "docker", tmp_path / "temporary"
    engine.parent.mkdir()
    temporary.mkdir()
    # One that cleans up, as all of them do; `version` says that it works. It says that it builds when a
    # signal ends what it has started: one between the shell's fork and exec would be lost.
    engine.write_text(
        "#!/bin/sh\n[ $1 = version ] && exit 0\ntrap 'kill $!; echo cleaned >&2; exit 1' TERM\n"
        "(trap - TERM; echo builds $$ >&2; exec sleep 60) & wait\n"
    )
    engine.chmod(0o755)
    env = {"PATH": f"{engine.parent}:{os.environ['PATH']}", "TMPDIR": str(temporary)}
    with Program([HKRUNNER, "image"], cwd=algorithm, env=env) as program:
        builds = psutil.Process(int(program.wait_for_line("builds ").split()[-1]))
        program.send_signal(number)
        is_killed = number == signal.SIGKILL
        assert program.wait() == (-number if is_killed else 128 + number)
    assert "cleaned" in "".join(program.stderr) and "Traceback" not in "".join(program.stderr)
    # After SIGKILL nobody waits for the engine, whose last words are heard before its end.
    wait_until(lambda: not runs(builds), deadline_s=10 if is_killed else 0, what="the end of the engine")
    assert is_killed or list(temporary.iterdir()) == [], "a later run removes what SIGKILL has left"


#: Notes its arguments, one line a call, and for a build what the context has; pushes only what it has built.
DOCKER = """\
#!/bin/sh
echo "$*" >> "$0.calls"
case $1 in
    version) echo 28.2.2 ;;
    build)
        for context; do :; done
        ls "$context" > "$0.context"
        cp "$context/Containerfile" "$0.containerfile"
        echo "$3" > "$0.built"
        echo 'Successfully built'
        ;;
    push) [ "$2" = "$(cat "$0.built")" ] || { echo "no image $2" >&2; exit 1; } ;;
esac
"""


def test_docker_gets_the_context_the_users_options_and_the_full_name(algorithm: Path, tmp_path: Path) -> None:
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    env = {"PATH": f"{docker.parent}:{os.environ['PATH']}"}
    words = (
        "--tag",
        "registry.example/team/adder",
        "--push",
        "--",
        "--build-arg",
        "A=b c",
        "--network",
        "host",
    )
    ended = run_hkrunner("image", *words, cwd=algorithm, env=env)
    assert ended.status == 0, ended.stderr
    tag = ended.stdout.strip()
    assert re.fullmatch("registry.example/team/adder:[0-9a-f]{12}", tag)
    assert "Successfully built" in ended.stderr, "what the engine says is no result"
    asked, built, pushed = Path(f"{docker}.calls").read_text().splitlines()
    assert asked == "version --format {{.Server.Version}}"
    found = re.fullmatch(
        rf"build --tag {tag} --file (\S+)/Containerfile --build-arg A=b c --network host (\S+)", built
    )
    assert found is not None and found[1] == found[2], built
    assert not Path(found[2]).exists(), "the context is removed"
    assert Path(f"{docker}.context").read_text().split() == [
        *("Containerfile", "code", "hkrunner", "requirements")
    ]
    assert instructions(Path(f"{docker}.containerfile").read_text())[0] == (
        "FROM",
        "registry.example/py:3.12",
    )
    assert pushed == f"push {tag}"


@pytest.mark.parametrize(
    ("tag", "full"),
    [
        ("alg", "alg:0123"),
        ("localhost:5000/alg", "localhost:5000/alg:0123"),
        ("registry.example/team/alg:2", "registry.example/team/alg:2"),
    ],
)
def test_a_name_without_a_version_gets_the_digest_of_the_content(tag: str, full: str) -> None:
    assert full_tag(tag, "0123") == full


def test_only_a_registry_on_this_machine_is_spoken_to_without_tls() -> None:
    assert is_loopback("localhost:5000/a") and is_loopback("127.0.0.1:5000/a") and is_loopback("127.1.2.3/a")
    assert not any(
        map(is_loopback, ("localhost", "alg:1", "localhost/a", "registry.example:5000/a", "10.0.0.1/a"))
    )
    for wrong in ("", "a@b", " a", "a:"):
        with pytest.raises(SettingsError):
            full_tag(wrong, "0123")


@contextlib.contextmanager
def registry(folder: Path) -> Iterator[str]:
    """A real registry on this machine; its address."""
    port = free_port()
    config = folder / "registry.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder}/registry}}}}\n"
        f"http: {{addr: 127.0.0.1:{port}}}\nlog: {{level: error}}\n"
    )
    program = shutil.which("docker-registry")
    assert program is not None
    with Program([program, "serve", config]):
        yield f"127.0.0.1:{port}"


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_of_this_machine_builds_and_pushes(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where it does not work, the sentence has the reason."""
    storage = tmp_path / "storage.conf"
    storage.write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/images"\nrunroot = "{tmp_path}/run"\n'
    )
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(storage))
    monkeypatch.setenv("BUILDAH_ISOLATION", "chroot")
    try:
        engine = find_engine(name)
    except HkrunnerError as error:
        assert f"({name}: " in str(error)
        return
    context = tmp_path / "context"
    context.mkdir()
    (context / "code").write_text("x = 1")
    (context / "Containerfile").write_text("FROM scratch\nCOPY code /code\n")
    with contextlib.ExitStack() as stack:
        if shutil.which("docker-registry") is None:
            carry_out(engine.build("localhost/one:1", str(context), ()), "the build")
            return
        address = stack.enter_context(registry(tmp_path))
        tag = f"{address}/team/one:1"
        carry_out(engine.build(tag, str(context), ()), "the build")
        wait_until(lambda: _pushes(engine.push(tag)), what="a push to the registry")
        (context / "Containerfile").write_text("FROM nowhere.invalid/none:1\n")
        with pytest.raises(HkrunnerError, match=r"the build failed: \w+ ended with status \d+"):
            carry_out(engine.build(tag, str(context), ()), "the build")
    assert capfd.readouterr().out == "", "what an engine says goes to stderr"


def test_an_engine_begins_with_the_signals_that_python_changes_for_itself(tmp_path: Path) -> None:
    copy = shutil.which("cp")
    assert copy is not None
    carry_out([copy, "/proc/self/status", str(tmp_path)], "the copy")
    masks = dict(line.split(":\t") for line in (tmp_path / "status").read_text().splitlines())
    ignored = int(masks["SigIgn"], 16)
    assert not [one for one in (signal.SIGPIPE, signal.SIGXFSZ) if ignored >> (one - 1) & 1]


def _pushes(words: list[str]) -> bool:
    try:
        carry_out(words, "the push")
    except HkrunnerError:
        return False  # the registry may not listen yet
    return True
