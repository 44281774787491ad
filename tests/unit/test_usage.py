"""Whether a limit is exceeded follows from the figures alone."""

from __future__ import annotations

from hkrunner.sandbox.shared.limits import MI, Limits
from hkrunner.sandbox.usage.usage import Breach, Usage, breach


def test_usage_at_its_limits_exceeds_none() -> None:
    usage = Usage(memory_bytes=64 * MI, processes=3, cpu_s=1.0, disk_bytes=10)
    assert breach(usage, Limits(memory_bytes=64 * MI, pids=3, cpu_time_s=1.0, disk_bytes=10)) is None
    assert breach(usage, Limits()) is None


def test_each_limit_is_named_when_it_is_exceeded() -> None:
    assert breach(Usage(memory_bytes=2), Limits(memory_bytes=1)) == Breach("memory", 2, 1)
    assert breach(Usage(processes=3), Limits(pids=2)) == Breach("processes", 3, 2)
    assert breach(Usage(cpu_s=2.5), Limits(cpu_time_s=2)) == Breach("cpu_time", 2.5, 2)
    assert breach(Usage(disk_bytes=9), Limits(disk_bytes=8)) == Breach("disk", 9, 8)


def test_memory_that_is_mostly_shared_objects_is_reported_as_such() -> None:
    found = breach(Usage(memory_bytes=100, shared_bytes=80), Limits(memory_bytes=90))
    assert found is not None and found.kind == "shared_memory"
    found = breach(Usage(memory_bytes=100, shared_bytes=20), Limits(memory_bytes=90))
    assert found is not None and found.kind == "memory"


def test_limits_that_are_not_enforced_are_never_exceeded() -> None:
    assert breach(Usage(memory_bytes=100), Limits(memory_bytes=1, enforced=False)) is None
