"""`hkrunner doctor`: a line for each finding, its remedy, and whether all that is needed is there."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import time
from pathlib import Path
from typing import Any

import pytest
from hkrunner.runner.cli import doctor_checks, doctor_packages
from hkrunner.runner.cli.doctor_finding import Finding, Machine
from hkrunner.sandbox.shared.limits import MI
from support.programs import Result, run_hkrunner

#: The variables that decide about proxies, taken out.
NO_PROXIES: dict[str, str | None] = {
    name: None for name in os.environ if name.lower().endswith("_proxy") or name.lower() == "no_proxy"
}


def examine(cwd: Path, *args: str, env: dict[str, str | None] | None = None) -> tuple[int, dict[str, Any]]:
    """Return the exit status and the findings by their names."""
    ended = run_hkrunner("doctor", "--json", *args, cwd=cwd, env={**NO_PROXIES, **(env or {})})
    told = json.loads(ended.stdout)
    assert told["ok"] == (ended.status == 0)
    return ended.status, {one["name"]: one for one in told["findings"]}


def found(folder: Path, **environ: str) -> dict[str, Finding]:
    """Return the findings of this process."""
    place = Machine(environ, str(folder), root=str(folder / "root"))
    return {one.name: one for one in doctor_checks.examine(place)}


def test_every_finding_is_one_line_and_what_is_wrong_has_a_remedy(tmp_path: Path) -> None:
    ended: Result = run_hkrunner("doctor", cwd=tmp_path)
    *lines, last = ended.stdout.splitlines()
    assert (ended.status, ended.stderr) == (0, "")
    assert len(lines) > 15
    for line in lines:
        assert line[:2] in ("✔ ", "◌ "), line  # ✘ only where something that is needed is missing
        assert line.startswith("✔") or " → " in line, line
    assert last.startswith("everything that is needed is there")


def test_the_findings_name_versions_limits_and_surroundings(tmp_path: Path) -> None:
    _, findings = examine(tmp_path)
    wanted = {"python", "hkrunner", "packages", "tensorboard", "cgroup", "landlock", "memory brake", "memfd"}
    wanted |= {"pidfd", "subreaper", "process tree", "container memory", "/dev/shm", "proxy", "loopback"}
    assert wanted | {"state folder", "clock", "open files"} <= findings.keys()
    assert "click 8." in findings["packages"]["text"]


def test_it_takes_less_than_a_second(tmp_path: Path) -> None:
    times = []
    for _ in range(3):
        began, cpu_s = time.monotonic(), used()
        run_hkrunner("doctor", cwd=tmp_path)
        # A busy machine may take long to give it the processor. What it waits for is no such time: it would
        # be a server that does not answer, or a lock.
        times.append((used() - cpu_s, time.monotonic() - began))
        if times[-1][0] < 1 and times[-1][1] < 30:
            return
    raise AssertionError(times)


def used() -> float:
    """Return the seconds of processor time of the programs that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_a_proxy_for_localhost_is_reported_and_does_not_change_the_status(tmp_path: Path) -> None:
    status, findings = examine(tmp_path, env={"http_proxy": "http://proxy.example:3128"})
    proxy = findings["proxy"]
    assert (status, proxy["ok"]) == (0, False)
    assert proxy["text"].startswith("http_proxy is set without no_proxy=localhost")
    assert proxy["remedy"] == "export no_proxy=localhost,127.0.0.1"
    exempt: dict[str, str | None] = {
        "HTTPS_PROXY": "http://proxy.example:3128",
        "no_proxy": "localhost, 127.0.0.1",
    }
    assert examine(tmp_path, env=exempt)[1]["proxy"]["ok"]


def test_a_state_folder_that_cannot_be_written_is_needed_and_missing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, findings = examine(tmp_path, "--state-dir", "file/state")
    state = findings["state folder"]
    assert (status, state["ok"], state["needed"]) == (1, False, True)
    assert "cannot be written: Not a directory" in state["text"]
    assert "--no-state" in state["remedy"]
    shown = run_hkrunner("doctor", "--state-dir", "file/state", cwd=tmp_path)
    assert "\n✘ state folder: " in shown.stdout
    assert shown.stdout.splitlines()[-1] == "needed, but missing: state folder"


def test_nothing_is_written(tmp_path: Path) -> None:
    assert examine(tmp_path)[0] == 0
    assert list(tmp_path.iterdir()) == []


def test_a_tensorboard_that_misses_pkg_resources_is_reported_before_a_board_dies_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = {"tensorboard": "2.20.0", "setuptools": "82.0.0"}
    monkeypatch.setattr(doctor_packages, "_version", installed.get)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "pkg_resources" else find_spec(name, *rest),
    )
    finding = found(tmp_path)["tensorboard"]
    assert (finding.ok, finding.needed) == (False, True)
    assert finding.text == "2.20.0 needs pkg_resources, which setuptools 82.0.0 no longer has"
    assert "tensorboard>=2.21" in finding.remedy


def test_a_missing_fast_loader_slows_boards_and_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_packages, "_glibc", lambda: (2, 17))
    findings = found(tmp_path)
    assert findings["tensorboard"].ok
    assert "GLIBC" in findings["fast loader"].text and "slower" in findings["fast loader"].text
    assert not findings["fast loader"].needed


def container(folder: Path, memory_bytes: int) -> None:
    """The findings of found(folder) are those of a container with this memory limit."""
    (folder / "root/proc/self").mkdir(parents=True)
    (folder / "root/proc/self/cgroup").write_text("0::/\n")
    (folder / "root/sys/fs/cgroup").mkdir(parents=True)
    (folder / "root/sys/fs/cgroup/memory.max").write_text(f"{memory_bytes}\n")


def test_the_limit_of_a_small_container_is_reported(tmp_path: Path) -> None:
    container(tmp_path, 64 * MI)
    finding = found(tmp_path)["container memory"]
    assert not finding.ok
    assert finding.text.startswith("64 MiB; without --mem the algorithm gets 32 MiB of it")


def test_a_memory_limit_for_which_the_container_has_no_room_is_reported(tmp_path: Path) -> None:
    container(tmp_path, 512 * MI)
    finding = found(tmp_path, HKRUNNER_MEM="512Mi")["container memory"]
    assert not finding.ok and "HKRUNNER_MEM allows it 512 MiB" in finding.text
    assert finding.remedy == "set HKRUNNER_MEM to 416Mi, or give the container more memory"
    assert found(tmp_path, HKRUNNER_MEM="416Mi")["container memory"].ok
    assert found(tmp_path, HKRUNNER_MEM="much")["container memory"].ok


def test_a_check_that_fails_is_a_finding_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(place: Machine) -> Any:
        raise RuntimeError("strange")

    monkeypatch.setattr(doctor_checks, "CHECKS", (broken,))
    assert found(tmp_path)["broken"].text == "the check failed: RuntimeError: strange"
