"""Check limits with real libraries, in every memory mode.

    scripts/bench libraries [--rounds 20] [--only numpy,torch] [--modes auto,rss] [--sandbox strict]
        [--venv FOLDER]

Makes a virtual environment with the libraries (about 4 GB; --venv keeps and reuses one). Measures each
program without a limit; runs it `--rounds` times with the suggested limit, once with 40 % and once with 70 %
of its peak, and once with half a core and with one core. A cell shows the outcome; ✘ marks a wrong one: a
suggested limit that was too small, a failure whose reason is not MemoryLimit, or a run that hangs.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import textwrap
import venv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hkrunner.sandbox.shared.limits import format_bytes

PACKAGES = [
    "numpy", "scipy", "pandas", "scikit-learn", "joblib", "numba", "pyarrow", "polars", "duckdb",
    "xgboost", "lightgbm", "opencv-python-headless", "torch", "tensorflow-cpu", "jax", "onnxruntime",
    "dask[array]", "ray",
]  # fmt: skip
#: A run takes a few seconds; one that takes longer than this hangs.
DEADLINE_S = 120.0
MI = 1 << 20


def pool_of_threads(size: int) -> str:
    """Return a program whose threads have 1 MiB each, all at the same time however busy the machine is."""
    return f"""
from concurrent.futures import ThreadPoolExecutor as T
import threading, time
all_have_theirs = threading.Barrier({size}, timeout=60)
def fill(i):
    block = b'x' * (1 << 20)
    all_have_theirs.wait()
    time.sleep(.2)
    return len(block)
return sum(T({size}).map(fill, range({size})))
"""


#: Body of start(), by library; each works with some 100 MB, and imports what it needs.
PROGRAMS = {
    "numpy": """
import numpy as np
a = np.ones((2000, 2000))
return float((a @ a)[0, 0])
""",
    "scipy": """
import numpy as np, scipy.linalg as l
return float(l.det(np.eye(1500)))
""",
    "pandas": """
import pandas as p, numpy as n
f = p.DataFrame({'k': n.arange(10**6) % 9, 'v': n.ones(10**6)})
return float(f.groupby('k').v.sum().sum())
""",
    "sklearn": """
import numpy as n
from sklearn.ensemble import RandomForestClassifier as R
x = n.random.default_rng(0).random((4000, 20))
return int(R(20, n_jobs=2).fit(x, x[:, 0] > .5).n_features_in_)
""",
    "joblib": """
import joblib
return sum(joblib.Parallel(2)(joblib.delayed(abs)(-i) for i in range(50)))
""",
    "numba": """
import numba, numpy as n
f = numba.njit(parallel=True)(lambda a: a.sum())
return float(f(n.ones(10**7)))
""",
    "pyarrow": """
import pyarrow as p, pyarrow.compute as c
return c.sum(p.array(range(10**6))).as_py()
""",
    "polars": """
import polars as p
return p.DataFrame({'a': range(10**6)}).select(p.col('a').sum()).item()
""",
    "duckdb": """
import duckdb
return int(duckdb.connect().execute('select sum(i) from range(20000000) t(i)').fetchone()[0])
""",
    "xgboost": """
import numpy as n, xgboost as x
r = n.random.default_rng(0).random((20000, 20))
return int(x.XGBClassifier(n_estimators=20).fit(r, r[:, 0] > .5).predict(r).sum() > 0)
""",
    "lightgbm": """
import numpy as n, lightgbm as x
r = n.random.default_rng(0).random((20000, 20))
return int(x.LGBMClassifier(n_estimators=20, verbose=-1).fit(r, r[:, 0] > .5).predict(r).sum() > 0)
""",
    "opencv": """
import cv2, numpy as n
return int(cv2.GaussianBlur(n.ones((4000, 4000, 3), 'uint8'), (31, 31), 0).max())
""",
    "torch": """
import torch
a = torch.ones(2000, 2000)
return float((a @ a)[0, 0])
""",
    "gloo": """
import torch, torch.distributed as d
d.init_process_group('gloo', init_method='tcp://127.0.0.1:29511', rank=0, world_size=1)
a = torch.ones(10**7)
d.all_reduce(a)
d.destroy_process_group()
return float(a.sum())
""",
    "dataloader": """
import torch.utils.data as d, torch
data = d.TensorDataset(torch.ones(4000, 100))
return sum(len(b[0]) for b in d.DataLoader(data, batch_size=100, num_workers=2))
""",
    "tensorflow": """
import tensorflow as t
a = t.ones((2000, 2000))
return float((a @ a)[0, 0])
""",
    "jax": """
import jax.numpy as j
a = j.ones((2000, 2000))
return float((a @ a)[0, 0])
""",
    "dask": """
import dask.array as d
return float(d.ones((5000, 5000), chunks=1000).sum().compute())
""",
    "ray": """
import ray
ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20)
f = ray.remote(lambda i: i)
r = sum(ray.get([f.remote(i) for i in range(8)]))
ray.shutdown()
return r
""",
    "onnxruntime": """
import numpy as n, onnxruntime as o
def field(i, value):  # of a protobuf message; each of these is shorter than 128 bytes
    return bytes([8 * i, value]) if isinstance(value, int) else bytes([8 * i + 2, len(value)]) + value
floats = field(2, field(1, field(1, 1)))
graph = field(1, field(1, b'x') + field(1, b'x') + field(2, b'y') + field(4, b'MatMul')) + field(2, b'g')
graph += field(11, field(1, b'x') + floats) + field(12, field(1, b'y') + floats)
model = field(1, 8) + field(7, graph) + field(8, field(1, b'') + field(2, 13))
session = o.InferenceSession(model, providers=['CPUExecutionProvider'])
return float(session.run(None, {'x': n.ones((2000, 2000), 'float32')})[0][0, 0])
""",
    "java": """
import pathlib, subprocess, tempfile
with tempfile.TemporaryDirectory() as folder:
    source = pathlib.Path(folder, 'Fills.java')
    source.write_text('class Fills { public static void main(String[] a) {'
                      ' java.util.Arrays.fill(new long[10_000_000], 1); } }')
    return subprocess.run(['java', source], check=True, capture_output=True).returncode
""",
    "node": """
import subprocess
return subprocess.run(['node', '-e', 'Array(1e7).fill(1)'], check=True).returncode
""",
    "threads4": pool_of_threads(4),
    "threads16": pool_of_threads(16),
    "threads64": pool_of_threads(64),
    "subprocesses": """
import subprocess as s, sys
return sum(s.run([sys.executable, '-c', 'b"x" * (80 << 20)'], check=True).returncode for _ in range(10))
""",
}


@dataclass
class LibraryRun:
    """The outcome of one run, as the command reports it."""

    reason: str  #: "done", the reason of --json, or "hangs"
    peak_bytes: int = 0
    suggested: str = ""  #: the limit that the last line of a run without one says would do: 128Mi


@dataclass
class LibraryRow:
    """All cells of one library in one mode."""

    name: str
    mode: str
    cells: dict[str, str] = field(default_factory=dict)

    @property
    def is_right(self) -> bool:
        """Whether no cell is wrong."""
        return not any("✘" in cell for cell in self.cells.values())


def run(hkrunner: Sequence[str], python: Path, program: Path, *options: str) -> LibraryRun:
    """Run a program once through the command."""
    argv = [*hkrunner, "run", "--entry", str(program), "--python", str(python)]
    argv += ["--no-state", "--json", "-i", "1", *options]
    try:
        ended = subprocess.run(
            argv, cwd=program.parent, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return LibraryRun("hangs")
    if not ended.stdout:  # the code could not be loaded, so no task began
        return LibraryRun("MemoryLimit" if ended.returncode == 137 else f"status {ended.returncode}")
    task = json.loads(ended.stdout.splitlines()[-1])
    said = re.search(r" --mem (\S+) would do", ended.stderr)
    reason = "done" if task["status"] == "succeed" else task["reason"]
    return LibraryRun(reason, task["peakMemBytes"] or 0, said[1] if said is not None else "")


def judged(outcome: LibraryRun, right: Sequence[str]) -> str:
    """Return the cell for one run: its reason, marked if it is not one of the expected ones."""
    return outcome.reason if outcome.reason in right else f"✘ {outcome.reason}"


def measure(
    name: str, mode: str, folder: Path, python: Path, hkrunner: Sequence[str], *, sandbox: str, rounds: int
) -> LibraryRow:
    """Make the runs of one row."""
    row = LibraryRow(name, mode)
    program = folder / f"uses_{name}.py"
    body = textwrap.indent(PROGRAMS[name].strip(), "    ")
    program.write_text(f"def start(args):\n{body}\n", encoding="utf-8")
    with_mode = ("--mem-mode", mode, "--sandbox", sandbox)
    free = run(hkrunner, python, program, *with_mode)
    row.cells["free"] = judged(free, ["done"])
    if free.reason != "done":
        return row
    suggested = free.suggested
    row.cells["peak"] = format_bytes(free.peak_bytes)
    enough = [run(hkrunner, python, program, "--mem", suggested, *with_mode) for _ in range(rounds)]
    done = sum(one.reason == "done" for one in enough)
    others = {one.reason for one in enough} - {"done"}
    wrong = f"✘ {', '.join(sorted(others))}" if others else ""
    row.cells[f"suggested x{rounds}"] = f"{suggested} {done}/{rounds} {wrong}".strip()
    for share in (0.4, 0.7):
        little = max(4, int(free.peak_bytes * share) // MI)
        outcome = run(hkrunner, python, program, "--mem", f"{little}Mi", *with_mode)
        row.cells[f"{share:.0%}"] = judged(outcome, ["MemoryLimit"])
    for cores in ("0.5", "1"):
        row.cells[f"cpu {cores}"] = judged(
            run(hkrunner, python, program, "--cpu", cores, *with_mode), ["done"]
        )
    return row


def interpreter(folder: Path) -> Path:
    """Return an interpreter that has the libraries; make its environment if it does not exist."""
    python = folder.absolute() / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return python


def main() -> int:
    """Print the table; the exit status is 1 if a cell is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", default=",".join(PROGRAMS))
    parser.add_argument("--modes", default="auto,rss")
    parser.add_argument("--sandbox", default="basic")
    parser.add_argument("--venv", type=Path)
    parser.add_argument("--hkrunner", default=str(Path(sys.executable).with_name("hkrunner")))
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="hkrunner-libraries-") as made:
        python = interpreter(options.venv or Path(made) / "venv")
        for name in options.only.split(","):
            for mode in options.modes.split(","):
                row = measure(
                    name,
                    mode,
                    Path(made),
                    python,
                    [options.hkrunner],
                    sandbox=options.sandbox,
                    rounds=options.rounds,
                )
                print(
                    f"{row.name:13}{row.mode:6}",
                    " | ".join(f"{k}: {v}" for k, v in row.cells.items()),
                    flush=True,
                )
                rows.append(row)
    wrong = [f"{row.name} ({row.mode})" for row in rows if not row.is_right]
    print(f"{len(rows)} rows, wrong: {', '.join(wrong) or 'none'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
