"""The use of GPUs as curves of a task. The driver is a fake: no machine of the tests has one."""

from __future__ import annotations

import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from hkrunner.boards.runs.history import read_metrics
from hkrunner.runner.serving import gpu_sampler
from hkrunner.runner.serving.gpu_sampler import GpuSampler, GpuUse
from support.waiting import wait_until

MIB = 1 << 20
LIBRARY = """
from types import SimpleNamespace
class NVMLError(Exception): pass
def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlDeviceGetCount(): return 1
def nvmlDeviceGetHandleByIndex(number): return number
def nvmlDeviceGetUUID(handle): return "GPU-aaaa"
def nvmlDeviceGetMemoryInfo(handle): return SimpleNamespace(used=300 << 20)
def nvmlDeviceGetUtilizationRates(handle): return SimpleNamespace(gpu=75)
"""
#: Runs until its curves have the GPUs, however late they are sampled.
ALGORITHM = """
import os, pathlib, time
def start(args, api):
    metrics = pathlib.Path(os.environ["ALGO_METRICS_DIR"], "resources")
    deadline = time.monotonic() + 40
    while not any(b"gpus_busy" in file.read_bytes() for file in metrics.glob("*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
"""
WITH_A_DRIVER = f"""
import runpy, sys, types
sys.modules["pynvml"] = library = types.ModuleType("pynvml")
exec({LIBRARY!r}, vars(library))
from hkrunner.runner.serving import gpu_sampler
gpu_sampler.DEVICE_FILES = ("/dev/null",)
runpy.run_module("hkrunner", run_name="__main__")
"""


class Driver(types.ModuleType):
    """NVIDIA's library with two devices."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.used = [100 * MIB, 900 * MIB]
        self.busy = [0, 0]
        self.is_broken = False
        self.asked = threading.Event()

    def nvmlInit(self) -> None:
        if self.is_broken:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlShutdown(self) -> None:
        pass

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
        return number

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return ("GPU-aaaa", "GPU-bbbb")[handle]

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> types.SimpleNamespace:
        if self.is_broken:
            raise self.NVMLError("GPU is lost")
        answer = types.SimpleNamespace(used=self.used[handle])
        self.asked.set()  # what a test changes after that is in the next answer
        return answer

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> types.SimpleNamespace:
        return types.SimpleNamespace(gpu=self.busy[handle])


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    made = Driver()
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setitem(sys.modules, "pynvml", made)
    monkeypatch.setattr(gpu_sampler, "DEVICE_FILES", (str(tmp_path / "nvidiactl"),))
    monkeypatch.setattr(gpu_sampler, "INTERVAL_S", 0.02)
    monkeypatch.setattr(gpu_sampler, "_IDLE_S", 0.5)
    yield made
    wait_until(lambda: not asking(), what="the end of the thread, since nobody asks")


def asking() -> bool:
    """Whether a thread asks a driver."""
    return any(thread.name == "gpus" for thread in threading.enumerate())


def test_a_gpu_that_is_used_is_told_and_before_that_nothing(driver: Driver) -> None:
    sampler = GpuSampler("GPU-bbbb")
    assert sampler.latest() is None
    assert driver.asked.wait(10)
    assert sampler.latest() is None, "900 MiB are another program's"
    driver.used[1] += 500 * MIB
    wait_until(lambda: sampler.latest() == GpuUse(0.0, 1400 * MIB), what="the memory")
    driver.busy[1] = 60
    wait_until(lambda: sampler.latest() == GpuUse(0.6, 1400 * MIB), what="the work")
    driver.used[1] = 900 * MIB
    driver.busy[1] = 0
    wait_until(lambda: sampler.latest() == GpuUse(0.0, 900 * MIB), what="its end")
    driver.is_broken = True
    wait_until(lambda: not asking(), what="the end of the thread")


@pytest.mark.parametrize("visible", ["", "none-of-them"])
def test_an_algorithm_that_sees_no_gpu_has_no_curve(driver: Driver, visible: str) -> None:
    driver.busy = [100, 100]
    sampler = GpuSampler(visible)
    assert sampler.latest() is None
    wait_until(lambda: not asking(), what="the end of the thread")
    assert sampler.latest() is None


def test_a_driver_that_does_not_answer_is_asked_once(driver: Driver) -> None:
    driver.is_broken = True
    sampler = GpuSampler(None)
    assert sampler.latest() is None
    wait_until(lambda: not asking(), what="the end of the thread")
    assert sampler.latest() is None and not asking()


def test_the_curves_of_a_task_have_the_gpus(tmp_path: Path) -> None:
    file = tmp_path / "alg.py"
    file.write_text(ALGORITHM)
    subprocess.run(
        [sys.executable, "-c", WITH_A_DRIVER, "--entry", file, "-i", "1"],
        cwd=tmp_path,
        timeout=60,
        check=True,
    )
    curves = {curve.tag: curve.points for curve in read_metrics(tmp_path / ".hkrunner", "t1")}
    assert curves["~resources/gpus_busy"][-1].value == 0.75
    assert curves["~resources/gpu_memory_mib"][-1].value == 300
