"""`hkrunner apply` and `hkrunner algorithm`, against a server that answers as the real one was seen to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hkrunner.runner.app.apply import Applier, ApplyOutcome, new_lines
from hkrunner.runner.app.apply_package import ApplyRequest, prepare_apply
from hkrunner.runner.cluster.address import Cluster
from hkrunner.runner.cluster.algorithm_payload import changes, not_stored, without_secrets
from hkrunner.runner.cluster.algorithm_store import AlgorithmStore
from hkrunner.runner.cluster.api import ClusterApi
from hkrunner.runner.errors import ClusterError
from hkrunner.runner.settings.from_options import settings_of
from hkrunner.runner.settings.options import OPTIONS
from support.clock import Clock
from support.hkube_store import HkubeStore
from support.programs import HKRUNNER, Program, Result, run_hkrunner

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "hkubectl-apply.json").read_text())


@pytest.fixture
def store() -> Iterator[HkubeStore]:
    with HkubeStore().running() as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in RECORDED["files"].items():
        (tmp_path / "alg" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "alg" / name).write_text(text)
    return tmp_path / "alg"


def command(store: HkubeStore, folder: Path, *words: str, status: int = 0) -> Result:
    ended = run_hkrunner(*words, cwd=folder, env={"HKRUNNER_CLUSTER": store.url})
    assert ended.status == status, ended
    return ended


def apply_here(
    store: HkubeStore, folder: Path, monkeypatch: pytest.MonkeyPatch, **asked: Any
) -> tuple[ApplyOutcome, str]:
    """Do what `hkrunner apply` does, without waiting; return what came of it, and what was told."""
    monkeypatch.chdir(folder)
    clock = Clock()
    told: list[str] = []

    def sleep(seconds: float) -> None:
        clock.now += seconds

    with contextlib.ExitStack() as stack:
        request = ApplyRequest(**asked)
        settings = settings_of({**{one.name: one.default for one in OPTIONS}, "no_state": True}, {})
        prepared = prepare_apply(settings, request, {}, stack)
        store_api = AlgorithmStore(ClusterApi(Cluster("lab", store.url), sleep=sleep, clock=clock))
        tell = told.append
        applier = Applier(store_api, "lab", request, tell=tell, show_log=tell, sleep=sleep, clock=clock)
        return applier.apply(prepared), "\n".join(told)


def assert_sent(store: HkubeStore, recorded: dict[str, Any]) -> None:
    """Assert that the last form was that of hkubectl, but for who sent it."""
    parts = store.forms[-1]
    payload, expected = json.loads(parts[0].content), dict(recorded["payload"])
    assert payload.pop("userInfo").keys() == expected.pop("userInfo").keys()
    assert payload == expected
    assert [[part.name, part.content_type] for part in parts] == recorded["parts"]


def test_what_is_sent_is_what_hkubectl_sends_and_the_same_for_the_same_code(
    store: HkubeStore, folder: Path
) -> None:
    recorded = RECORDED["code"]
    command(store, folder, "apply", "--no-wait", *recorded["arguments"])
    assert_sent(store, recorded)
    assert store.members() == recorded["members"]
    package = store.forms[-1][1].content
    os.utime(folder / "main.py")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "main.pyc").touch()
    command(store, folder, "apply", "--no-wait", "--force-build")
    assert store.forms[-1][-1].content == package
    assert json.loads(store.forms[-1][1].content) == {"forceBuild": True}


def test_a_build_is_followed_until_it_is_a_version_that_jobs_use(
    store: HkubeStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome, told = apply_here(store, folder, monkeypatch)
    assert outcome.facts()["version"]["semver"] == "1.0.0" and outcome.is_current
    assert [line for line in told.splitlines() if "step" in line] == ["step 1", "step 2", "step 3"]
    assert "left out (.hkubeignore): logs/a.log" in told and "shapes is new in" in told

    (folder / "main.py").write_text("def start(args): return 2\n")
    store.is_busy = True
    outcome, told = apply_here(store, folder, monkeypatch, mem="1Gi")
    assert outcome.facts()["version"]["semver"] == "1.0.1" and not outcome.is_current
    assert "changes mem: 512Mi → 1Gi" in told
    assert "jobs go on with the current one" in told
    assert store.algorithms["shapes"]["mem"] == "512Mi"
    refused = command(store, folder, "algorithm", "versions", "shapes", "--use", "1.0.1", status=8)
    assert "there are running pipelines; job1; --force changes it nevertheless" in refused.stderr
    command(store, folder, "algorithm", "versions", "shapes", "--use", "1.0.1", "--force")
    assert store.algorithms["shapes"]["mem"] == "1Gi"


def test_a_change_that_the_cluster_drops_silently_is_sent_again(
    store: HkubeStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the first build has not ended, the api-server answers `messages: [null]` and stores nothing."""
    build_id = command(store, folder, "apply", "--no-wait").stdout.strip()
    with pytest.raises(ClusterError, match="cpu of shapes is not stored: apply again after the build"):
        apply_here(store, folder, monkeypatch, cpu="2", no_wait=True)
    outcome, told = apply_here(store, folder, monkeypatch, cpu="2", current=True)
    assert f"an earlier build has not ended: {build_id}" in told
    assert len(store.builds) == 1 and store.algorithms["shapes"]["cpu"] == 2
    assert outcome.version is not None and outcome.version.number == "1.0.1"


def test_a_build_that_fails_is_an_error_with_its_reason(store: HkubeStore, folder: Path) -> None:
    store.states = [("active", 60, "pip install\n"), ("failed", 80, "pip install\nno such package\n")]
    ended = command(store, folder, "apply", status=8)
    assert "    no such package" in ended.stderr
    assert ended.stderr.endswith("the build shapes-000000 of shapes has failed: Exit with code 1\n")


def test_an_interrupt_ends_the_waiting_and_says_that_the_build_goes_on(
    store: HkubeStore, folder: Path
) -> None:
    store.states = [("active", 60, "step 1\n")]
    with Program([HKRUNNER, "apply"], cwd=folder, env={"HKRUNNER_CLUSTER": store.url}) as program:
        program.wait_for_line("build active", deadline_s=20)
        program.send_signal(signal.SIGINT)
        assert program.wait() == 130
        assert any("the build shapes-000000 goes on in" in line for line in program.stderr)


def test_nothing_is_sent_by_a_dry_run(store: HkubeStore, folder: Path) -> None:
    ended = command(store, folder, "apply", "--dry-run")
    assert json.loads(ended.stdout)["mem"] == "512Mi"
    assert "would change mem: 512Mi" in ended.stderr and store.forms == []
    alone = run_hkrunner("apply", "--dry-run", cwd=folder)
    assert alone.status == 0 and json.loads(alone.stdout) == json.loads(ended.stdout)
    nowhere = run_hkrunner("apply", cwd=folder)
    assert nowhere.status == 2 and "which cluster? Give --on CLUSTER" in nowhere.stderr
    # Packing would find this first. It may take minutes, for a cluster whose address is wrong.
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).touch()
    unreached = run_hkrunner("apply", "--on", "http://127.0.0.1:9", cwd=folder)
    assert unreached.status == 8 and "cannot be reached: connection refused" in unreached.stderr
    assert "its name is not UTF-8" in command(store, folder, "apply", status=2).stderr
    named = command(store, folder, "apply", "--name", "x" * 33, status=2)
    assert "--name xxx" in named.stderr and "HKube's names have 2 to 32 of a-z, 0-9, dash" in named.stderr
    (folder / "main.py").unlink()
    assert "ENTRY_NOT_FOUND" in command(store, folder, "apply", status=3).stderr
    assert store.forms == []


def test_an_archive_is_sent_with_the_entry_that_was_asked_for(store: HkubeStore, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "code.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("src/other.py"))
    descriptor = {"name": "packed", "env": "python", "code": {"path": "code.tar.gz", "entryPoint": "main.py"}}
    (tmp_path / "algorithm.json").write_text(json.dumps(descriptor))

    def entry_sent(*words: str) -> Any:
        command(store, tmp_path, "apply", "--no-wait", "--force-build", *words)
        return json.loads(store.forms[-1][0].content)["entryPoint"]

    assert entry_sent() == "main.py"
    assert entry_sent("--entry", "./src/other.py") == entry_sent("src/other.py:start") == "src/other.py"
    outside = command(store, tmp_path, "apply", "--entry", "../main.py", status=2)
    assert "--entry ../main.py: the code is code.tar.gz, and its entry is a path in it" in outside.stderr
    function = command(store, tmp_path, "apply", "--entry", "main.py:train", status=2)
    assert (
        "HKube calls `start`, and an entry point there is a file: main.py:train runs with" in function.stderr
    )
    assert len(store.forms) == 3


def test_requirements_that_only_hkrunner_installs_and_logins_in_them_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)

    def told() -> list[str]:
        settings = settings_of({**{one.name: one.default for one in OPTIONS}, "no_state": True}, {})
        with contextlib.ExitStack() as stack:
            package = prepare_apply(settings, ApplyRequest(), {}, stack).package
            assert package is not None
            return [line for line in package.lines() if "HKube's build" in line or "login" in line]

    assert told() == []
    (folder / "pyproject.toml").write_text("[project]\ndependencies = ['six', 'idna']\n")
    (line,) = told()
    assert line.startswith("HKube's build does not install what pyproject.toml lists (six, idna), but only")
    (folder / "requirements.txt").write_text("six\n")
    assert told() == []
    (folder / "requirements.txt").write_text("--index-url https://ada:hush@pypi.example/simple\nsix\n")
    (line,) = told()
    assert "requirements.txt has a login in the address of pypi.example: whoever can read" in line
    assert "hush" not in line


def test_the_algorithms_of_a_cluster_are_listed_shown_and_removed(store: HkubeStore, folder: Path) -> None:
    ended = command(store, folder / "sub", "apply", "--json", *RECORDED["image"]["arguments"])
    assert json.loads(ended.stdout)["version"]["semver"] == "1.0.0"
    assert_sent(store, RECORDED["image"])
    listed = command(store, folder, "algorithm", "ls").stdout
    assert listed.split() == ["img-alg", "1", "cpu", "256Mi", "reg/img:1"]
    shown = command(store, folder, "algorithm", "show", "img-alg")
    assert "algorithmImage: reg/img:1\n" in shown.stdout and "userInfo" not in shown.stdout
    listed = command(store, folder, "algorithm", "versions", "img-alg").stdout
    assert listed.startswith("* 1.0.0    version000") and listed.endswith("reg/img:1\n")
    store.is_busy = True
    assert (
        "is stored in 1 executions" in command(store, folder, "algorithm", "rm", "img-alg", status=8).stderr
    )
    kept = command(store, folder, "algorithm", "rm", "img-alg", "--force")
    assert "its versions are kept" in kept.stderr
    assert (
        "has no algorithm img-alg" in command(store, folder, "algorithm", "show", "img-alg", status=3).stderr
    )


def test_only_new_lines_of_a_builds_output_are_shown_also_when_its_middle_was_cut_out() -> None:
    assert new_lines("", "a\nb\n") == ["a", "b"]
    assert new_lines("a\nb\n", "a\nb\nc") == ["c"]
    before = "\n".join(map(str, range(500)))
    cut = "\n".join([*map(str, range(10)), "Redacted for brevity", *map(str, range(30, 520))])
    assert new_lines(before, cut) == [str(number) for number in range(500, 520)]
    assert new_lines("1\n2\n3", "7\n8") == ["…", "7", "8"]


def test_a_change_is_what_the_cluster_has_otherwise() -> None:
    stored = {
        "cpu": 0.5,
        "mem": "512Mi",
        "algorithmEnv": {"A": "1", "B": "2"},
        "labels": {"x": "yy"},
        "gpu": "1",
    }
    sent = {"name": "n", "cpu": 1, "algorithmEnv": {"A": "1"}, "labels": None, "gpu": 1, "userInfo": {}}
    assert changes(stored, sent) == ["cpu: 0.5 → 1", "algorithmEnv: B", 'labels: {"x": "yy"} → removed']
    assert not_stored(stored, sent) == ["cpu", "algorithmEnv", "labels"], "an object is replaced"
    git = {"url": "u", "branchName": "master"}
    own = {"version": "v1", "mem": "256Mi", "reservedMemory": "26Mi", "gitRepository": git}
    same = {"version": "1", "mem": None, "reservedMemory": None, "gitRepository": {"url": "u"}}
    assert changes(own, same) == [], "what the cluster sets itself"
    secret = {"algorithmEnv": {"A": "1", "B": "hush"}, "gitRepository": {"token": "hush"}, "workerEnv": None}
    assert changes(stored, secret) == ["algorithmEnv: B", "gitRepository: token"]
    assert changes({**stored, "workerEnv": {"A": "hush"}}, {"workerEnv": None}) == ["workerEnv: removed"]
    assert changes(None, {"name": "n", "cpu": 1, "labels": None}) == ["cpu: 1"]
    reference = {"name": "B", "valueFrom": {"secretKeyRef": {"name": "n", "key": "k"}}}
    container = {"name": "c", "env": [{"name": "A", "value": "hush"}, reference], "args": ["http://hush@h"]}
    car = {"container": container, "environments": {"A": "hush"}}
    command = {"dependencyInstallCmd": "pip install --index-url https://ada:hush@index.example/ a"}
    hidden = {"url": "https://hush@host/x", "token": "hush"}
    variables = {"A": "hush", "B": {"secretKeyRef": {"name": "n", "key": "k"}}}
    sent = {"algorithmEnv": variables, "sideCars": [car], "gitRepository": hidden, **command}
    shown = without_secrets(sent)
    assert "hush" not in str([shown, changes(None, sent), changes(sent, dict.fromkeys(sent))])
    assert shown["algorithmEnv"] == {**variables, "A": "(hidden)"}
    assert shown["sideCars"][0]["container"]["env"] == [{"name": "A", "value": "(hidden)"}, reference]
