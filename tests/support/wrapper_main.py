"""Run an algorithm's file under hkube-python-wrapper: python wrapper_main.py FILE. Python 3.8 and newer."""

import importlib.util
import sys

from hkube_python_wrapper import Algorunner

spec = importlib.util.spec_from_file_location("algorithm", sys.argv[1])
algorithm = importlib.util.module_from_spec(spec)
spec.loader.exec_module(algorithm)
Algorunner.Run(
    start=algorithm.start,
    init=getattr(algorithm, "init", None),
    stop=getattr(algorithm, "stop", None),
    exit=getattr(algorithm, "exit", None),
)
