"""Returns which of these modules its process has, and a large list where one is asked for."""

import sys


def start(args, api):
    name, count = args["input"]
    return [name in sys.modules, list(range(count))]
