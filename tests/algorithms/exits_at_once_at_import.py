"""Ends its process while it is imported."""

import os

print("importing", flush=True)
os._exit(3)
