"""Imports a package that imports forty others, of which the last fills the memory. Writes them beside itself."""

import os
import sys

PACKAGES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "site-packages")
os.makedirs(PACKAGES)
for at in range(40):
    with open(os.path.join(PACKAGES, f"deep_{at}.py"), "w", encoding="utf-8") as file:
        file.write(f"import deep_{at + 1}\n" if at < 39 else "kept = [bytes(10**5) for at in range(10**5)]\n")
sys.path.append(PACKAGES)


def start(args, api):
    import deep_0  # noqa: F401
