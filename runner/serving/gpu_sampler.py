"""How busy the NVIDIA GPUs are that the algorithm sees, as their driver reports it: for the curves of tasks.

A thread asks the driver, which takes a second to wake a device, and may never answer if it is broken. The
figures include other programs: in a container, the driver does not tell which processes are the algorithm's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

#: One of them exists where NVIDIA's driver is loaded (the second: WSL). Without one, nothing is imported.
DEVICE_FILES = ("/dev/nvidiactl", "/dev/dxg")
INTERVAL_S = 0.5  # between two questions to the driver
_STALE_S = 5.0  # an older answer says nothing: the driver hangs
_IDLE_S = 3.0  # without a question for this long, the driver is left alone
_USED_BYTES = 16 << 20  # of memory beyond the first answer: the algorithm uses a GPU


class GpuUse(NamedTuple):
    """The use of all visible devices together."""

    busy: float  #: 1.5: one works all the time, another half of it
    memory_bytes: int


class GpuSampler:
    """Asks the driver while tasks run."""

    def __init__(self, visible: str | None) -> None:
        """Nothing is asked yet.

        `visible`: CUDA_VISIBLE_DEVICES of the algorithm; None: it sees all devices.
        """
        self._visible = visible
        self._may_answer: bool | None = None  # None before the first question
        self._is_running = False  # the thread
        self._asked_s = 0.0
        self._first: GpuUse | None = None
        self._is_used = False  # the algorithm has used a GPU
        self._latest: tuple[float, GpuUse] | None = None  # when it was answered

    def latest(self) -> GpuUse | None:
        """Return the use a moment ago; None while no GPU is used, or no driver answers. Never waits."""
        if self._may_answer is None:
            self._may_answer = self._visible != "" and any(os.path.exists(path) for path in DEVICE_FILES)
        self._asked_s = time.monotonic()
        if self._may_answer and not self._is_running:
            import threading

            self._is_running = True
            threading.Thread(target=self._run, name="gpus", daemon=True).start()
        if self._latest is None or self._asked_s - self._latest[0] > _STALE_S:
            return None
        return self._latest[1]

    def _run(self) -> None:
        """Ask until latest() has not been called for _IDLE_S."""
        try:
            import pynvml
        except ImportError:  # the extra `gpu` is not installed
            self._may_answer = False
            return
        try:
            pynvml.nvmlInit()
            handles = _visible_devices(pynvml, self._visible)
            while time.monotonic() - self._asked_s < _IDLE_S:
                use = _use(pynvml, handles)
                self._first = self._first or use
                if use.busy > 0 or use.memory_bytes > self._first.memory_bytes + _USED_BYTES:
                    self._is_used = True
                if self._is_used:
                    self._latest = (time.monotonic(), use)
                time.sleep(INTERVAL_S)
            pynvml.nvmlShutdown()
        except pynvml.NVMLError:  # no driver, or a device that was lost: the curves end here
            self._may_answer = False
        finally:
            self._is_running = False


def _visible_devices(pynvml: Any, visible: str | None) -> list[Any]:
    """Return the devices with these numbers, or whose UUIDs begin so."""
    found = []
    for number in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(number)
        uuid = pynvml.nvmlDeviceGetUUID(handle)
        found.append((str(number), uuid.decode() if isinstance(uuid, bytes) else str(uuid), handle))
    if visible is None:
        return [handle for _, _, handle in found]
    names = [name.strip() for name in visible.split(",") if name.strip()]
    return [
        handle
        for number, uuid, handle in found
        if any(name == number or uuid.startswith(name) for name in names)
    ]


def _use(pynvml: Any, handles: Sequence[Any]) -> GpuUse:
    busy, memory_bytes = 0.0, 0
    for handle in handles:
        memory_bytes += int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
        try:
            busy += pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
        except pynvml.NVMLError:  # a device that is divided (MIG) does not say
            pass
    return GpuUse(busy, memory_bytes)
