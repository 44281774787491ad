"""Environment variables that hold numeric libraries to the number of cores that `--cpu` allows."""

from __future__ import annotations

import math
from collections.abc import Mapping

#: Which thread-count variables fall back on OMP_NUM_THREADS: a user who set that one meant these too.
_FOLLOW_OMP = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    *_FOLLOW_OMP,
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "LOKY_MAX_CPU_COUNT",
    "OPENCV_FOR_THREADS_NUM",
    "ARROW_IO_THREADS",  # 8 by itself; Arrow's other pool reads OMP_NUM_THREADS
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "PYTHON_CPU_COUNT",  # os.cpu_count() from Python 3.13, and so the size of its pools
)
_JAVA = "JAVA_TOOL_OPTIONS"
#: Every variable that thread_variables() may add.
NAMES = (*_THREAD_VARIABLES, _JAVA)


def thread_variables(cpu_cores: float | None, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables to add so that numeric libraries start ceil(cpu) threads, not one for each core.

    What the user set is left alone.
    """
    if cpu_cores is None:
        return {}
    count = str(max(1, math.ceil(cpu_cores - 1e-9)))
    left_to_omp = _FOLLOW_OMP if "OMP_NUM_THREADS" in environ else ()
    added = {name: count for name in _THREAD_VARIABLES if name not in environ and name not in left_to_omp}
    if _JAVA not in environ:
        added[_JAVA] = f"-XX:ActiveProcessorCount={count}"  # also sizes its garbage collector
    return added
