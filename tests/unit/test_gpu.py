"""Which GPUs the algorithm gets to see, according to NVIDIA's driver."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hkrunner.runner.errors import SettingsError
from hkrunner.runner.prepare import gpu

SMI = """#!/bin/sh
case "$1" in
--query-gpu*) printf 'GPU-aaaa, 0, 900\\nGPU-bbbb, 1, 4\\nGPU-cccc, 2, 10\\nGPU-dddd, 3, 0\\n' ;;
*) printf 'GPU-bbbb\\nGPU-bbbb\\n' ;;
esac
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stub for nvidia-smi: four devices, one of them at work."""
    file = tmp_path / "nvidia-smi"
    file.write_text(SMI)
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    return file


@pytest.mark.parametrize(
    ("count", "visible", "expected"),
    [
        (1, None, "GPU-dddd"),
        (2, None, "GPU-dddd,GPU-cccc"),
        (3, None, "GPU-dddd,GPU-cccc,GPU-aaaa"),
        (1, "0,1", "GPU-aaaa"),
        (1, "GPU-cc", "GPU-cccc"),
    ],
)
def test_unused_devices_are_chosen_with_the_most_free_memory_first(
    driver: Path, count: int, visible: str | None, expected: str
) -> None:
    assert gpu.choose(count, "--gpu", visible) == expected


@pytest.mark.parametrize(
    ("count", "visible", "sentence"),
    [
        (4, None, "asked for 4 GPUs (--gpu), and 3 of 4 are free; --no-gpu runs without GPUs"),
        (1, "1", "asked for 1 GPU (--gpu), and 0 of 1 are free; CUDA_VISIBLE_DEVICES is 1; --no-gpu"),
        (1, "", "asked for 1 GPU (--gpu), and 0 of 0 are free; CUDA_VISIBLE_DEVICES is empty; --no-gpu"),
    ],
)
def test_too_few_free_devices_are_reported(
    driver: Path, count: int, visible: str | None, sentence: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        gpu.choose(count, "--gpu", visible)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("echo NVIDIA-SMI has failed; exit 9", "(nvidia-smi: NVIDIA-SMI has failed)"),
        ("echo what is this", "the NVIDIA driver's answer cannot be read (nvidia-smi)"),
    ],
)
def test_a_driver_that_does_not_answer_is_reported(driver: Path, script: str, sentence: str) -> None:
    driver.write_text(f"#!/bin/sh\n{script}\n")
    with pytest.raises(SettingsError) as caught:
        gpu.choose(1, "gpu: in algorithm.yml:5", None)
    assert str(caught.value).startswith("asked for 1 GPU (gpu: in algorithm.yml:5), and the NVIDIA driver")
    assert sentence in str(caught.value)
