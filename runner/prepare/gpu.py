"""Finds free GPUs with NVIDIA's library (extra `gpu`), or with `nvidia-smi`."""

from __future__ import annotations

import subprocess
from typing import Any, NamedTuple

from ..errors import SettingsError

#: Time limit for the driver, which wakes sleeping devices.
ANSWER_S = 20.0


class Device(NamedTuple):
    """One GPU. CUDA_VISIBLE_DEVICES accepts UUIDs, which do not depend on the order of devices."""

    uuid: str
    number: str
    used_bytes: int
    processes: int


def choose(count: int, where: str, visible: str | None) -> str:
    """Return CUDA_VISIBLE_DEVICES for `count` devices that no process uses.

    `where`: source of the request, for messages. `visible`: the current value of the variable, to which the
    choice is restricted. Raises SettingsError if there are fewer free devices.
    """
    asked = f"{count} GPU{'s' if count > 1 else ''} ({where})"
    found = devices()
    if isinstance(found, str):
        raise SettingsError(f"asked for {asked}, and {found}; --no-gpu runs without GPUs")
    if visible is not None:
        names = [one.strip() for one in visible.split(",") if one.strip()]
        found = [one for one in found if any(n == one.number or one.uuid.startswith(n) for n in names)]
    free = sorted((one for one in found if not one.processes), key=lambda one: one.used_bytes)
    if len(free) < count:
        shown = f"; CUDA_VISIBLE_DEVICES is {visible or 'empty'}" if visible is not None else ""
        raise SettingsError(
            f"asked for {asked}, and {len(free)} of {len(found)} are free{shown}; --no-gpu runs without GPUs"
        )
    return ",".join(one.uuid for one in free[:count])


def devices() -> list[Device] | str:
    """Return the devices, or the reason why there are none, as the end of a sentence."""
    try:
        import pynvml
    except ImportError:
        return _by_command()
    try:
        return _by_library(pynvml)
    except pynvml.NVMLError:
        return _by_command()


def _by_library(pynvml: Any) -> list[Device]:
    pynvml.nvmlInit()
    try:
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            uuid = pynvml.nvmlDeviceGetUUID(handle)
            found.append(
                Device(
                    uuid.decode() if isinstance(uuid, bytes) else str(uuid),
                    str(index),
                    int(pynvml.nvmlDeviceGetMemoryInfo(handle).used),
                    len(pynvml.nvmlDeviceGetComputeRunningProcesses(handle)),
                )
            )
        return found
    finally:
        pynvml.nvmlShutdown()


def _by_command() -> list[Device] | str:
    try:
        listed = _ask("--query-gpu=uuid,index,memory.used")
        running = _ask("--query-compute-apps=gpu_uuid")
    except FileNotFoundError:
        return "there is no NVIDIA driver (no nvidia-smi on PATH)"
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stdout", None) or getattr(error, "stderr", None) or str(error)
        return f"the NVIDIA driver does not answer (nvidia-smi: {_first_line(told)})"
    uuids = [line[0] for line in running]
    try:
        return [
            Device(uuid, index, int(used) * 1024 * 1024 if used.isdigit() else 0, uuids.count(uuid))
            for uuid, index, used in listed
        ]
    except ValueError:
        return "the NVIDIA driver's answer cannot be read (nvidia-smi)"


def _ask(query: str) -> list[list[str]]:
    told = subprocess.run(
        ["nvidia-smi", query, "--format=csv,noheader,nounits"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=ANSWER_S,
        check=True,
    )
    return [[word.strip() for word in line.split(",")] for line in told.stdout.splitlines() if line.strip()]


def _first_line(text: str | bytes) -> str:
    lines = (text.decode("utf-8", "replace") if isinstance(text, bytes) else text).strip().splitlines()
    return lines[0][:200] if lines else "no text"
