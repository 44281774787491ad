"""Can be imported twice only. The number of imports is kept in the file that COUNT names."""

import os
from pathlib import Path

COUNT = Path(os.environ["COUNT"])
with COUNT.open("a") as file:
    file.write("x")
if COUNT.stat().st_size > 2:
    raise ValueError("once too often")


def start(args, api):
    return "served"
