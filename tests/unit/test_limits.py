"""Quantities as people write them, and what becomes of them."""

from __future__ import annotations

import json
import os
import re
import resource
from pathlib import Path

import pytest
from hkrunner.sandbox.parent.thread_variables import thread_variables
from hkrunner.sandbox.shared import container_limits, limits
from hkrunner.sandbox.shared.limits import GI, MI, Limits, format_bytes, parse_cpu, parse_memory
from hkrunner.sandbox.warden import rlimits
from hypothesis import given
from hypothesis import strategies as some

ALL_UNITS = "[Ki,M,Mi,Gi,m,K,G,T,Ti]"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512Mi", 512 * MI),
        ("512 Mi", 512 * MI),
        (" 512Mi ", 512 * MI),
        ("0.5Gi", 512 * MI),
        ("4Mi", 4 * MI),
        ("4096Ki", 4 * MI),
        ("512M", 512_000_000),
        ("5000K", 5_000_000),
        ("1G", 10**9),
        ("1T", 10**12),
        ("1Ti", 2**40),
        ("5000000000m", 5_000_000),
        ("+8Mi", 8 * MI),
    ],
)
def test_memory_is_read_as_hkube_reads_it(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("0.5", "memory unit must be one of Ki,M,Mi,Gi,m,K,G,T,Ti (did you mean 0.5Gi?)"),
        ("512", "memory unit must be one of Ki,M,Mi,Gi,m,K,G,T,Ti (did you mean 512Mi?)"),
        ("1073741824", "memory unit must be one of Ki,M,Mi,Gi,m,K,G,T,Ti (did you mean 1Gi?)"),
        ("1000000000B", f"B is not a valid unit {ALL_UNITS} (did you mean 954Mi?)"),
        ("", "memory unit must be one of Ki,M,Mi,Gi,m,K,G,T,Ti (write it like 512Mi)"),
        ("0", "memory unit must be one of Ki,M,Mi,Gi,m,K,G,T,Ti (write it like 512Mi)"),
        ("1e3", f"e3 is not a valid unit {ALL_UNITS} (write it like 512Mi)"),
        ("512MB", f"MB is not a valid unit {ALL_UNITS} (did you mean 512Mi?)"),
        ("512mi", f"mi is not a valid unit {ALL_UNITS} (did you mean 512Mi?)"),
        ("1 GiB", f"GiB is not a valid unit {ALL_UNITS} (did you mean 1Gi?)"),
        ("1Pi", f"Pi is not a valid unit {ALL_UNITS} (write it like 512Mi)"),
        ("abc", f"abc is not a valid unit {ALL_UNITS} (write it like 512Mi)"),
        ("-1Mi", "value must be >= 0"),
        ("1Mi", "memory must be at least 4 Mi"),
        ("0Mi", "memory must be at least 4 Mi"),
        ("100m", "memory must be at least 4 Mi"),
        ("Mi", "memory needs a number before its unit, like 512Mi; got 'Mi'"),
        (".Gi", "memory needs a number before its unit, like 512Gi; got '.Gi'"),
        ("1.2.3Mi", "memory needs a number before its unit, like 512Mi; got '1.2.3Mi'"),
        ("99999999999Ti", "memory cannot be as large as 99999999999Ti"),
    ],
)
def test_memory_that_is_wrong_is_refused_in_hkubes_words(text: str, complaint: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_memory(text)
    assert str(caught.value) == complaint


@given(some.text(max_size=12))
def test_whatever_is_written_for_memory_is_a_size_or_a_value_error(text: str) -> None:
    try:
        assert parse_memory(text) >= 4 * MI
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("value", "cores"),
    [(0.5, 0.5), (2, 2.0), ("0.5", 0.5), ("2", 2.0), ("500m", 0.5), ("1500m", 1.5), (" 1 ", 1.0)],
)
def test_cpu_is_a_number_a_numeric_string_or_thousandths(value: str | float, cores: float) -> None:
    assert parse_cpu(value) == cores


@pytest.mark.parametrize("value", ["", "m", "abc", "0.5 cores", "nan", "inf", "1_000", float("nan"), True])
def test_cpu_that_is_no_number_is_refused(value: str | float) -> None:
    with pytest.raises(ValueError, match=r"cpu should be number of cores, like 0\.5 or 500m; got "):
        parse_cpu(value)


def test_a_cpu_quota_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="cpu should be >= 0"):
        parse_cpu(-1)
    with pytest.raises(ValueError, match=r"at least 0\.001"):
        parse_cpu(0)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (514 * MI, "514 MiB"),
        (512 * MI, "512 MiB"),
        (int(4.5 * MI), "4.5 MiB"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (GI, "1 GiB"),
        (GI + 30 * MI, "1.03 GiB"),
        (GI - 1, "1 GiB"),
        (MI - 1, "1 MiB"),
        (3 * 2**40, "3 TiB"),
        (-5 * MI, "-5 MiB"),
        (100 * MI, "100 MiB"),
        (int(99.96 * MI), "100 MiB"),
    ],
)
def test_sizes_are_shown_with_the_digits_that_matter(size: int, text: str) -> None:
    assert format_bytes(size) == text


def test_a_suggested_memory_is_above_the_peak_and_can_be_read_back() -> None:
    for peak in (1, 20 * MI, 300 * MI, 900 * MI, 5 * GI):
        assert parse_memory(limits.suggest_memory(peak)) >= peak * 1.25
    assert limits.suggest_memory(300 * MI) == "384Mi"
    assert limits.suggest_memory(514 * MI, limit_bytes=512 * MI) == "1Gi", "ended: who knows what it needs"
    assert limits.suggest_memory(900 * MI, limit_bytes=100 * MI) == "1152Mi"


@pytest.mark.parametrize(
    ("origin", "option"),
    [
        (None, "--mem 416Mi"),
        ("algorithm.yml", "--mem 416Mi"),
        ("--total-mem 400Mi for 2 processes", "--total-mem 832Mi"),
        ("--total-mem 1 Gi for 5 processes", "--total-mem 2080Mi"),
    ],
)
def test_the_option_for_more_memory_is_the_one_that_limits_it(origin: str | None, option: str) -> None:
    origins = () if origin is None else (("memory_bytes", origin),)
    assert limits.option_for_memory(201 * MI, 200 * MI, origins) == option


@pytest.mark.parametrize("size", [256 * MI, 300 * MI, GI + 300 * MI, 16 * GI])
@pytest.mark.parametrize("processes", [1, 4])
def test_a_container_that_limits_memory_is_what_has_to_grow(size: int, processes: int) -> None:
    share = container_limits.child_memory_bytes(size, processes=processes)
    origins = (("memory_bytes", limits.container_origin(size, processes)),)
    told = limits.option_for_memory(share + MI, share, origins)
    text = re.fullmatch(r"a container with (\S+)", told)
    assert text is not None
    larger = parse_memory(text[1])
    assert container_limits.child_memory_bytes(larger, processes=processes) >= 1.97 * share
    assert larger <= 2.2 * size + 128 * MI


def test_limits_come_through_the_pipe_unchanged() -> None:
    one = Limits(cpu_cores=0.5, memory_bytes=512 * MI, pids=256, files=100, mem_mode="rss", enforced=False)
    assert Limits.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_a_limit_of_a_newer_version_is_left_out() -> None:
    assert Limits.from_json({"pids": 3, "moons": 2}) == Limits(pids=3)


@pytest.mark.parametrize(
    "wrong", [{"pids": "3"}, {"pids": -1}, {"pids": True}, {"mem_mode": "hope"}, {"enforced": 1}]
)
def test_an_invalid_limit_is_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} cannot be "):
        Limits.from_json(wrong)


# --- the container ---


def lay(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def test_the_smallest_limit_among_the_parent_groups_is_the_containers(tmp_path: Path) -> None:
    root = lay(
        tmp_path,
        {
            "proc/self/cgroup": "0::/ä/b\n",
            "sys/fs/cgroup/memory.max": "max\n",
            "sys/fs/cgroup/ä/memory.max": f"{512 * MI}\n",
            "sys/fs/cgroup/ä/b/memory.max": f"{600 * MI}\n",
        },
    )
    assert container_limits.container_memory_bytes(root=root) == 512 * MI


def test_a_container_with_the_old_cgroups_is_understood(tmp_path: Path) -> None:
    root = lay(
        tmp_path,
        {
            # The path is the one outside of the container; inside, the mount's top is the container.
            "proc/self/cgroup": "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{256 * MI}\n",
        },
    )
    assert container_limits.container_memory_bytes(root=root) == 256 * MI


@pytest.mark.parametrize("text", ["9223372036854771712\n", "max\n", "\n", "nonsense"])
def test_absent_limits_stay_absent(tmp_path: Path, text: str) -> None:
    root = lay(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": text,
            "sys/fs/cgroup/memory.max": text,
        },
    )
    assert container_limits.container_memory_bytes(root=root) is None
    assert container_limits.container_memory_bytes(root=str(tmp_path / "nowhere")) is None


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 0.5),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "max 100000\n"}, 2.0),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "nonsense\n"}, 2.0),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/docker/x\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            1.0,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            2.0,
        ),
        ({}, 2.0),
    ],
)
def test_the_cores_are_those_of_the_affinity_or_of_the_containers_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: float
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert container_limits.available_cores(root=lay(tmp_path, files)) == cores


def test_the_child_gets_what_its_container_has_left_but_never_less_than_half() -> None:
    for size in (64 * MI, 512 * MI, 4 * GI):
        assert size // 2 <= container_limits.child_memory_bytes(size) < size
    assert container_limits.child_memory_bytes(4 * GI) > 3.7 * GI
    caches = container_limits.STORAGE_BYTES + 800_000_000
    without = container_limits.child_memory_bytes(4 * GI)
    assert container_limits.child_memory_bytes(4 * GI, storage_bytes=caches) == without - caches
    assert container_limits.child_memory_bytes(GI, storage_bytes=caches) == GI // 2


# --- the child ---


def test_numeric_libraries_get_variables_with_the_number_of_threads() -> None:
    assert thread_variables(0.5, {})["OMP_NUM_THREADS"] == "1"
    assert thread_variables(1.5, {})["OPENBLAS_NUM_THREADS"] == "2"
    assert thread_variables(2.0, {})["MKL_NUM_THREADS"] == "2"
    assert thread_variables(2.0, {})["JAVA_TOOL_OPTIONS"] == "-XX:ActiveProcessorCount=2"
    assert thread_variables(None, {}) == {}


def test_what_the_user_set_is_never_overridden() -> None:
    added = thread_variables(1, {"MKL_NUM_THREADS": "7"})
    assert "MKL_NUM_THREADS" not in added
    assert "JAVA_TOOL_OPTIONS" not in thread_variables(1, {"JAVA_TOOL_OPTIONS": "-Xmx1g"})
    assert "OPENBLAS_NUM_THREADS" in added
    # OpenBLAS would follow OMP_NUM_THREADS without a variable of its own.
    assert "OPENBLAS_NUM_THREADS" not in thread_variables(1, {"OMP_NUM_THREADS": "7"})


def test_each_limit_of_a_process_is_one_call_and_address_space_is_none_of_them() -> None:
    plan = rlimits.rlimits_of(Limits(files=64, cpu_time_s=10, memory_bytes=64 * MI))
    assert [(one.name, one.value) for one in plan] == [
        ("RLIMIT_NOFILE", 64),
        ("RLIMIT_CPU", 21),
    ]
    assert rlimits.rlimits_of(Limits(files=64, enforced=False)) == []


def test_a_hard_limit_that_is_lower_already_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (50, 60))
    monkeypatch.setattr(resource, "setrlimit", lambda which, pair: calls.append((which, pair)))
    rlimits.set_rlimits(rlimits.rlimits_of(Limits(files=64)))
    assert calls == [(resource.RLIMIT_NOFILE, (60, 60))]


def test_the_users_tasks_are_counted_with_their_threads(tmp_path: Path) -> None:
    assert rlimits.count_user_tasks() >= len(os.listdir("/proc/self/task"))
