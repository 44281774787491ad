"""Makes ready what settings name: code, interpreter, packages, GPUs, inputs.

All packages above it may import it.
"""
