"""Drive the sandbox's samplers and limiters in a bare loop around a program, and measure how well they hold.

    python benchmarks/sandbox_rig.py memory|cpu|cost|all [--trials N]

This does not run hkrunner itself: it shows what the classes can do without a parent process. Memory is
measured by the kernel: by the high-water mark of a cgroup v1 where this machine permits one, otherwise by
ru_maxrss.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hkrunner.sandbox.linux.scheduling import ask_for_short_slices, step_back
from hkrunner.sandbox.shared.limits import MI, Limits
from hkrunner.sandbox.usage.sampler import TreeSampler
from hkrunner.sandbox.usage.shared_memory import SharedMemory
from hkrunner.sandbox.usage.usage import Breach, breach
from hkrunner.sandbox.warden.cpu_throttle import CpuThrottle
from hkrunner.sandbox.warden.reserved_brake import ReservedBrake

PROGRAMS = Path(__file__).resolve().parent.parent / "tests" / "algorithms"
V1 = Path("/sys/fs/cgroup/memory")
PR_SET_CHILD_SUBREAPER = 36


class Ruler:
    """The kernel's own high-water mark of a program's memory."""

    def __init__(self) -> None:
        self.path = V1 / f"hkrunner-rig-{os.getpid()}-{time.monotonic_ns()}"
        try:
            self.path.mkdir()
            self.is_cgroup = True
        except OSError:
            self.is_cgroup = False

    def join(self) -> None:
        if self.is_cgroup:
            (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def peak(self) -> int | None:
        if not self.is_cgroup:
            return None
        return int((self.path / "memory.max_usage_in_bytes").read_text())

    def close(self) -> None:
        for _ in range(200):
            try:
                if self.is_cgroup:
                    self.path.rmdir()
                return
            except OSError:
                time.sleep(0.01)


def run(argv: list[str], limits: Limits, *, seconds: float, own_stop: bool = True) -> dict[str, Any]:
    """Run a program under limits; return what happened."""
    ruler = Ruler()
    shared = SharedMemory()
    sampler = TreeSampler(os.getpid(), limits, shared=shared)
    brake = ReservedBrake(limits.memory_bytes) if limits.memory_bytes and limits.mem_mode == "brake" else None
    throttle = CpuThrottle(limits.cpu_cores, sampler) if limits.cpu_cores else None
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        step_back()
        os.dup2(write_end, 1)
        ruler.join()
        os.execv(sys.executable, [sys.executable, *argv])
    os.close(write_end)
    result: dict[str, Any] = {"breach": None, "looks": 0}
    began = time.monotonic()
    cost_began = time.process_time()
    status = None
    while status is None and time.monotonic() - began < seconds:
        now = time.monotonic()
        next_at = sampler.next_at
        if now >= next_at:
            next_at = sampler.look(now)
            result["looks"] += 1
            found = breach(sampler.usage, limits)
            if found is not None:
                result["breach"] = found
                break
            if brake is not None:
                brake.adjust(sampler, now)
        if throttle is not None:
            if now >= throttle.next_at:
                throttle.tick(now)
            next_at = min(next_at, throttle.next_at)
        status = reap(sampler, pid)
        time.sleep(max(0.0, min(next_at - time.monotonic(), 0.1)))
    stop_all(sampler)
    result["cost"] = (time.process_time() - cost_began) / (time.monotonic() - began)
    result["wall_s"] = time.monotonic() - began
    result["cpu_s"] = sampler.cpu_ns() / 1e9
    result["usage"] = sampler.usage
    result["top"] = sampler.top()
    if throttle is not None:
        throttle.off()
        result["stops"] = throttle.stops
    end_all(sampler)
    result["status"] = status
    result["peak"] = ruler.peak()
    result["sampled_peak"] = sampler.peak_bytes
    result["objects"] = shared.objects()
    result["removed"], result["kept"] = shared.remove_left_over()
    sampler.close()
    shared.close()
    os.set_blocking(read_end, False)
    try:
        result["output"] = os.read(read_end, 4096).decode()
    except BlockingIOError:
        result["output"] = ""
    os.close(read_end)
    ruler.close()
    return result


def reap(sampler: TreeSampler, root: int) -> int | None:
    found = None
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return found if found is not None else 0
        if pid == 0:
            return found
        sampler.reaped(pid, usage)
        if pid == root:
            found = status


def stop_all(sampler: TreeSampler) -> None:
    for pid in sampler.pids():
        try:
            os.kill(pid, signal.SIGSTOP)
        except ProcessLookupError:
            pass


def end_all(sampler: TreeSampler) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        sampler.walk()
        for pid in sampler.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            pid, _, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid:
            sampler.reaped(pid, usage)
        else:
            time.sleep(0.001)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):7.2f} ({min(values):.2f} ... {max(values):.2f})"


def memory(trials: int) -> None:
    print("memory: overshoot beyond 256 MiB, MiB, median (min ... max)")
    allowed = 256 * MI
    for mode in ("rss", "brake"):
        for how, count in (
            ("pages", 0), ("huge", 0), ("pages", 4), ("huge", 4),
            ("shared", 0), ("tmpfs", 0), ("memfd", 0), ("list", 0),
        ):  # fmt: skip
            over: list[float] = []
            ends: dict[str, int] = {}
            for _ in range(trials):
                delay = f"{0.2 + random.random() * 0.1:.3f}"
                limits = Limits(memory_bytes=allowed, mem_mode=mode)
                got = run(
                    [str(PROGRAMS / "sandbox_hog.py"), how, "200" if count else "512", str(count), delay],
                    limits,
                    seconds=8,
                )
                if got["peak"] is not None:
                    over.append((got["peak"] - allowed) / MI)
                found: Breach | None = got["breach"]
                end = found.kind if found else got["output"].strip() or f"status {got['status']}"
                ends[end[:40]] = ends.get(end[:40], 0) + 1
            print(
                f"  {mode:6}{how:7}{max(1, count)} proc  {spread(over) if over else '-'}  {ends}", flush=True
            )


def cpu(trials: int) -> None:
    print("cpu: cores used, error, at quota; monitor cost")
    for quota in (0.5, 0.2, 1.2):
        for shape in ("one", "threads", "processes", "forks"):
            if quota > 1 and shape in ("one", "forks"):
                continue
            errors, costs, stops = [], [], 0
            for _ in range(trials):
                got = run(
                    [str(PROGRAMS / "sandbox_spin.py"), shape, "20"], Limits(cpu_cores=quota), seconds=5
                )
                errors.append((got["cpu_s"] / got["wall_s"] / quota - 1) * 100)
                costs.append(got["cost"] * 100)
                stops = got["stops"]
            print(
                f"  {quota} {shape:10} error % {spread(errors)}  cost % {spread(costs)} stops {stops}",
                flush=True,
            )
    got = run([str(PROGRAMS / "sandbox_spin.py"), "light", "3"], Limits(cpu_cores=0.5), seconds=5)
    print(
        f"  light program: {got['stops']} stops, heart-beat p95 {got['output'].strip()} ms late", flush=True
    )


def cost(trials: int) -> None:
    print("cost: of a core, %, far from the limit")
    for count in (0, 4, 16):
        for headroom in (1024, 128, 25, 5):
            values = []
            for _ in range(trials):
                size = 60
                argv = [str(PROGRAMS / "sandbox_hog.py"), "pages", str(size // max(1, count)), str(count)]
                allowed = (size + headroom + 9 + 3 * count) * MI
                got = run(argv, Limits(memory_bytes=allowed, mem_mode="brake"), seconds=3)
                values.append(got["cost"] * 100)
            print(
                f"  {max(1, count):2} proc, headroom ~{headroom:4} MiB: {spread(values)} {got['looks']} looks"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["memory", "cpu", "cost", "all"])
    parser.add_argument("--trials", type=int, default=5)
    wanted = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    slices = "short" if ask_for_short_slices() else "default"
    print(
        f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, {slices} slices, ", end="", flush=True
    )
    subprocess.run(["uname", "-r"], check=False)
    for name, function in (("memory", memory), ("cpu", cpu), ("cost", cost)):
        if wanted.what in (name, "all"):
            function(wanted.trials)


if __name__ == "__main__":
    main()
