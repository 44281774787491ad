"""What settings name, made ready to run: code, interpreter, GPUs, inputs.

All packages above it may import it.
"""
