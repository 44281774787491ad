"""Which of a descriptor, a variable and an option applies, and where a message says it came from."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hkrunner.runner.settings.from_options import settings_of
from hkrunner.runner.settings.limit_options import (
    beyond_container,
    limits_of,
    replicas_beyond_container,
)
from hkrunner.runner.settings.options import OPTIONS
from hkrunner.runner.settings.settings import Settings
from hkrunner.sandbox.shared.limits import Limits

FLAT = {"name": "my-alg", "env": "python", "cpu": 0.5, "gpu": 1, "mem": "512Mi", "entryPoint": "src/main.py"}
MIB = 2**20


def yaml(folder: Path, text: str, name: str = "algorithm.yml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("work/main.py", "work/alg.py", "work/sub/alg.py", "elsewhere/alg.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path / "work"


def settings(
    place: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], **values: Any
) -> Settings:
    monkeypatch.chdir(place)
    defaults = {option.name: option.default for option in OPTIONS}
    from_environ = {
        option.name: environ[name] for option in OPTIONS for name in option.env if name in environ
    }
    return settings_of({**defaults, **from_environ, **values}, environ)


def test_a_flag_overrides_a_variable_and_that_the_file_and_each_is_named(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yaml(place, "name: my-alg\nresources: {cpu: 0.5, mem: 64Mi, gpu: 2}\n")
    found = settings(place, monkeypatch, {})
    assert (found.limits.memory_bytes, found.limits.cpu_cores) == (64 * MIB, 0.5)
    assert dict(found.limits.origins) == {
        "memory_bytes": "mem: in algorithm.yml",
        "cpu_cores": "cpu: in algorithm.yml",
    }
    assert (found.name, found.gpus.number, found.gpus.set_by) == ("my-alg", 2, "gpu: in algorithm.yml:2")
    assert found.limits_from == "algorithm.yml"
    environ = {"HKRUNNER_MEM": "128Mi"}
    found = settings(place, monkeypatch, environ)
    assert found.limits.memory_bytes == 128 * MIB
    assert dict(found.limits.origins)["memory_bytes"] == "HKRUNNER_MEM"
    found = settings(place, monkeypatch, environ, mem="256Mi", cpu="2", gpu="0")
    assert (found.limits.memory_bytes, found.limits.cpu_cores, found.gpus.number) == (256 * MIB, 2, 0)
    assert found.limits.origins == () and found.limits_from == ""


def test_variables_of_the_file_reach_the_algorithm_and_env_overrides_them(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yaml(place, "algorithmEnv:\n  A: file\n  B: file\n  S: {secretKeyRef: {name: a}}\n  T: {fieldRef: {}}\n")
    found = settings(place, monkeypatch, {}, env=("B=flag", "T=flag"))
    assert found.code.variables == {"A": "file", "B": "flag", "T": "flag"}
    assert found.console.notes == (
        "algorithm.yml:4: only the cluster knows the value of S: left out (--env S=… sets it)",
    )


@pytest.mark.parametrize(
    ("text", "cpu"),
    [("cpu: 0", None), ("cpu: '0.25'", 0.25), ("applyCpuLimits: false\ncpu: 1", None), ("name: ab", None)],
)
def test_cpu_is_limited_where_the_cluster_would(
    place: Path, monkeypatch: pytest.MonkeyPatch, text: str, cpu: float | None
) -> None:
    yaml(place, text)
    assert settings(place, monkeypatch, {}).limits.cpu_cores == cpu


def test_reserved_memory_is_the_wrappers_and_is_not_added(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yaml(place, "mem: 64Mi\nreservedMemory: 1Mi\n")
    assert settings(place, monkeypatch, {}).limits.memory_bytes == 64 * MIB


def container(folder: Path, memory_bytes: int) -> str:
    """Return the root of a container with this memory limit."""
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/cgroup").write_text("0::/\n")
    (folder / "sys/fs/cgroup").mkdir(parents=True)
    (folder / "sys/fs/cgroup/memory.max").write_text(str(memory_bytes))
    return str(folder)


def test_a_containers_limit_is_named_as_the_source_if_no_limit_was_set(tmp_path: Path) -> None:
    container(tmp_path, 1024 * MIB)
    limits, came_from = limits_of({}, root=str(tmp_path))
    assert came_from == "memory: the container's 1 GiB less what hkrunner needs"
    assert dict(limits.origins)["memory_bytes"] == "the container's 1 GiB less what hkrunner needs"


@pytest.mark.parametrize(
    ("values", "processes", "note"),
    [
        (
            {"mem": "2Gi"},
            1,
            "--mem 2 GiB: this container allows 512 MiB, of which 417 MiB are left for the alg",
        ),
        ({"mem": "512Mi"}, 1, "use --mem 416Mi, or give the container more memory"),
        (
            {"mem": "200Mi"},
            4,
            "--mem 200 MiB for each of 4 processes: this container allows 512 MiB, of which",
        ),
        ({"total_mem": "1Gi"}, 2, "--mem 512 MiB (--total-mem 1Gi for 2 processes): this container allows"),
        ({"mem": "416Mi"}, 1, None),
        ({"mem": "2Gi", "no_limits": True}, 1, None),
        ({}, 1, None),
    ],
    ids=str,
)
def test_a_limit_for_which_the_container_has_no_room_is_told(
    tmp_path: Path, values: dict[str, Any], processes: int, note: str | None
) -> None:
    root = container(tmp_path, 512 * MIB)
    limits, _ = limits_of(values, processes=processes, root=root)
    told = beyond_container(limits, processes=processes, root=root)
    assert told == note or (note or "no note") in (told or ""), told


def test_the_replicas_of_a_stream_pipeline_are_counted_together(tmp_path: Path) -> None:
    root = container(tmp_path, 1024 * MIB)
    replica = Limits(memory_bytes=300 * MIB)
    assert replicas_beyond_container([replica] * 2, root=root) is None
    told = replicas_beyond_container([replica] * 4, root=root)
    assert told is not None
    assert told.startswith("--mem allows 1.17 GiB for 4 replicas together: this container allows 1 GiB"), told


def test_yaml_is_imported_only_where_a_yaml_file_is_read(tmp_path: Path) -> None:
    from support.programs import run

    (tmp_path / "algorithm.json").write_text(json.dumps(FLAT))
    code = (
        "import sys; from hkrunner.runner.settings.descriptor import read; read('algorithm.json');"
        " print('yaml' in sys.modules)"
    )
    assert run([sys.executable, "-c", code], cwd=tmp_path).stdout == "False\n"
